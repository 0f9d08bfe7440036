"""The pre-norm transformer block. Legend: B batch, N tokens, C width, h heads, d = C / h."""

from collections.abc import Callable

import paddle
from paddle import nn

from passl_sot.nn import ops
from passl_sot.nn.initializers import linear
from passl_sot.nn.layers import Dropout, DropPath, LayerNorm


class Attention(nn.Layer):
    """Multi-head self-attention with one joint projection for queries, keys and values.

    Args:
        dim: Width C; a ValueError unless ``num_heads`` divides it.
        attn_dropout: Dropout on the attention weights.
        proj_dropout: Dropout after the output projection.
        qkv_by_head: Whether the joint projection gives queries, keys and values of the first head, then of
            the second, and so on, in place of all queries, all keys, all values.
    """

    # Given what `attend` took and gave, at every call: for those who want to see inside.
    recorder: Callable[[paddle.Tensor, paddle.Tensor | None, paddle.Tensor], None] | None = None

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
        self.proj_drop = Dropout(proj_dropout)

    def forward(self, x_bnc: paddle.Tensor, bias_whnm: paddle.Tensor | None = None) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``; bias_whnm: see `ops.attention`. Returns: ``[B, N, C]``."""
        return self.proj_drop(self.proj(self.attend(self.qkv(x_bnc), bias_whnm)))

    def attend(self, qkv: paddle.Tensor, bias_whnm: paddle.Tensor | None = None) -> paddle.Tensor:
        """The joint projection's result ``[B, N, 3·C]`` to what the last projection takes, ``[B, N, C]``."""
        q, k, v = self.split(qkv)
        dropout = self.attn_dropout if self.training else 0.0
        out = ops.attention(q, k, v, self.scale, dropout, bias_whnm)
        out = out.transpose([0, 2, 1, 3]).reshape([0, 0, self.num_heads * self.head_dim])
        if self.recorder is not None:
            self.recorder(qkv, bias_whnm, out)
        return out

    def in_order(self, x: paddle.Tensor) -> paddle.Tensor:
        """What belongs to the tokens of ``attend``, as to those that the layer takes: here the same."""
        return x

    def split(self, qkv: paddle.Tensor) -> list[paddle.Tensor]:
        """Queries, keys and values ``[B, h, N, d]`` of the joint projection's result ``[B, N, 3·C]``."""
        if self.qkv_by_head:
            qkv = qkv.reshape([0, 0, self.num_heads, 3, self.head_dim]).transpose([3, 0, 2, 1, 4])
        else:
            qkv = qkv.reshape([0, 0, 3, self.num_heads, self.head_dim]).transpose([2, 0, 3, 1, 4])
        return qkv.unbind(0)


class Mlp(nn.Layer):
    """Linear from C to the hidden width, GELU, dropout, Linear back to C, dropout.

    Args:
        drop_hidden: Whether there is dropout behind the GELU, too.
        tanh_gelu: Whether the GELU is the approximation by tanh, or exact.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        dropout: float = 0.0,
        drop_hidden: bool = True,
        tanh_gelu: bool = False,
    ) -> None:
        super().__init__()
        if hidden_dim < 1:
            raise ValueError(f"mlp_ratio leaves the MLP of width {dim} without a hidden channel: raise it")
        self.fc1 = linear(dim, hidden_dim)
        self.fc2 = linear(hidden_dim, dim)
        self.drop = Dropout(dropout)
        self.drop_hidden = drop_hidden
        self.activation = ops.tanh_gelu if tanh_gelu else ops.gelu

    def forward(self, x_bnc: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``. Returns: the same shape."""
        hidden = self.activation(self.fc1(x_bnc))
        if self.drop_hidden:
            hidden = self.drop(hidden)
        return self.drop(self.fc2(hidden))


class Block(nn.Layer):
    """x += DropPath(Attention(LN(x))); x += DropPath(Mlp(LN(x))). ``drop_path`` begins at rate 0.

    Other arguments are those of ``Attention``.

    Args:
        mlp_ratio: Hidden width of the MLP over C (rounded down).
        dropout: Dropout after both projections and inside the MLP.
        norm_epsilon: LayerNorm's epsilon: 1e-5 for SoT, T2T-ViT and Swin, 1e-6 for DeiT and PiT.
        attn: Another attention than the plain one over all tokens, taken as it is; ``num_heads``,
            ``qkv_bias`` and ``attn_dropout`` are then not read.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        dropout: float = 0.0,
        attn_dropout: float = 0.0,
        norm_epsilon: float = 1e-5,
        attn: nn.Layer | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, epsilon=norm_epsilon)
        self.attn = attn or Attention(dim, num_heads, qkv_bias, attn_dropout, dropout)
        self.norm2 = LayerNorm(dim, epsilon=norm_epsilon)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = DropPath()

    def forward(self, x_bnc: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``. Returns: the same shape."""
        x_bnc = x_bnc + self.drop_path(self.attn(self.norm1(x_bnc)))
        return x_bnc + self.drop_path(self.mlp(self.norm2(x_bnc)))
