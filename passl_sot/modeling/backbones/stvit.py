"""STViT: vision transformer with super-token sampling (Huang, Zhou, Cao, He, Tan, "Vision Transformer
with Super Token Sampling", CVPR 2023, arXiv 2211.11167).

A convolutional stem and four stages at a quarter to a thirty-second of the image's size. A block
adds a depth-wise convolution of its input (which tells positions), then attention, then a perceptron
with a depth-wise convolution inside. In the first two stages the attention is among few super tokens
sampled from the pixels (``SuperTokenAttention``), in the last two among all tokens.

Differences from the official code (hhb072/STViT):

* the tail's 1×1 convolution, BatchNorm and Swish belong to the backbone, so that it gives tokens as
  every backbone does; ``LinearHead`` with ``pool: mean`` and no prefix token does the rest, and the
  second-order head takes the same words;
* the frozen kernels that gather super tokens (``attn.unfold``, ``attn.fold``) are index tables:
  conversion checks that a checkpoint's are the identity, and leaves them out;
* 1×1 convolutions are matrix products, their weights those of Linear layers; biases and identities
  of the depth-wise convolutions are merged into neighbouring products. Sums run in another order.

Kept from it: GELU before BatchNorm in the stem, LayerNorm epsilon 1e-6 before attention, BatchNorm
before the perceptron, convolutions started as PyTorch starts them, LayerScale decayed (it has four
dimensions). Any image size works: there is no position table, and windows that don't fit are padded.

Legend: B batch, C width, H rows, W columns, N = H·W tokens.
"""

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.config.epoch_schedule import ShareByEpoch
from passl_sot.config.ranges import Count, Positive, Share
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.base import Backbone, as_pair
from passl_sot.nn import ops
from passl_sot.nn.conv_mlp import Conv3x3, ConvMlp, ResidualDepthwise
from passl_sot.nn.drop_path import DropPath
from passl_sot.nn.initializers import batch_norm, uniform_fan_in_
from passl_sot.nn.layers import LayerNorm, Linear
from passl_sot.nn.super_tokens import SuperTokenAttention

__all__ = ["STViT"]


class _Stem(nn.Layer):
    """Four 3×3 convolutions, each with GELU and then BatchNorm; the first and third halve the size."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        layers: list[nn.Layer] = []
        width = in_chans
        for out, stride in ((dim // 2, 2), (dim // 2, 1), (dim, 2), (dim, 1)):
            # GELU has a place in the official state dict's count; forward does it with the bias.
            layers += [Conv3x3(width, out, stride), nn.GELU(), batch_norm(out)]
            width = out
        self.proj = nn.Sequential(*layers)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        for i in range(0, len(self.proj), 3):
            conv, norm = self.proj[i], self.proj[i + 2]
            maps = conv(x)
            flat = ops.bias_gelu(maps.flatten(2), conv.bias)
            x = norm(flat.reshape([0, 0, *maps.shape[2:]]))
        return x


class _Downsample(nn.Layer):
    """3×3 convolution with stride 2, and BatchNorm."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(Conv3x3(dim, out_dim, 2), batch_norm(out_dim))

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        conv, norm = self.proj
        maps = conv(x_bchw)
        return norm(ops.channel_bias(maps.flatten(2), conv.bias).reshape([0, 0, *maps.shape[2:]]))


class _LayerNorm2d(nn.Layer):
    """LayerNorm over the channels, under the official name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm(dim, epsilon=1e-6)


class _Block(nn.Layer):
    """x += DWConv(x); x += DropPath(γ₁·STA(LN(x))); x += DropPath(γ₂·MLP(BN(x)))."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: int,
        num_iters: int,
        mlp_ratio: float,
        qkv_bias: bool,
        dropout: float,
        attn_dropout: float,
        layer_scale: float | None,
    ) -> None:
        super().__init__()
        self.pos_embed = ResidualDepthwise(dim)
        self.norm1 = _LayerNorm2d(dim)
        self.attn = SuperTokenAttention(dim, num_heads, window, num_iters, qkv_bias, attn_dropout, dropout)
        self.drop_path = DropPath()
        self.norm2 = batch_norm(dim)
        self.mlp2 = ConvMlp(dim, int(dim * mlp_ratio), dropout)
        self.layer_scale = layer_scale
        if layer_scale is not None:
            start = nn.initializer.Constant(layer_scale)
            self.gamma_1 = self.create_parameter([1, dim, 1, 1], default_initializer=start)
            self.gamma_2 = self.create_parameter([1, dim, 1, 1], default_initializer=start)
        for projection in (self.attn.stoken_refine.qkv, self.attn.stoken_refine.proj):
            uniform_fan_in_(projection.weight, dim)
            if projection.bias is not None:
                uniform_fan_in_(projection.bias, dim)

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        x = self.pos_embed(x_bchw)
        y = self.attn(x, self.norm1.norm)
        x = x + self.drop_path(y if self.layer_scale is None else _scale(y, self.gamma_1))
        y = self.mlp2(self.norm2(x))
        return x + self.drop_path(y if self.layer_scale is None else _scale(y, self.gamma_2))


def _scale(x_bchw: paddle.Tensor, gamma: paddle.Tensor) -> paddle.Tensor:
    # With one axis after the channel's instead of two, Paddle's CPU kernel is many times faster.
    return (x_bchw.flatten(2) * gamma.flatten(2)).reshape([0, 0, *x_bchw.shape[2:]])


class _Stage(nn.Layer):
    """Blocks, and the way down to the next stage."""

    def __init__(self, blocks: list[_Block], downsample: _Downsample | None) -> None:
        super().__init__()
        self.blocks = nn.LayerList(blocks)
        self.downsample = downsample


@BACKBONES.register()
class STViT(Backbone):
    """The STViT backbone; sizes Small, Base and Large are in ``configs/stvit/``.

    Args:
        img_size: Input size in pixels, or [height, width].
        in_chans: Input channels.
        embed_dim: Width of each stage.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage; each must divide the width.
        stoken_size: Side of a super token's window in each stage, in pixels of its map; 1 for plain
            attention.
        n_iter: Rounds of association in each stage.
        mlp_ratio: Hidden width of the perceptrons over the width.
        qkv_bias: Whether the query-key-value projections have a bias.
        drop_rate: Dropout after the stem, in the perceptrons, and after projections.
        attn_drop_rate: Dropout on attention weights.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 over all blocks.
            Or a schedule over epochs, as in ``config.epoch_schedule`` (the authors recommend one for Large).
        layerscale: Whether the branches of each stage have a learned factor per channel.
        init_values: What those factors start at.
        projection: Width of the tokens given.

    Raises:
        ValueError: The numbers contradict each other.
    """

    torch_key_rules = ((r"^head\.", "head.fc."), (r"^(?!head\.)", "backbone."))
    torch_tables = (r".*\.(un)?fold\.weights",)
    input_weights = ("patch_embed.proj.0.weight",)
    torch_pointwise = (
        r".*\.stoken_refine\.(qkv|proj)\.weight",
        r".*\.mlp\d?\.fc\d\.weight",
        r"proj\.weight",
    )

    def __init__(
        self,
        *,
        img_size: Count | list[Count] = 224,
        in_chans: Count = 3,
        embed_dim: list[Count] = (64, 128, 320, 512),
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
        super().__init__()
        per_stage = [embed_dim, depths, num_heads, stoken_size, n_iter, layerscale]
        if not embed_dim or any(len(values) != len(embed_dim) for values in per_stage) or min(depths) < 1:
            raise ValueError(
                "STViT: embed_dim, depths, num_heads, stoken_size, n_iter and layerscale have one entry per "
                f"stage, and every stage at least one block; got {[list(values) for values in per_stage]}"
            )
        self.in_chans = in_chans
        self.num_features = projection
        self.num_prefix_tokens = 0
        self.depths = list(depths)
        self.num_layers = sum(depths) + 1
        self.widths = list(embed_dim)
        self.patch_embed = _Stem(in_chans, embed_dim[0])
        self.pos_drop = nn.Dropout(drop_rate)
        self.layers = nn.LayerList()
        for i, (dim, depth, heads, window, iters, scaled) in enumerate(zip(*per_stage, strict=True)):
            blocks = [
                _Block(
                    dim,
                    heads,
                    window,
                    iters,
                    mlp_ratio,
                    qkv_bias,
                    drop_rate,
                    attn_drop_rate,
                    init_values if scaled else None,
                )
                for _ in range(depth)
            ]
            last = i == len(depths) - 1
            self.layers.append(_Stage(blocks, None if last else _Downsample(dim, embed_dim[i + 1])))
        self.proj = Linear(embed_dim[-1], projection)
        uniform_fan_in_(self.proj.weight, embed_dim[-1])
        uniform_fan_in_(self.proj.bias, embed_dim[-1])
        self.norm = batch_norm(projection)
        self.schedule_drop_path(drop_path_rate)
        self.resize(as_pair(img_size))

    def resize(self, img_size: int | Sequence[int]) -> None:
        """Change the input size; nothing in the network depends on it, so that any size works.

        Args:
            img_size: Side in pixels, or height and width.

        Raises:
            ValueError: Not one or two positive whole numbers.
        """
        self.img_size = as_pair(img_size)
        last = len(self.depths) - 1
        self.feature_info = [
            {"module": f"layers.{i}.blocks.{depth - 1}", "num_chs": dim, "reduction": 2 ** (i + 2)}
            for i, (depth, dim) in enumerate(zip(self.depths, self.widths, strict=True))
        ]
        stride = self.feature_info[last]["reduction"]
        # Every convolution that halves a side rounds up, so that they round up together.
        self.grid_size = (-(-self.img_size[0] // stride), -(-self.img_size[1] // stride))

    def _maps(self, x_bchw: paddle.Tensor, stages: int) -> list[paddle.Tensor]:
        """The last block's output of each of the first ``stages`` stages, ``[B, C, H, W]``."""
        self.check_images(x_bchw, self.in_chans)
        x = self.pos_drop(self.patch_embed(x_bchw))
        maps: list[paddle.Tensor] = []
        for stage in list(self.layers)[:stages]:
            if maps:
                x = self.layers[len(maps) - 1].downsample(x)
            for block in stage.blocks:
                x = self.run_block(block, x)
            maps.append(x)
        return maps

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images ``[B, in_chans, H, W]`` to tokens ``[B, N, C]`` after the last BatchNorm and Swish.

        Raises:
            ValueError: The images have another size than the model is planned for.
        """
        x = self._maps(x_bchw, len(self.depths))[-1]
        x = self.proj(x.flatten(2).transpose([0, 2, 1]))
        # As one axis of tokens: BatchNorm takes no [B, N, C].
        x = self.norm(x.flatten(0, 1)).reshape([-1, *x.shape[1:]])
        return F.silu(x)

    def forward_intermediates(
        self, x_bchw: paddle.Tensor, indices: int | Sequence[int] | None = None
    ) -> list[paddle.Tensor]:
        """Outputs of the stages, before down-sampling, as maps ``[B, C, H, W]``, not normalised."""
        chosen = self.pick(indices)
        maps = self._maps(x_bchw, max(chosen, default=-1) + 1)
        return [maps[i] for i in chosen]

    def layer_of(self, name: str) -> int:
        """See :meth:`Backbone.layer_of`; a down-sampling counts with the block before it."""
        parts = name.split(".")
        if parts[0] == "layers":
            before = sum(self.depths[: int(parts[1])])
            return before + (int(parts[3]) + 1 if parts[2] == "blocks" else self.depths[int(parts[1])])
        return 0 if parts[0] == "patch_embed" else self.num_layers
