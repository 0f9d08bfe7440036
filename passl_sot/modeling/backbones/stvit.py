"""STViT: vision transformer with super-token sampling (Huang, Zhou, Cao, He, Tan, "Vision Transformer
with Super Token Sampling", CVPR 2023, arXiv 2211.11167).

A convolutional stem and four stages at a quarter to a thirty-second of the image's size. A block
adds a depthwise convolution of its input (which tells positions), then attention, then an MLP with
a depthwise convolution inside. In the first two stages the attention is among few super tokens
sampled from the pixels (``SuperTokenAttention``), in the last two among all tokens.

Differences from the official code (hhb072/STViT):

* the tail's 1×1 convolution, BatchNorm and Swish belong to the backbone, so that it gives tokens as
  every backbone does, for ``LinearHead`` with ``pool: mean`` or the second-order head;
* the frozen kernels that gather super tokens are index tables, and not in the state dict;
* 1×1 convolutions are matrix products, their weights those of Linear layers; biases and identities
  of the depthwise convolutions are merged into neighboring products. Sums run in another order.

Any image size works: there is no position table, and windows that don't fit are padded.

Legend: B batch, C width, H rows, W columns, N = H·W tokens.
"""

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.config import Count, Positive, Share, ShareByEpoch, Width
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.base import halved
from passl_sot.modeling.backbones.staged import Stage, StagedBackbone
from passl_sot.nn.batch_norm import batch_norm
from passl_sot.nn.block import Attention
from passl_sot.nn.conv_mlp import Conv3x3, ConvMlp, ResidualDepthwise
from passl_sot.nn.initializers import torch_default_
from passl_sot.nn.layers import GELU, DropPath, LayerNorm, Linear
from passl_sot.nn.super_tokens import SuperTokenAttention


def _stem(in_chans: int, dim: int) -> nn.Layer:
    """Four 3×3 convolutions, each with GELU and then BatchNorm; the first and third halve the size."""
    layers: list[nn.Layer] = []
    width = in_chans
    for out, stride in ((dim // 2, 2), (dim // 2, 1), (dim, 2), (dim, 1)):
        # GELU before BatchNorm, unlike usual: the official order.
        layers += [Conv3x3(width, out, stride), GELU(), batch_norm(out)]
        width = out
    return nn.Sequential(("proj", nn.Sequential(*layers)))


def _downsample(dim: int, out_dim: int) -> nn.Layer:
    return nn.Sequential(("proj", nn.Sequential(Conv3x3(dim, out_dim, 2), batch_norm(out_dim))))


class _Block(nn.Layer):
    """x += DWConv(x); x += DropPath(γ₁·STA(LN(x))); x += DropPath(γ₂·MLP(BN(x)))."""

    # What an export merges into products. The association between `proj` and γ₁ mixes no channels.
    norm_before = ("norm2", "mlp2.fc1")
    scale_after = (("gamma_1", "attn.stoken_refine.proj"), ("gamma_2", "mlp2.fc2"))

    def __init__(
        self, dim: int, hidden_dim: int, dropout: float, layer_scale: float | None, **attention: Any
    ) -> None:
        super().__init__()
        self.pos_embed = ResidualDepthwise(dim)
        self.norm1 = nn.Sequential(("norm", LayerNorm(dim, epsilon=1e-6)))  # the official name
        self.attn = SuperTokenAttention(dim, proj_dropout=dropout, **attention)
        self.drop_path = DropPath()
        self.norm2 = batch_norm(dim)  # over a map, where LayerNorm would have to transpose it
        self.mlp2 = ConvMlp(dim, hidden_dim, dropout)
        self.layer_scale = layer_scale
        if layer_scale is not None:
            # Of four dimensions, hence decayed, as officially.
            start = nn.initializer.Constant(layer_scale)
            self.gamma_1 = self.create_parameter([1, dim, 1, 1], default_initializer=start)
            self.gamma_2 = self.create_parameter([1, dim, 1, 1], default_initializer=start)
        torch_default_(self.attn.stoken_refine)

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        x = self.pos_embed(x_bchw)
        y = self.attn(x, self.norm1.norm)
        if self.layer_scale is not None:
            y = _scale(y, self.gamma_1)
        x = x + self.drop_path(y)
        y = self.mlp2(self.norm2(x))
        if self.layer_scale is not None:
            y = _scale(y, self.gamma_2)
        return x + self.drop_path(y)


def _scale(x_bchw: paddle.Tensor, gamma: paddle.Tensor) -> paddle.Tensor:
    # With one axis after the channel's instead of two, Paddle's CPU kernel is many times faster.
    return (x_bchw.flatten(2) * gamma.flatten(2)).reshape([0, 0, *x_bchw.shape[2:]])


@BACKBONES.register()
class STViT(StagedBackbone):
    """The STViT backbone; sizes Small, Base and Large are in ``configs/stvit/``.

    Other arguments are those of ``ImageBackbone``. For Large the authors recommend a schedule of
    ``drop_path_rate``.

    Args:
        embed_dim: Width of each stage.
        stoken_size: Side of a super token's window in each stage, in pixels of its map; 1 for plain
            attention.
        n_iter: Rounds of association in each stage.
        layerscale: Whether the branches of each stage have a learned factor per channel.
        init_values: Start of those factors.
        projection: Width of the tokens given.
    """

    size_obstacle = ""
    norm_behind = ("norm", "proj")  # as `_Block.norm_before`

    def __init__(
        self,
        *,
        img_size: Count | list[Count] = 224,
        in_chans: Count = 3,
        embed_dim: list[Width] = (64, 128, 320, 512),
        depths: list[Count] = (3, 5, 9, 3),
        num_heads: list[Count] = (1, 2, 5, 8),
        stoken_size: list[Count] = (8, 4, 1, 1),
        n_iter: list[Count] = (1, 1, 1, 1),
        mlp_ratio: Positive = 4.0,
        qkv_bias: bool = True,
        drop_rate: Share = 0.0,
        attn_drop_rate: Share = 0.0,
        drop_path_rate: ShareByEpoch = 0.0,
        layerscale: list[bool] = (False, False, False, False),
        init_values: Positive = 1e-6,
        projection: Count = 1024,
    ) -> None:
        per_stage = [embed_dim, depths, num_heads, stoken_size, n_iter, layerscale]
        if not embed_dim or any(len(values) != len(embed_dim) for values in per_stage):
            raise ValueError(
                "STViT: embed_dim, depths, num_heads, stoken_size, n_iter and layerscale have one entry per "
                f"stage, and every stage at least one block; got {[list(values) for values in per_stage]}"
            )
        super().__init__(in_chans, projection, 0, depths)
        self.dims = list(embed_dim)
        self.patch_embed = _stem(in_chans, embed_dim[0])
        self.pos_drop = nn.Dropout(drop_rate)
        self.layers = nn.LayerList()
        attention = {"qkv_bias": qkv_bias, "attn_dropout": attn_drop_rate}
        following = [*embed_dim[1:], None]
        for dim, depth, heads, window, iters, scaled, wider in zip(*per_stage, following, strict=True):
            scale = init_values if scaled else None
            attention |= {"num_heads": heads, "window": window, "num_iters": iters}
            blocks = [_Block(dim, int(dim * mlp_ratio), drop_rate, scale, **attention) for _ in range(depth)]
            self.layers.append(Stage(blocks, None if wider is None else _downsample(dim, wider)))
        self.proj = torch_default_(Linear(embed_dim[-1], projection))
        self.norm = batch_norm(projection)
        self.schedule_drop_path(drop_path_rate)
        self.resize(img_size)

    def _plan(self, size: tuple[int, int]) -> None:
        # Nothing in the network depends on the size: any works. Every convolution that halves a side rounds
        # up, so that they round up together.
        self.plan_stages(4, halved(halved(size)))

    def attentions(self) -> list[tuple[int, Attention]]:
        """See `Backbone.attentions`; those of stages without super tokens, which lie on another grid."""
        blocks = [(s, block.attn) for s, stage in enumerate(self.layers) for block in stage.blocks]
        return [(s, attn.stoken_refine) for s, attn in blocks if attn.window == 1]

    def as_map(self, s: int, x: paddle.Tensor) -> paddle.Tensor:
        """Output of stage s, which is a map as it is."""
        return x

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """See `ImageBackbone.forward`; the tokens come after BatchNorm and Swish."""
        x = self.embed(x_bchw)
        for s in range(len(self.layers)):
            x = self.run_stage(s, x)
        x = self.proj(x.flatten(2).transpose([0, 2, 1]))
        # As one axis of tokens: BatchNorm takes no [B, N, C].
        x = self.norm(x.flatten(0, 1)).reshape([-1, *x.shape[1:]])
        return F.silu(x)
