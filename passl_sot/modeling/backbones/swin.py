"""Swin: hierarchical transformer with shifted windows (Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo, "Swin
Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030).

Attention inside windows of 7×7 tokens costs no more per token on a large image than on a small one;
every second block shifts its windows by half a side, so that neighbors meet. Between stages, 2×2
tokens become one of twice the width. There is no class token: ``LinearHead`` with ``pool: mean``,
or ``SecondOrderHead`` with ``num_prefix_tokens: 0``, reads the tokens of the last stage.

Differences from the official code (microsoft/Swin-Transformer):

* any size works, non-square ones too: grids are padded by zeros on the right and below. Where nothing is
  padded, results are equal;
* masks and index tables are no part of the state dict;
* no absolute position table (off in every published model).

Legend: B batch, L = H·W tokens of a stage, C its width.
"""

from collections.abc import Sequence
from typing import Literal

import paddle
from paddle import nn

from passl_sot.config import Count, Positive, Share, ShareByEpoch, Width
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.base import as_pair, halved
from passl_sot.modeling.backbones.staged import Stage, StagedBackbone
from passl_sot.nn import ops
from passl_sot.nn.block import Attention, Block
from passl_sot.nn.initializers import linear
from passl_sot.nn.layers import LayerNorm
from passl_sot.nn.patch_embed import PatchEmbed
from passl_sot.nn.token_embed import TokenEmbed
from passl_sot.nn.window import WindowAttention


class _PatchMerging(nn.Layer):
    """2×2 tokens side by side, LayerNorm, Linear without bias: half the sides, twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.grid = (0, 0)
        self.norm = LayerNorm(4 * dim, epsilon=1e-5)
        self.reduction = linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x_blc: paddle.Tensor) -> paddle.Tensor:
        """Args: x_blc: ``[B, L, C]``. Returns: ``[B, L/4, 2C]``, odd grids rounded up."""
        height, width = self.grid
        # As in the authors' detection code; their classification code refuses odd grids.
        if height % 2 or width % 2:
            x = x_blc.reshape([-1, height, width, self.dim])
            x_blc = ops.pad_grid(x, height % 2, width % 2)
        rows, columns = halved(self.grid)
        # The official order is down before right: (0,0), (1,0), (0,1), (1,1).
        x = x_blc.reshape([-1, 2, columns, 2, self.dim]).transpose([0, 2, 3, 1, 4])
        return self.reduction(self.norm(x.reshape([-1, rows * columns, 4 * self.dim])))


@BACKBONES.register()
class Swin(StagedBackbone):
    """The Swin backbone; sizes Tiny, Small and Base are in ``configs/swin/``.

    Other arguments are those of ``ImageBackbone``.

    Args:
        patch_size: Side of a patch in pixels; not read with ``token_embed``.
        embed_dim: Width of the first stage; it doubles with every further one.
        window_size: Side of a window in tokens, or a list of one for each stage.
        patch_norm: Whether a LayerNorm follows the patch projection.
        token_embed: "DenseNet" for SoT's embedding, stopped at a quarter of the image size, in place of the
            patch projection and its norm (arXiv 2104.10935, section 4: "Swin + ours").
        token_dim: Width of its stem.
    """

    size_obstacle = "its windows, and the masks between shifted ones, are laid out for one size"

    def __init__(
        self,
        *,
        img_size: Count | list[Count] = 224,
        patch_size: Count = 4,
        in_chans: Count = 3,
        embed_dim: Width = 96,
        depths: list[Count],
        num_heads: list[Count],
        window_size: Count | list[Count] = 7,
        mlp_ratio: Positive = 4.0,
        qkv_bias: bool = True,
        drop_rate: Share = 0.0,
        attn_drop_rate: Share = 0.0,
        drop_path_rate: ShareByEpoch = 0.0,
        patch_norm: bool = True,
        token_embed: Literal["DenseNet"] | None = None,
        token_dim: Count = 64,
    ) -> None:
        if not depths or len(depths) != len(num_heads):
            raise ValueError(
                "Swin: depths and num_heads must be as many, and depths at least 1, got "
                f"{depths}, {num_heads}"
            )
        dims = [embed_dim * 2**s for s in range(len(depths))]
        super().__init__(in_chans, dims[-1], 0, depths)
        self.dims = dims
        size = as_pair(img_size)
        self.window_size = self._windows(window_size)
        if token_embed is None:
            self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, 1e-5 if patch_norm else None)
            self.patch_embed.resize(size)
        else:
            self.patch_embed = TokenEmbed(
                token_embed, size, in_chans, embed_dim, token_dim, large_output=True
            )
        self.pos_drop = nn.Dropout(drop_rate)
        self.layers = nn.LayerList()
        grid = self.patch_embed.grid_size(*size)
        for s, (dim, depth, heads) in enumerate(zip(dims, depths, num_heads, strict=True)):
            blocks = []
            for i in range(depth):
                attn = WindowAttention(
                    dim, heads, grid, self.window_size[s], i % 2 == 1, qkv_bias, attn_drop_rate, drop_rate
                )
                blocks.append(Block(dim, heads, mlp_ratio, dropout=drop_rate, norm_epsilon=1e-5, attn=attn))
            self.layers.append(Stage(blocks, _PatchMerging(dim) if s < len(depths) - 1 else None))
            grid = halved(grid)
        self.norm = LayerNorm(self.num_features, epsilon=1e-5)
        self.schedule_drop_path(drop_path_rate)
        self.resize(size)

    def _windows(self, window_size: int | Sequence[int]) -> list[int]:
        """The window of each stage; a ValueError for another number of them, or one below 1."""
        stages = len(self.depths)
        windows = [window_size] * stages if isinstance(window_size, int) else list(window_size)
        if len(windows) != stages or min(windows) < 1:
            raise ValueError(
                f"Swin: window_size must be at least 1, one number or one for each of the {stages} stages, "
                f"got {window_size}"
            )
        return windows

    def resize(self, img_size: int | Sequence[int], window_size: int | Sequence[int] | None = None) -> None:
        """See `ImageBackbone.resize`; bias tables are interpolated in blocks whose window changes.

        That is where a grid becomes smaller than the window, or with another ``window_size`` (12 for the
        published models at 384 pixels; None leaves it as it is).
        """
        size = as_pair(img_size)
        windows = self.window_size if window_size is None else self._windows(window_size)
        self.patch_embed.resize(size)
        self.img_size = size
        self.window_size = windows
        self.plan_stages(self.patch_embed.stride, self.patch_embed.grid_size(*size))
        for stage, grid, window in zip(self.layers, self.grids, windows, strict=True):
            for block in stage.blocks:
                # Bicubically, as the authors' loading brings tables to other windows.
                block.attn.plan(grid, window)
            if stage.downsample is not None:
                stage.downsample.grid = grid

    def open_size(self) -> None:
        """See `ImageBackbone.open_size`; windows stay whole, as in the authors' detection code."""
        super().open_size()
        self._plan_windows(self.img_size)

    def _plan_windows(self, size: tuple[int, int]) -> None:
        """Whole windows for images of that size, and their masks."""
        self.grids = self.grids_of_stages(self.patch_embed.grid_size(*size))
        self.open_grid = self.grids[0]
        for stage, grid, window in zip(self.layers, self.grids, self.window_size, strict=True):
            # The first two blocks' plans serve all: masks of large images take time and memory.
            for i, block in enumerate(stage.blocks):
                if i < 2:
                    block.attn.plan(grid, window, whole=True)
                else:
                    block.attn.share_plan(stage.blocks[i % 2].attn)
            if stage.downsample is not None:
                stage.downsample.grid = grid

    def embed(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """See `ImageBackbone.embed`."""
        if self.size_open and self.patch_embed.grid_size(*x_bchw.shape[2:]) != self.open_grid:
            self._plan_windows(tuple(x_bchw.shape[2:]))
        return super().embed(x_bchw)

    def attentions(self) -> list[tuple[int, Attention]]:
        """See `Backbone.attentions`."""
        return [(s, block.attn) for s, stage in enumerate(self.layers) for block in stage.blocks]

    def no_weight_decay(self) -> set[str]:
        """The bias tables of relative positions."""
        return {name for name, _ in self.named_parameters() if name.endswith("relative_position_bias_table")}
