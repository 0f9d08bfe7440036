"""Layers on channel-first maps: 1×1, 3×3 and depth-wise convolutions, and a perceptron made of them.

Legend: B batch, C channels, H rows, W columns, N = H·W.
"""

import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn.initializers import uniform_fan_in_
from passl_sot.nn.ops.cpu import channel_bias, depthwise_conv3x3, erf_gate, pack, unpack, use_packed
from passl_sot.nn.ops.cpu_numba import available, depthwise3x3

_HALF = math.sqrt(0.5)
_FEW = 400  # pixels; below, one product over all images is faster than one per image

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

    def forward(
        self,
        x_bcn: paddle.Tensor,
        bias: paddle.Tensor | None = None,
        factor: float = 1.0,
        biased: bool = True,
    ) -> paddle.Tensor:
        """The convolution.

        Args:
            x_bcn: ``[B, C, N]``.
            bias: In place of the layer's own.
            factor: Of weight and bias.
            biased: Whether there is a bias.

        Returns:
            ``[B, out, N]``.
        """
        weight, bias = self.weight, self.bias if bias is None else bias
        if factor != 1.0:
            weight, bias = weight * factor, bias * factor
        out = paddle.matmul(weight, x_bcn, transpose_x=True)
        return channel_bias(out, bias) if biased else out

    def with_ones(self, x_cn: paddle.Tensor, factor: float) -> paddle.Tensor:
        """``factor`` times the same, the input's last channel being ones: ``[C+1, N]`` to ``[out, N]``."""
        weight = paddle.concat([self.weight, self.bias.unsqueeze(0)], axis=0) * factor
        return paddle.matmul(weight, x_cn, transpose_x=True)


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

    def kernel(self) -> paddle.Tensor:
        """The kernels plus the identity, ``[C, 9]``."""
        one = paddle.to_tensor([[0, 0, 0, 0, 1, 0, 0, 0, 0]], dtype=self.weight.dtype)
        return self.weight.flatten(1) + one

    def forward(
        self,
        x_bchw: paddle.Tensor,
        factor: float = 1.0,
        compiled: bool = False,
        before: paddle.Tensor | None = None,
        channel_axis: int = 1,
    ) -> paddle.Tensor:
        """x + conv(x).

        Args:
            x_bchw: ``[B, C, H, W]``.
            factor: Of the result.
            compiled: Take the compiled loop, which adds the bias too.
            before: Bias and GELU before, for the compiled loop.
            channel_axis: See :func:`depthwise3x3`, for the compiled loop.

        Returns:
            The same shape; without the bias if not compiled.
        """
        if compiled:
            return depthwise3x3(x_bchw, self.kernel(), self.bias, before, channel_axis)
        return depthwise_conv3x3(x_bchw, (self.kernel() * factor).reshape(self.weight.shape))


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
        if available(x_bchw):
            return self.conv(x_bchw, compiled=True)
        out = self.conv(x_bchw)
        return channel_bias(out.flatten(2), self.conv.bias).reshape([0, 0, *x_bchw.shape[2:]])


class ConvMlp(nn.Layer):
    """1×1 convolution, exact GELU, residual depth-wise 3×3 convolution, 1×1 convolution.

    Written with fewer passes than the layers it is made of: the depth-wise bias goes through the
    last product, the residual into the kernel's centre, and, packed, the first bias into the product.
    GELU(y) is √½·G(√½·y), G by :func:`erf_gate`; the weights on both sides take the factors.

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
        if available(x_bchw) and not (self.training and self.drop.p):
            return self._compiled(x_bchw)
        bias = self.fc2.bias + paddle.matmul(self.conv.conv.bias, self.fc2.weight)
        if use_packed(x_bchw):
            # All images side by side from the first product to the last.
            packed = pack(x_bchw, ones=True)
            hidden = self.drop(erf_gate(self.fc1.with_ones(packed.flatten(1), _HALF)))
            hidden = self.conv.conv(hidden.reshape([1, -1, *packed.shape[1:]]), _HALF).flatten(2)
            out = self.fc2(hidden, bias).squeeze(0)
            return self.drop(unpack(out.reshape([-1, *packed.shape[1:]]), x_bchw.shape[0]))
        hidden = self.drop(erf_gate(self.fc1(x_bchw.flatten(2), factor=_HALF)))
        hidden = self.conv.conv(hidden.reshape([0, 0, *x_bchw.shape[2:]]), _HALF).flatten(2)
        return self.drop(self.fc2(hidden, bias).reshape([0, 0, *x_bchw.shape[2:]]))

    def _compiled(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """The first bias, GELU and the depth-wise convolution in one pass over the hidden maps."""
        batch, dim, height, width = x_bchw.shape
        few = height * width < _FEW
        x = x_bchw.transpose([1, 0, 2, 3]).reshape([1, dim, -1]) if few else x_bchw.flatten(2)
        hidden = self.fc1(x, biased=False)
        shape = [-1, batch, height, width] if few else [batch, -1, height, width]
        axis = 0 if few else 1
        hidden = self.conv.conv(hidden.reshape(shape), compiled=True, before=self.fc1.bias, channel_axis=axis)
        out = self.fc2(hidden.reshape([1, hidden.shape[0], -1]) if few else hidden.flatten(2))
        if few:
            return out.reshape([dim, batch, height, width]).transpose([1, 0, 2, 3])
        return out.reshape([batch, dim, height, width])
