"""Patch embedding, ViT's linear projection of image patches.

Legend: B batch, N = H·W patches, C embedding width, p side of a patch.
"""

from typing import Any

import paddle
from paddle import nn

from passl_sot.nn import ops
from passl_sot.nn.initializers import uniform_fan_in_
from passl_sot.nn.layers import LayerNorm


def _has_rest(side: Any, patch: int) -> bool:
    # A traced graph may not know the side: it is a variable there.
    return not isinstance(side, int) or side % patch != 0


class _PatchProjection(nn.Conv2D):
    """A convolution whose kernel is its stride."""

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        # As a matrix product: Paddle takes 1.4 (kernel 16) to 3.7 times (kernel 4) as long for the
        # convolution on a CPU.
        width, in_chans, p, _ = self.weight.shape
        rows = x_bchw.shape[2] // p
        columns = x_bchw.shape[3] // p
        if any(_has_rest(side, p) for side in x_bchw.shape[2:]):
            x_bchw = x_bchw[:, :, : rows * p, : columns * p]
        patches = x_bchw.reshape([-1, in_chans, rows, p, columns, p]).transpose([0, 2, 4, 1, 3, 5])
        patches = patches.reshape([-1, rows * columns, in_chans * p * p])
        return ops.linear(patches, self.weight.reshape([width, -1]).t(), self.bias)


class PatchEmbed(nn.Layer):
    """Non-overlapping patches through one Linear; the weight has the shape of a convolution.

    Pixels right and below of the last whole patch are left out, as by a strided convolution.
    ``norm_epsilon`` is that of a LayerNorm on the tokens; None for no such layer.
    """

    def __init__(
        self, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 768, norm_epsilon: float | None = None
    ) -> None:
        super().__init__()
        if patch_size < 1:
            raise ValueError(f"patch_size must be at least 1, got {patch_size}")
        self.stride = patch_size
        self.proj = _PatchProjection(in_chans, embed_dim, patch_size, stride=patch_size)
        uniform_fan_in_(self.proj, in_chans * patch_size**2)
        self.norm = None
        if norm_epsilon is not None:
            self.norm = LayerNorm(embed_dim, epsilon=norm_epsilon)

    def grid_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in an image of that size."""
        return height // self.stride, width // self.stride

    def resize(self, img_size: tuple[int, int]) -> None:
        """Raise a ValueError for a size that gives no patch; there is nothing to change for others."""
        if min(img_size) < self.stride:
            height, width = (max(side, self.stride) for side in img_size)
            raise ValueError(
                f"an image of {img_size[0]}x{img_size[1]} holds no patch of {self.stride} pixels: the "
                f"nearest valid size is {height}x{width}"
            )

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bchw: images ``[B, in_chans, H, W]``. Returns: ``[B, N, C]``, row by row."""
        x = self.proj(x_bchw)
        return x if self.norm is None else self.norm(x)
