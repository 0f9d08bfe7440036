"""Multi-head self-attention.

Shape legend: B batch, N tokens, C width, h heads, d = C / h.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn.initializers import linear
from passl_sot.nn.precision import at_least_float32, is_low_precision

__all__ = ["Attention", "attend", "softmax"]

_MANY_KEYS = 10  # times the head width; above, scaling the products costs several % of a block


def softmax(x: paddle.Tensor, axis: int = -1) -> paddle.Tensor:
    """Softmax computed in float32 for 16-bit inputs; the result has the input's type."""
    if is_low_precision(x):
        return F.softmax(at_least_float32(x), axis=axis).astype(x.dtype)
    return F.softmax(x, axis=axis)


def _use_fused(q: paddle.Tensor) -> bool:
    # Paddle's CPU kernel for fused attention is slower than the products written out, and the
    # GPU one serves 16-bit types with head widths that are multiples of 8, up to 256.
    on_gpu = paddle.is_compiled_with_cuda() and paddle.get_device().startswith("gpu")
    return on_gpu and is_low_precision(q) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256


def attend(
    q_bhnd: paddle.Tensor,
    k_bhnd: paddle.Tensor,
    v_bhnd: paddle.Tensor,
    scale: float,
    dropout: float = 0.0,
    training: bool = False,
    bias_whnm: paddle.Tensor | None = None,
) -> paddle.Tensor:
    """softmax(scale · q kᵀ + bias) v, fused on a GPU where there is no bias, written out elsewhere.

    Args:
        q_bhnd: Queries ``[B, h, N, d]``.
        k_bhnd: Keys ``[B, h, M, d]``.
        v_bhnd: Values ``[B, h, M, d]``.
        scale: Factor on the products, applied after them, or to the queries where these are far
            fewer numbers; 1 costs nothing.
        dropout: Probability of dropping an attention weight while training.
        training: Whether dropout is active.
        bias_whnm: Added to the scaled products, ``[h, N, M]``, or ``[W, h, N, M]`` repeated along
            the batch, where W divides B.

    Returns:
        ``[B, h, N, d]``.
    """
    if bias_whnm is None and _use_fused(q_bhnd):
        q, k, v = (t.transpose([0, 2, 1, 3]) for t in (q_bhnd, k_bhnd, v_bhnd))
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, training=training, scale=scale)
        return out.transpose([0, 2, 1, 3])
    if k_bhnd.shape[-2] > _MANY_KEYS * q_bhnd.shape[-1]:
        q_bhnd, scale = q_bhnd * scale, 1.0
    products = paddle.matmul(q_bhnd, k_bhnd, transpose_y=True)
    products = products if scale == 1.0 else products * scale
    attn_bhnm = softmax(products if bias_whnm is None else _add_repeated(products, bias_whnm))
    if dropout > 0.0 and training:
        attn_bhnm = F.dropout(attn_bhnm, p=dropout, training=True)
    return paddle.matmul(attn_bhnm, v_bhnd)


def _add_repeated(x_bhnm: paddle.Tensor, bias_whnm: paddle.Tensor) -> paddle.Tensor:
    whole = [-1, *x_bhnm.shape[1:]]
    # Without axes of size 1 in front: with them Paddle's CPU kernels take eight times as long.
    return (x_bhnm.reshape([-1, *bias_whnm.shape]) + bias_whnm.astype(x_bhnm.dtype)).reshape(whole)


class Attention(nn.Layer):
    """Multi-head self-attention with one joint projection for queries, keys and values.

    Args:
        dim: Width C.
        num_heads: Number of heads h; must divide ``dim``.
        qkv_bias: Whether the joint projection has a bias.
        attn_dropout: Dropout on the attention weights.
        proj_dropout: Dropout after the output projection.
        qkv_by_head: How the joint projection orders its outputs: all queries, all keys, all values;
            or, if set, queries, keys and values of the first head, then of the second, and so on.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = False,
        attn_dropout: float = 0.0,
        proj_dropout: float = 0.0,
        qkv_by_head: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide the width ({dim})")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.attn_dropout = attn_dropout
        self.qkv_by_head = qkv_by_head
        self.qkv = linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_dropout)

    def forward(self, x_bnc: paddle.Tensor, bias_whnm: paddle.Tensor | None = None) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``; bias_whnm: see :func:`attend`. Returns: ``[B, N, C]``."""
        if self.qkv_by_head:
            qkv = self.qkv(x_bnc).reshape([0, 0, self.num_heads, 3, self.head_dim])
            q, k, v = qkv.transpose([3, 0, 2, 1, 4]).unbind(0)
        else:
            qkv = self.qkv(x_bnc).reshape([0, 0, 3, self.num_heads, self.head_dim])
            q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)
        out = attend(q, k, v, self.scale, self.attn_dropout, self.training, bias_whnm)
        out = out.transpose([0, 2, 1, 3]).reshape([0, 0, self.num_heads * self.head_dim])
        return self.proj_drop(self.proj(out))
