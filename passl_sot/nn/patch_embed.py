"""Patch embedding: ViT's linear projection of image patches.

Legend: B batch, N = H·W patches, C embedding width, p side of a patch.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn.initializers import conv2d

__all__ = ["PatchEmbed"]


class PatchEmbed(nn.Layer):
    """Non-overlapping patches through one Linear; the weight has the shape of a convolution.

    Pixels right and below of the last whole patch are left out, as by a strided convolution.
    The projection is written as a matrix product: on a CPU Paddle is slow at convolutions with few
    input channels.

    Args:
        patch_size: Side p of a patch in pixels.
        in_chans: Input channels.
        embed_dim: Width C of the tokens.
        norm_epsilon: Epsilon of a LayerNorm on the tokens; None for no such layer.
    """

    def __init__(
        self, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 768, norm_epsilon: float | None = None
    ) -> None:
        super().__init__()
        if patch_size < 1:
            raise ValueError(f"patch_size must be at least 1, got {patch_size}")
        self.stride = patch_size
        self.proj = conv2d(in_chans, embed_dim, patch_size, stride=patch_size)
        self.norm = None if norm_epsilon is None else nn.LayerNorm(embed_dim, epsilon=norm_epsilon)

    def grid_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in an image of that size."""
        return height // self.stride, width // self.stride

    def resize(self, img_size: tuple[int, int]) -> None:
        """Check that another input size works; there is nothing to change.

        Raises:
            ValueError: The size gives no patch; the message names the nearest that does.
        """
        if min(img_size) < self.stride:
            height, width = (max(side, self.stride) for side in img_size)
            raise ValueError(
                f"an image of {img_size[0]}x{img_size[1]} holds no patch of {self.stride} pixels: the nearest "
                f"valid size is {height}x{width}"
            )

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bchw: images ``[B, in_chans, H, W]``. Returns: ``[B, N, C]``, row by row."""
        p = self.stride
        in_chans = self.proj.weight.shape[1]
        rows, columns = self.grid_size(*x_bchw.shape[2:])
        if rows * p != x_bchw.shape[2] or columns * p != x_bchw.shape[3]:
            x_bchw = x_bchw[:, :, : rows * p, : columns * p]
        patches = x_bchw.reshape([-1, in_chans, rows, p, columns, p]).transpose([0, 2, 4, 1, 3, 5])
        patches = patches.reshape([-1, rows * columns, in_chans * p * p])
        weight = self.proj.weight.reshape([self.proj.weight.shape[0], -1]).t()
        x = F.linear(patches, weight, self.proj.bias)
        return x if self.norm is None else self.norm(x)
