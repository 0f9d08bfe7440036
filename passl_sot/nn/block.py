"""The pre-norm transformer block and its MLP. Legend: B batch, N tokens, C width."""

import paddle
from paddle import nn

from passl_sot.nn import ops
from passl_sot.nn.attention import Attention
from passl_sot.nn.drop_path import DropPath
from passl_sot.nn.initializers import linear
from passl_sot.nn.layers import LayerNorm


class Mlp(nn.Layer):
    """Linear from C to the hidden width, exact GELU, dropout, Linear back to C, dropout."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = linear(dim, hidden_dim)
        self.fc2 = linear(hidden_dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_bnc: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``. Returns: the same shape."""
        hidden = self.drop(ops.gelu(self.fc1(x_bnc)))
        return self.drop(self.fc2(hidden))


class Block(nn.Layer):
    """x += DropPath(Attention(LN(x))); x += DropPath(Mlp(LN(x))). ``drop_path`` begins at rate 0.

    Args (for the others see ``Attention``):
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
