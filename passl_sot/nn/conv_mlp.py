"""Layers on channel-first maps: 1×1, 3×3 and depth-wise convolutions, and a perceptron made of them.

Legend: B batch, C channels, H rows, W columns, N = H·W.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn.eager_cpu import (
    bias_gelu,
    channel_bias,
    depthwise_conv3x3,
    depthwise_packed,
    pack,
    unpack,
    use_packed,
)
from passl_sot.nn.initializers import uniform_fan_in_

__all__ = ["Conv3x3", "ConvMlp", "Pointwise", "ResidualDepthwise"]


class Pointwise(nn.Linear):
    """1×1 convolution of ``[B, C, N]``, as a matrix product; its weight is a Linear's ``[C, out]``.

    It starts as PyTorch starts a convolution.

    Args:
        in_features: Channels C of the input.
        out_features: Channels of the output.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        uniform_fan_in_(self.weight, in_features)
        uniform_fan_in_(self.bias, in_features)

    def forward(self, x_bcn: paddle.Tensor, add_bias: bool = True) -> paddle.Tensor:
        """Args: x_bcn: ``[B, C, N]``; add_bias: False leaves it to the caller. Returns: ``[B, out, N]``."""
        out = paddle.matmul(self.weight, x_bcn, transpose_x=True)
        return channel_bias(out, self.bias) if add_bias else out


class Conv3x3(nn.Conv2D):
    """3×3 convolution, padded by 1, that leaves its bias to the caller; starts as PyTorch starts one.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=1)
        self.stride = stride
        uniform_fan_in_(self.weight, 9 * in_channels)
        uniform_fan_in_(self.bias, 9 * in_channels)

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bchw: ``[B, C, H, W]``. Returns: maps without the bias."""
        return F.conv2d(x_bchw, self.weight, stride=self.stride, padding=1)


class _Depthwise(nn.Conv2D):
    """The parameters of a depth-wise 3×3 convolution, and the convolution without bias plus identity."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        uniform_fan_in_(self.weight, 9)
        uniform_fan_in_(self.bias, 9)

    def forward(self, x: paddle.Tensor, packed: bool = False) -> paddle.Tensor:
        """Args: x: ``[B, C, H, W]``, or ``[C, H, B, W]`` if packed. Returns: x + conv(x), no bias."""
        one = paddle.zeros([1, 1, 9], dtype=self.weight.dtype)
        one[:, :, 4] = 1.0
        kernel = self.weight + one.reshape([1, 1, 3, 3])
        return depthwise_packed(x, kernel) if packed else depthwise_conv3x3(x, kernel)


class ResidualDepthwise(nn.Layer):
    """x + depth-wise 3×3 convolution of x; the sum is one convolution, its kernel's centre plus 1.

    Args:
        channels: Number C of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _Depthwise(channels)

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bchw: ``[B, C, H, W]``. Returns: the same shape."""
        out = self.conv(x_bchw)
        return channel_bias(out.flatten(2), self.conv.bias).reshape([0, 0, *x_bchw.shape[2:]])


class ConvMlp(nn.Layer):
    """1×1 convolution, exact GELU, residual depth-wise 3×3 convolution, 1×1 convolution.

    Written with three passes less than the layers it is made of: the depth-wise bias goes through
    the last product, the first bias into the GELU, the residual into the kernel.

    Args:
        dim: Channels C of input and output.
        hidden_dim: Channels between.
        dropout: Dropout after the activation and after the output.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Pointwise(dim, hidden_dim)
        self.fc2 = Pointwise(hidden_dim, dim)
        self.drop = nn.Dropout(dropout)
        self.conv = ResidualDepthwise(hidden_dim)

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bchw: ``[B, C, H, W]``. Returns: the same shape."""
        packed = use_packed(x_bchw)
        # Packed, the batch is part of N: one matrix product for all images.
        x = pack(x_bchw) if packed else x_bchw
        rows = x.shape[1:] if packed else x.shape[2:]
        hidden = self.fc1(x.flatten(1).unsqueeze(0) if packed else x.flatten(2), add_bias=False)
        hidden = self.drop(bias_gelu(hidden, self.fc1.bias))
        hidden = self.conv.conv(hidden.reshape([-1, *rows] if packed else [0, 0, *rows]), packed)
        hidden = hidden.flatten(1).unsqueeze(0) if packed else hidden.flatten(2)
        bias = self.fc2.bias + paddle.matmul(self.conv.conv.bias, self.fc2.weight)
        out = channel_bias(self.fc2(hidden, add_bias=False), bias)
        out = unpack(out.reshape([-1, *rows])) if packed else out.reshape([0, 0, *rows])
        return self.drop(out)
