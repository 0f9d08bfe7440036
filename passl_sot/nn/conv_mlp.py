"""Layers on channel-first maps: 1×1, 3×3 and depth-wise convolutions, and an MLP made of them.

The convolutions start as PyTorch starts one; those of the MLP leave their bias to the caller.

Legend: B batch, C channels, H rows, W columns, N = H·W.
"""

import paddle
from paddle import nn

from passl_sot.nn import ops
from passl_sot.nn.initializers import uniform_fan_in_
from passl_sot.nn.layers import Conv2D


class Pointwise(nn.Linear):
    """1×1 convolution of ``[B, C, N]``, as a matrix product; its weight is a Linear's ``[C, out]``."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        uniform_fan_in_(self, in_features)

    def forward(self, x_bcn: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        """``[B, C, N]`` to ``[B, out, N]``, with ``bias`` if given."""
        return ops.pointwise(x_bcn, self.weight, bias)


class Conv3x3(Conv2D):
    """3×3 convolution, padded by 1."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=1)
        uniform_fan_in_(self, 9 * in_channels)


class _Depthwise(nn.Conv2D):
    """Depth-wise 3×3 convolution plus identity."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        uniform_fan_in_(self, 9)

    def forward(
        self,
        x_bchw: paddle.Tensor,
        bias: paddle.Tensor | None = None,
        before: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        """x + conv(x); for the rest see `ops.depthwise3x3`."""
        # The sum is one convolution, whose kernel has 1 more in its center.
        one = paddle.to_tensor([[0, 0, 0, 0, 1, 0, 0, 0, 0]], dtype=self.weight.dtype)
        kernel = self.weight.flatten(1) + one
        return ops.depthwise3x3(x_bchw, kernel, bias, before)


class ResidualDepthwise(nn.Layer):
    """x + depth-wise 3×3 convolution of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _Depthwise(channels)

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bchw: ``[B, C, H, W]``. Returns: the same shape."""
        return self.conv(x_bchw, self.conv.bias)


class ConvMlp(nn.Layer):
    """1×1 convolution to hidden channels, GELU, dropout, residual depth-wise 3×3, 1×1 back, dropout."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Pointwise(dim, hidden_dim)
        self.fc2 = Pointwise(hidden_dim, dim)
        self.drop = nn.Dropout(dropout)
        self.conv = ResidualDepthwise(hidden_dim)

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bchw: ``[B, C, H, W]``. Returns: the same shape."""
        return ops.conv_mlp(x_bchw, self.fc1, self.conv.conv, self.fc2, self.drop)
