"""The two-layer perceptron of a transformer block."""

import paddle
from paddle import nn

from passl_sot.nn import ops
from passl_sot.nn.initializers import linear

__all__ = ["Mlp"]


class Mlp(nn.Layer):
    """Linear, exact GELU, Linear, with dropout after each.

    Args:
        dim: Width C of input and output.
        hidden_dim: Width of the hidden layer.
        dropout: Dropout probability after the activation and after the output.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = linear(dim, hidden_dim)
        self.fc2 = linear(hidden_dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_bnc: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``. Returns: the same shape."""
        hidden = self.drop(ops.gelu(self.fc1(x_bnc)))
        return self.drop(self.fc2(hidden))
