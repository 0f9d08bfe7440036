"""T2T-ViT: tokens to token (Yuan, Chen, Wang, Yu, Shi, Jiang, Tay, Feng, Yan, "Tokens-to-Token ViT:
Training Vision Transformers from Scratch on ImageNet", ICCV 2021, arXiv 2101.11986).

ViT cuts an image into hard patches and loses the lines that run through their borders. T2T cuts
softly, three times: overlapping windows (7×7 every 4 pixels, then twice 3×3 every 2) are each
flattened to one token, and between the cuts a light attention layer mixes all tokens and narrows
them to 64 numbers. The tokens (a sixteenth of the image's size) go through a deep and narrow
transformer with a class token and a fixed sinusoid of positions.

Differences from the official code (yitu-opensource/T2T-ViT), and why:

* any input size from 16 pixels up works, non-square and odd ones too;
* the sinusoid is not in the state dict (a frozen parameter officially); ``pos_embed: learned`` puts a table
  in its place that starts at zero and trains, as PASSL has it;
* the ``qk_scale`` that official factories set under ``pretrained=True`` is left out: no checkpoint
  comes that way, and the published weights are evaluated with d^-0.5;
* its "convolution" token type, a stub without a forward pass, is left out.

Legend: B batch, T tokens between the cuts, N = H·W word tokens, C width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.config import Count, Positive, Share, ShareByEpoch, Width
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.base import Grid, TokenStep, as_pair, halved
from passl_sot.modeling.backbones.plain import PlainBackbone
from passl_sot.nn import ops
from passl_sot.nn.initializers import linear
from passl_sot.nn.performer import TokenPerformer, TokenTransformer

_STRIDE = 16  # of the three cuts together: 4, 2, 2


def _soft_split(x_bchw: paddle.Tensor, kernel: int, stride: int) -> paddle.Tensor:
    """Overlapping windows as tokens ``[B, T, C·kernel²]``, channels outermost, zeros beyond the border."""
    # Padding 2 for 7×7 windows, not half a window: the official choice.
    padding = {7: 2, 3: 1}[kernel]
    return F.unfold(x_bchw, kernel, stride, padding).transpose([0, 2, 1])


class _TokensToToken(nn.Layer):
    """Cut, attend, cut, attend, cut, project."""

    # Numbers of a window in the order of `ops.windows`, in place of that of the published weights. Set by
    # `export.folding`, which puts the weights that read them into this order too.
    pixels_outermost = False

    def __init__(self, tokens_type: str, in_chans: int, embed_dim: int, token_dim: int) -> None:
        super().__init__()
        kind: Callable[..., nn.Layer] = TokenTransformer
        if tokens_type == "performer":
            # Random features of half the width, and its own dropout at any drop_rate: as officially.
            kind = partial(TokenPerformer, num_features=token_dim // 2)
        self.width = token_dim
        self.attention1 = kind(in_chans * 49, token_dim)
        self.attention2 = kind(token_dim * 9, token_dim)
        self.project = linear(token_dim * 9, embed_dim)
        # Layers that read windows, and pixels of a window.
        readers = [f"attention1.{name}" for name in self.attention1.reads_tokens]
        self.reads_windows = dict.fromkeys(readers, 49)
        readers = [f"attention2.{name}" for name in self.attention2.reads_tokens]
        self.reads_windows |= dict.fromkeys([*readers, "project"], 9)

    def forward(
        self, x_bchw: paddle.Tensor, grids: list[Grid], run: Callable[..., paddle.Tensor]
    ) -> paddle.Tensor:
        """Images to tokens ``[B, N, C]``; ``run`` calls a layer (with recomputation where wanted)."""
        if self.pixels_outermost:
            x = run(self.attention1, ops.windows(x_bchw.transpose([0, 2, 3, 1]), 7, 4, 2, grids[0]))
            x = run(self.attention2, ops.windows(x.reshape([0, *grids[0], self.width]), 3, 2, 1, grids[1]))
            return self.project(ops.windows(x.reshape([0, *grids[1], self.width]), 3, 2, 1, grids[2]))
        # The grids are carried along: the official code takes the square root of the number of tokens.
        x = run(self.attention1, _soft_split(x_bchw, 7, 4)).transpose([0, 2, 1])
        x = run(self.attention2, _soft_split(x.reshape([0, 0, *grids[0]]), 3, 2)).transpose([0, 2, 1])
        return self.project(_soft_split(x.reshape([0, 0, *grids[1]]), 3, 2))


@BACKBONES.register()
class T2TViT(PlainBackbone):
    """The T2T-ViT backbone; all published sizes are in ``configs/t2t_vit/``.

    Other arguments are those of ``PlainBackbone`` and ``ImageBackbone``.

    Args:
        tokens_type: Attention between the cuts: "performer" (linear time) or "transformer" (softmax;
            the published ``t`` models).
        token_dim: Width of the tokens between the cuts (64 in every published model).
        pos_embed: "sinusoid" for the fixed table, "learned" for one from zero (PASSL's), which is decayed.
    """

    size_obstacle = ""

    def __init__(
        self,
        *,
        img_size: Count | list[Count] = 224,
        in_chans: Count = 3,
        embed_dim: Width = 384,
        depth: Count = 14,
        num_heads: Count = 6,
        mlp_ratio: Positive = 3.0,
        tokens_type: Literal["performer", "transformer"] = "performer",
        token_dim: Count = 64,
        qkv_bias: bool = False,
        drop_rate: Share = 0.0,
        attn_drop_rate: Share = 0.0,
        drop_path_rate: ShareByEpoch = 0.0,
        pos_embed: Literal["sinusoid", "learned"] = "sinusoid",
    ) -> None:
        super().__init__(in_chans, embed_dim, 1, [depth])
        if token_dim < 2:
            raise ValueError(f"T2TViT: token_dim must be at least 2, got {token_dim}")
        self.tokens_type = tokens_type
        self.tokens_to_token = _TokensToToken(tokens_type, in_chans, embed_dim, token_dim)
        self.add_prefix_tokens()
        self.add_blocks(num_heads, mlp_ratio, qkv_bias, drop_rate, attn_drop_rate, drop_path_rate, 1e-5)
        self.learns_positions = pos_embed == "learned"
        if self.learns_positions:
            self.add_position_table(self._cut(as_pair(img_size))[-1], _STRIDE, zero=True)
        self.resize(img_size)

    def _cut(self, size: tuple[int, int]) -> list[Grid]:
        """The tokens' grids after each of the three cuts."""
        self.check_size(size, _STRIDE, "whole token")
        return self._grids_of(*size)

    def _grids_of(self, height: Any, width: Any) -> list[tuple[Any, Any]]:
        # A size that is no multiple of 16 gets the tokens that its windows give, rounded up: the first
        # cut's 7×7 windows with padding 2 need 3 pixels at least, every 4.
        first = ((height - 3) // 4 + 1, (width - 3) // 4 + 1)
        return [first, halved(first), halved(halved(first))]

    def _plan(self, size: tuple[int, int]) -> None:
        self._cut_grids = self._cut(size)
        grid = self._cut_grids[-1]
        if self.learns_positions:
            self.resize_position_table(grid)
        self.plan_grid(grid, _STRIDE)
        # Made anew, as the authors did for 384 pixels; their interpolating loader for transfer cannot run
        # (it misses two imports).
        if not self.learns_positions:
            self.use_sinusoid()

    def open_size(self) -> None:
        """See :meth:`ImageBackbone.open_size`."""
        super().open_size()
        # Of runs whose lengths are computed in the graph, OpenVINO gives others than Paddle does.
        self.tokens_to_token.reads_windows = {}

    def make_words(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images ``[B, in_chans, H, W]`` to word tokens ``[B, N, C]``."""
        grids = self._cut_grids
        if self.size_open:
            grids = self._grids_of(*x_bchw.shape[2:])
        return self.tokens_to_token(x_bchw, grids, self.run_block)

    def token_steps(self) -> list[TokenStep]:
        """See `ImageBackbone.token_steps`: cut, attend, cut, attend, cut, project."""
        module = self.tokens_to_token
        layers = (module.attention1, module.attention2, module.project)
        titles = (f"{self.tokens_type} 1", f"{self.tokens_type} 2", "projection")
        # A 3×3 window of 7-pixel windows every 4 pixels spans 15, and one of these 31; padding adds up too.
        windows = ((7, -2), (15, -6), (31, -14))
        steps = []
        for i in range(3):
            place: dict[str, Any] = {"layer": layers[i], "stride": 4 * 2**i, "grid": self._cut_grids[i]}
            cut = ("7×7 pixels every 4", "3×3 tokens every 2", "3×3 tokens every 2")[i]
            steps.append(TokenStep(f"soft split {i + 1}: {cut}", **place, enters=True, window=windows[i]))
            steps.append(TokenStep(titles[i], **place))
        return steps

    def grid_of(self, height: Any, width: Any) -> tuple[Any, Any]:
        """See :meth:`PlainBackbone.grid_of`."""
        return self._grids_of(height, width)[-1]

    def no_weight_decay(self) -> set[str]:
        """The class token, as in the official code; a learned table is decayed, as by PASSL."""
        return {"cls_token"}
