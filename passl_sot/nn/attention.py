"""Multi-head self-attention. Legend: B batch, N tokens, C width, h heads, d = C / h."""

import paddle
from paddle import nn

from passl_sot.nn import ops
from passl_sot.nn.initializers import linear


class Attention(nn.Layer):
    """Multi-head self-attention with one joint projection for queries, keys and values.

    Args:
        dim: Width C.
        num_heads: Number of heads h; a ValueError unless it divides ``dim``.
        qkv_bias: Whether the joint projection has a bias.
        attn_dropout: Dropout on the attention weights.
        proj_dropout: Dropout after the output projection.
        qkv_by_head: Whether the joint projection gives queries, keys and values of the first head, then of
            the second, and so on, in place of all queries, all keys, all values.
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
        """Args: x_bnc: ``[B, N, C]``; bias_whnm: see `ops.attention`. Returns: ``[B, N, C]``."""
        qkv = self.qkv(x_bnc)
        if self.qkv_by_head:
            qkv = qkv.reshape([0, 0, self.num_heads, 3, self.head_dim]).transpose([3, 0, 2, 1, 4])
        else:
            qkv = qkv.reshape([0, 0, 3, self.num_heads, self.head_dim]).transpose([2, 0, 3, 1, 4])
        q, k, v = qkv.unbind(0)
        dropout = self.attn_dropout if self.training else 0.0
        out = ops.attention(q, k, v, self.scale, dropout, bias_whnm)
        out = out.transpose([0, 2, 1, 3]).reshape([0, 0, self.num_heads * self.head_dim])
        return self.proj_drop(self.proj(out))
