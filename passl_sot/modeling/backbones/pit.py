"""PiT: pooling-based vision transformer (Heo, Yun, Han, Chun, Choe, Oh, "Rethinking Spatial Dimensions
of Vision Transformers", ICCV 2021, arXiv 2103.16302).

Convolutional networks shrink the image and widen the channels as they go deeper; ViT keeps both
fixed. PiT gives a transformer their shape: overlapping patches, then three stages of plain blocks,
and between stages a pooling that halves the grid of words by a strided depth-wise convolution (two
output channels per input channel) while one Linear widens the class tokens alongside. The learned
position map has the form of the image and is added to the words only.

Differences from the official code (naver-ai/pit), and why:

* any input size from one patch up works, non-square ones too, where the official grid is fixed by
  the constructor;
* the final norm covers ALL tokens, not the class tokens only, so that heads which use words (the
  second-order head) get normalized ones;
* ``distilled`` is one switch instead of a second class, and its head is ``DistilledHead``.

Legend: B batch, P class tokens, N = H·W word tokens, C width of a stage, s stage.
"""

from collections.abc import Sequence
from itertools import pairwise

import paddle
from paddle import nn

from passl_sot.config import Count, Positive, Share, ShareByEpoch
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.base import Grid, TokenStep, as_pair, prepend
from passl_sot.modeling.backbones.staged import Stage, StagedBackbone
from passl_sot.nn.block import Attention, Block
from passl_sot.nn.initializers import conv2d, linear, torch_default_
from passl_sot.nn.layers import LayerNorm
from passl_sot.nn.position import interpolate_map, resize_parameter, resize_position_map


class _Pool(nn.Layer):
    """Half the grid and another width: depthwise convolution for words, Linear for class tokens."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = conv2d(in_dim, out_dim, 3, stride=2, padding=1, groups=in_dim)
        self.fc = linear(in_dim, out_dim)

    def forward(self, x_bnc: paddle.Tensor, prefix: int, grid: Grid) -> paddle.Tensor:
        """Tokens ``[B, P+N, C]`` over the grid to ``[B, P+N', C']``."""
        words = x_bnc[:, prefix:].transpose([0, 2, 1]).reshape([0, 0, *grid])
        # Two output channels per input channel, so that the width grows without mixing channels.
        words = self.conv(words).flatten(2).transpose([0, 2, 1])
        return paddle.concat([self.fc(x_bnc[:, :prefix]), words], axis=1)


@BACKBONES.register()
class PiT(StagedBackbone):
    """The PiT backbone; all published sizes are in ``configs/pit/``.

    Other arguments are those of ``ImageBackbone``.

    Args:
        patch_size: Side of a patch in pixels.
        stride: Pixels from one patch to the next.
        head_dim: Width of one attention head, the same in all stages.
        num_heads: Heads of each stage; its width C is ``head_dim`` times as many. Each a multiple of
            the one before, as the pooling convolution is depth-wise.
        distilled: Whether a second class token, for distillation, goes along.
        drop_path_rate: Stochastic depth; block i of L drops with this rate times i/L. Or a schedule.
    """

    size_obstacle = ""

    def __init__(
        self,
        *,
        img_size: Count | list[Count] = 224,
        in_chans: Count = 3,
        patch_size: Count = 16,
        stride: Count = 8,
        head_dim: Count = 48,
        depths: list[Count] | tuple[Count, ...] = (2, 6, 4),
        num_heads: list[Count] | tuple[Count, ...] = (3, 6, 12),
        mlp_ratio: Positive = 4.0,
        distilled: bool = False,
        drop_rate: Share = 0.0,
        attn_drop_rate: Share = 0.0,
        drop_path_rate: ShareByEpoch = 0.0,
    ) -> None:
        self._check_stages(depths, num_heads)
        dims = [head_dim * heads for heads in num_heads]
        super().__init__(in_chans, dims[-1], 1 + distilled, depths)
        self.patch_size = patch_size
        self.stride = stride
        self.dims = dims
        grid = self._first_grid(as_pair(img_size))
        self.pos_embed = self.learned([1, dims[0], *grid])
        self.cls_token = self.learned([1, self.num_prefix_tokens, dims[0]])
        self.patch_embed = nn.Sequential(("conv", conv2d(in_chans, dims[0], patch_size, stride)))
        self.pos_drop = nn.Dropout(drop_rate)

        self.transformers = nn.LayerList()
        for dim, depth, heads in zip(dims, depths, num_heads, strict=True):
            settings = (dim, heads, mlp_ratio, True, drop_rate, attn_drop_rate, 1e-6)
            self.transformers.append(Stage(Block(*settings) for _ in range(depth)))
        self.pools = nn.LayerList(_Pool(a, b) for a, b in pairwise(dims))
        # Token by token: a head that reads class tokens alone gets the official numbers and gradients.
        self.norm = LayerNorm(dims[-1], epsilon=1e-6)
        # The authors initialize no Linear; only tables and class tokens are normal with std 0.02.
        torch_default_(self)
        self.schedule_drop_path(drop_path_rate)
        self.resize(img_size)

    def rates_of_blocks(self, rate: float, depth: int) -> list[float]:
        """See `Backbone.rates_of_blocks`; block i of L has rate·i/L."""
        # Hence not even the last block reaches the rate, as in the official code.
        return [rate * i / depth for i in range(depth)]

    @staticmethod
    def _check_stages(depths: Sequence[int], num_heads: Sequence[int]) -> None:
        if len(depths) != len(num_heads) or not depths:
            raise ValueError(
                "PiT: depths and num_heads name the stages one by one, got "
                f"{list(depths)} and {list(num_heads)}"
            )
        for before, after in pairwise(num_heads):
            if after % before:
                raise ValueError(
                    f"PiT: num_heads must be multiples of the stage before, got {before} and then {after}"
                )

    def _first_grid(self, size: tuple[int, int]) -> Grid:
        self.check_size(size, self.patch_size, "patch")
        rows, columns = ((side - self.patch_size) // self.stride + 1 for side in size)
        return rows, columns

    def _plan(self, size: tuple[int, int]) -> None:
        grid = self._first_grid(size)
        # Bicubically. The official code has no interpolation; no class token lies in the map, so that nothing
        # stands in its way.
        if tuple(self.pos_embed.shape[2:]) != grid:
            resize_parameter(self, "pos_embed", lambda table: resize_position_map(table, grid))
        self.plan_stages(self.stride, grid, "transformers.{}")

    def embed(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """See `ImageBackbone.embed`; gives ``[B, P+N, C]``."""
        self.check_images(x_bchw)
        # Positions are for words only: the map has the form of the image.
        words = self.patch_embed(x_bchw)
        table = self.pos_embed
        if self.size_open:
            grid = words.shape[2:]
            table = interpolate_map(table, grid)
            self.grids = self.grids_of_stages(grid)
        words = self.pos_drop(words + table)
        words = words.flatten(2).transpose([0, 2, 1])
        return prepend([self.cls_token[:, i : i + 1] for i in range(self.num_prefix_tokens)], words)

    def token_steps(self) -> list[TokenStep]:
        """See `ImageBackbone.token_steps`: overlapping patches."""
        window = (self.patch_size, 0)
        return [TokenStep("patch embedding", self.patch_embed, self.stride, window=window)]

    def run_stage(self, s: int, x: paddle.Tensor) -> paddle.Tensor:
        """The blocks of stage s, on ``[B, P+N, C]``; before them the pooling that leads to it."""
        if s:
            x = self.pools[s - 1](x, self.num_prefix_tokens, self.grids[s - 1])
        return self.run_blocks(self.transformers[s].blocks, x)

    def localizing_layer(self) -> tuple[int, nn.Layer]:
        """See `Backbone.localizing_layer`; what the last attention before the last stage reads."""
        # The class token has read most by then, and the few tokens of the last stage hardly tell places.
        s = max(len(self.transformers) - 2, 0)
        return s, self.transformers[s].blocks[-1].norm1

    def attentions(self) -> list[tuple[int, Attention]]:
        """See `Backbone.attentions`."""
        return [(s, block.attn) for s, stage in enumerate(self.transformers) for block in stage.blocks]

    def no_weight_decay(self) -> set[str]:
        """The position map and the class tokens, as in the official code."""
        return {"pos_embed", "cls_token"}
