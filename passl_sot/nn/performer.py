"""Token modules of T2T-ViT: attention that takes wide tokens (7·7·3 or 3·3·64 numbers) to a narrow width E.

Legend: B batch, T tokens, D width taken, E width given, m random features.
"""

import math

import paddle
from paddle import nn

from passl_sot.nn import ops
from passl_sot.nn.block import Mlp
from passl_sot.nn.initializers import linear
from passl_sot.nn.layers import GELU, LayerNorm
from passl_sot.nn.precision import at_least_float32, autocast_off

_EPSILON = 1e-8  # of the official code; it keeps a token without any neighbor from dividing by zero


def orthogonal_features(rows: int, columns: int) -> paddle.Tensor:
    """Random matrix ``[rows, columns]`` with orthogonal rows of length √rows (or orthogonal columns)."""
    tall = paddle.randn([max(rows, columns), min(rows, columns)], dtype="float64")
    q, r = paddle.linalg.qr(tall)
    # As in torch's orthogonal_: with R's signs, Q is uniform over all rotations.
    q = q * paddle.sign(paddle.diag(r))
    if rows < columns:
        q = q.t()
    return (q * math.sqrt(rows)).astype(paddle.get_default_dtype())


class TokenPerformer(nn.Layer):
    """Attention in linear time by positive random features (Choromanski et al. 2021; T2T-ViT).

    With φ(x) = exp(x·wᵀ - |x|²/2) / √m: y = φ(q)·Σφ(k)ᵀv / (φ(q)·Σφ(k) + 1e-8), then
    out = v + Dropout(Linear(y)), and out + Mlp(LN(out)). The joint projection gives keys, queries
    and values in THIS order and has a bias.
    """

    reads_tokens = ("norm1", "kqv")

    # The official code has its dropout fixed, whatever the model's drop_rate.
    def __init__(self, dim: int, out_dim: int = 64, num_features: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.num_features = num_features
        zero = nn.initializer.Constant(0.0)
        self.w = self.create_parameter([num_features, out_dim], default_initializer=zero)
        # Never trained, yet saved and loaded: the network learns around these very numbers.
        self.w.set_value(orthogonal_features(num_features, out_dim))
        self.w.stop_gradient = True
        self.kqv = linear(dim, 3 * out_dim)
        self.proj = linear(out_dim, out_dim)
        self.drop = nn.Dropout(dropout)
        self.norm1 = LayerNorm(dim, epsilon=1e-5)
        self.norm2 = LayerNorm(out_dim, epsilon=1e-5)
        self.mlp = nn.Sequential(
            linear(out_dim, out_dim), GELU(), linear(out_dim, out_dim), nn.Dropout(dropout)
        )

    def mix(self, kqv_btx: paddle.Tensor) -> paddle.Tensor:
        """The attention itself: ``[B, T, 3·E]`` to ``[B, T, E]``, float32 for 16-bit inputs."""
        # exp is not stabilized by a maximum, and float16 has no 1e-8.
        with autocast_off():
            kqv = at_least_float32(kqv_btx)
            k, q, v = kqv.split(3, axis=-1)
            # 1/√m stands in every φ: taken out of the fraction, it only multiplies the epsilon by m.
            k = self._features(k)
            q = self._features(q)
            total = paddle.matmul(q, k.sum(axis=1).unsqueeze(-1)) + self.num_features * _EPSILON
            # q is divided, not the product: it has half its width. Of values with keys, not the reverse:
            # OpenVINO merges factors per value into that product in 8 bits and takes 30 times as long.
            values = paddle.matmul(v, k, transpose_x=True)
            return paddle.matmul(q / total, values, transpose_y=True)

    def _features(self, x_bte: paddle.Tensor) -> paddle.Tensor:
        projected = paddle.matmul(x_bte, self.w.astype(x_bte.dtype), transpose_y=True)
        return paddle.exp(projected - 0.5 * x_bte.square().sum(axis=-1, keepdim=True))

    def forward(self, x_btd: paddle.Tensor) -> paddle.Tensor:
        """Args: x_btd: ``[B, T, D]``. Returns: ``[B, T, E]``."""
        kqv = self.kqv(self.norm1(x_btd))
        y = self.mix(kqv).astype(kqv.dtype)
        # The skip connection starts at the VALUES: the input has another width.
        out = kqv[:, :, 2 * self.out_dim :] + self.drop(self.proj(y))
        return out + self.mlp(self.norm2(out))


class _NarrowingAttention(nn.Layer):
    """Single-head attention from width D to E with the skip at the values."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.scale = dim**-0.5  # by the width taken, not by that of the queries: as published
        self.qkv = linear(dim, 3 * out_dim, bias=False)
        self.proj = linear(out_dim, out_dim)

    def forward(self, x_btd: paddle.Tensor) -> paddle.Tensor:
        q, k, v = self.qkv(x_btd).unsqueeze(1).split(3, axis=-1)
        y = ops.attention(q, k, v, self.scale)
        return v.squeeze(1) + self.proj(y.squeeze(1))


class TokenTransformer(nn.Layer):
    """The same with softmax attention over all tokens (the ``t`` models of T2T-ViT).

    out = v + Linear(attention), then out + Mlp(LN(out)); the joint projection gives queries, keys and
    values, without a bias, and there is no dropout.
    """

    reads_tokens = ("norm1", "attn.qkv")

    def __init__(self, dim: int, out_dim: int = 64) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, epsilon=1e-5)
        self.attn = _NarrowingAttention(dim, out_dim)
        self.norm2 = LayerNorm(out_dim, epsilon=1e-5)
        self.mlp = Mlp(out_dim, out_dim)

    def forward(self, x_btd: paddle.Tensor) -> paddle.Tensor:
        """Args: x_btd: ``[B, T, D]``. Returns: ``[B, T, E]``."""
        out = self.attn(self.norm1(x_btd))
        return out + self.mlp(self.norm2(out))
