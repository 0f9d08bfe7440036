"""Backbones of one width and one grid, as the ViT has them.

Legend: B batch, P prefix tokens (class, distillation), N = H·W word tokens, C width.
"""

from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn

from passl_sot.modeling.backbones.base import Grid, ImageBackbone, prepend
from passl_sot.nn.block import Attention, Block
from passl_sot.nn.layers import LayerNorm
from passl_sot.nn.position import interpolate_map, resize_parameter, resize_position_table, sinusoid_table

_PREFIX_TOKENS = ("cls_token", "dist_token")


class PlainBackbone(ImageBackbone):
    """Base of backbones of one width and one grid: ``make_words``, prefix tokens, ``blocks``, ``norm``.

    A constructor makes the layers of ``make_words``, then calls ``add_prefix_tokens`` and ``add_blocks``;
    ``_plan`` calls ``plan_grid``. The setting ``embed_dim`` is the width C of the tokens.
    """

    blocks: nn.LayerList  # each from [B, P+N, C] to the same shape
    pos_embed: paddle.Tensor  # [1, P+N, C]

    def add_prefix_tokens(self) -> None:
        """Make the learned class token, and the distillation token behind it."""
        for name in _PREFIX_TOKENS[: self.num_prefix_tokens]:
            setattr(self, name, self.learned([1, 1, self.num_features]))

    def add_blocks(
        self,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        dropout: float,
        attn_dropout: float,
        drop_path: float | Mapping[str, float | str],
        norm_epsilon: float,
    ) -> None:
        """Make the dropout after the position table, the blocks, and the norm behind them."""
        width = self.num_features
        self.pos_drop = nn.Dropout(dropout)
        self.blocks = nn.LayerList(
            Block(width, num_heads, mlp_ratio, qkv_bias, dropout, attn_dropout, norm_epsilon)
            for _ in range(self.depths[0])
        )
        self.norm = LayerNorm(width, epsilon=norm_epsilon)
        self.schedule_drop_path(drop_path)

    def plan_grid(self, grid: Grid, stride: int) -> None:
        """Note the rows and columns of the words, and how many pixels one has along each side."""
        depth = self.depths[0]
        modules = [f"blocks.{i}" for i in range(depth)]
        self.plan_maps(modules, [self.num_features] * depth, [stride] * depth, [grid] * depth)

    def add_position_table(self, grid: Grid, stride: int, zero: bool = False) -> None:
        """Plan for a grid and make its learned position table, which starts as class tokens do, or at 0."""
        self.plan_grid(grid, stride)
        shape = [1, self.num_prefix_tokens + grid[0] * grid[1], self.num_features]
        start = nn.initializer.Constant(0.0)
        self.pos_embed = (
            self.create_parameter(shape, default_initializer=start) if zero else self.learned(shape)
        )

    def resize_position_table(self, grid: Grid) -> None:
        """Bring the learned position table to another grid than the present one, bicubically."""
        if grid != self.grid_size:
            where = (self.num_prefix_tokens, self.grid_size, grid)
            resize_parameter(self, "pos_embed", lambda table: resize_position_table(table, *where))

    def use_sinusoid(self, factor: int = 1) -> None:
        """Make the fixed position table for the grid, or for ``factor`` times as many words."""
        rows, columns = self.grid_size
        # From row 1 on without a class token, so that a word has the same position either way.
        table = sinusoid_table(1 + factor * rows * columns, self.num_features)[
            :, 1 - self.num_prefix_tokens :
        ]
        # Recomputed from the size, hence never saved: checkpoints of any size load.
        self.register_buffer("pos_embed", table.astype(self.blocks[0].norm1.weight.dtype), persistable=False)

    def make_words(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images ``[B, in_chans, H, W]`` to word tokens ``[B, N, C]``, row by row."""
        raise NotImplementedError

    def embed(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images ``[B, in_chans, H, W]`` to the tokens before the first block ``[B, P+N, C]``."""
        self.check_images(x_bchw)
        if self.size_open:
            self.grids = [self.grid_of(*x_bchw.shape[2:])] * self.depths[0]
        x = self.make_words(x_bchw)
        if self.num_prefix_tokens:
            x = prepend([getattr(self, name) for name in _PREFIX_TOKENS[: self.num_prefix_tokens]], x)
        return self.pos_drop(x + self.positions(x, x_bchw))

    def grid_of(self, height: Any, width: Any) -> tuple[Any, Any]:
        """Rows and columns of the words of an image; in a traced graph sizes may be variables."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many words an image has (grid_of)")

    def positions(self, x_bnc: paddle.Tensor, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """The position table of tokens ``[B, P+N, C]`` of images."""
        if not self.size_open:
            return self.pos_embed
        if "pos_embed" in self._buffers:
            # A sinusoid knows no grid: row by row the same.
            count = x_bnc.shape[1]
            if paddle.in_dynamic_mode() and count > self.pos_embed.shape[1]:
                self.use_sinusoid(-(-count // (self.grid_size[0] * self.grid_size[1])))
            return self.pos_embed[:, :count]
        prefix = self.num_prefix_tokens
        words = self.pos_embed[:, prefix:].transpose([0, 2, 1]).reshape([1, -1, *self.grid_size])
        words = interpolate_map(words, self.grid_of(*x_bchw.shape[2:])).flatten(2).transpose([0, 2, 1])
        return paddle.concat([self.pos_embed[:, :prefix], words], axis=1)

    def open_size(self) -> None:
        """See :meth:`ImageBackbone.open_size`; in a graph a sinusoid serves up to 4 times as many words."""
        super().open_size()
        if "pos_embed" in self._buffers:
            self.use_sinusoid(4)

    def localizing_layer(self) -> tuple[int, nn.Layer]:
        """See `Backbone.localizing_layer`; what the last attention reads."""
        # Behind the last attention words no longer reach the class token: its logits have no gradient there.
        return len(self.blocks) - 1, self.blocks[-1].norm1

    def attentions(self) -> list[tuple[int, Attention]]:
        """See `Backbone.attentions`."""
        return [(i, block.attn) for i, block in enumerate(self.blocks)]

    def run_stage(self, s: int, x: paddle.Tensor) -> paddle.Tensor:
        """Block s, on ``[B, P+N, C]``."""
        return self.run_block(self.blocks[s], x)
