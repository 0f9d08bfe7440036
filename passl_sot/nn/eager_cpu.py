"""Formulations that are fast in Paddle's eager mode on a CPU, for operations that are slow there.

Each function has one meaning everywhere: on a GPU, in a traced graph and for 16-bit types it calls
Paddle's own operation. On a CPU it is the same mathematics from operations that run well there, with a
backward pass of its own where Paddle's takes several times the forward's time.

Legend: B batch, C channels, H rows, W columns, N = H·W pixels.
"""

import math

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

__all__ = [
    "LayerNorm",
    "applies",
    "channel_bias",
    "depthwise_conv3x3",
    "gelu",
    "pack",
    "unpack",
    "use_packed",
]

_SHORT = 48  # rows of so many pixels are short for the convolution kernel; measured


def applies(x: paddle.Tensor) -> bool:
    """Whether the formulations for the CPU are used for ``x``."""
    return paddle.in_dynamic_mode() and x.place.is_cpu_place() and x.dtype in (paddle.float32, paddle.float64)


def _learning(*tensors: paddle.Tensor) -> int:
    """How many of the tensors get a gradient."""
    return sum(not t.stop_gradient for t in tensors) if paddle.is_grad_enabled() else 0


class _ChannelBias(PyLayer):
    @staticmethod
    def forward(ctx, x_bcn, bias_c):
        return x_bcn + bias_c.unsqueeze(-1)

    @staticmethod
    def backward(ctx, grad):
        return grad, _sum_per_channel(grad)


def _sum_per_channel(x_bcn: paddle.Tensor) -> paddle.Tensor:
    # A product with ones: Paddle's sums over several axes are slow.
    ones = paddle.ones([x_bcn.shape[-1], 1], dtype=x_bcn.dtype)
    return paddle.matmul(x_bcn, ones).sum(axis=0).squeeze(-1)


def channel_bias(x_bcn: paddle.Tensor, bias_c: paddle.Tensor) -> paddle.Tensor:
    """Add one number per channel to ``[B, C, N]``; without gradients in the memory of ``x``.

    (Not to ``[B, C, H, W]``: with two axes after the channel's, Paddle's CPU kernel takes twenty times
    as long as with one.)
    """
    learning = _learning(x_bcn, bias_c)
    if learning == 2 and applies(x_bcn):
        return _ChannelBias.apply(x_bcn, bias_c)
    if learning or not applies(x_bcn):
        return x_bcn + bias_c.unsqueeze(-1)
    return x_bcn.add_(bias_c.unsqueeze(-1))


class _Gelu(PyLayer):
    @staticmethod
    def forward(ctx, y):
        cdf = _normal_cdf(y)
        # The slope Φ(y) + y·φ(y), computed here so that one tensor is kept and not two.
        density = (y * y).scale_(-0.5, -0.5 * math.log(2.0 * math.pi)).exp_()
        ctx.save_for_backward(density.multiply_(y).add_(cdf))
        return y * cdf

    @staticmethod
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensor()
        return slope * grad


def _normal_cdf(y: paddle.Tensor) -> paddle.Tensor:
    return paddle.erf(y * math.sqrt(0.5)).scale_(0.5, 0.5)


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """Exact GELU; without gradients in the memory of ``x``. Any shape."""
    learning = _learning(x)
    if not applies(x):
        return F.gelu(x)
    return _Gelu.apply(x) if learning else x.multiply_(_normal_cdf(x))


class _LayerNorm(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        return F.layer_norm(x, [x.shape[-1]], weight, bias, epsilon)

    @staticmethod
    def backward(ctx, grad):
        """Sums over channels and over tokens as matrix products, and so is their repetition."""
        x, weight = ctx.saved_tensor()
        shape, width = x.shape, x.shape[-1]
        x, grad = x.reshape([-1, width]), grad.reshape([-1, width])
        mean = paddle.full([width, 1], 1.0 / width, dtype=x.dtype)
        row = paddle.ones([1, width], dtype=x.dtype)
        column = paddle.ones([1, x.shape[0]], dtype=x.dtype)
        normal = x - paddle.matmul(paddle.matmul(x, mean), row)
        scale = paddle.rsqrt(paddle.matmul(normal * normal, mean) + ctx.epsilon)
        scale = paddle.matmul(scale, row)
        normal = normal.multiply_(scale)
        both = grad * normal
        weighed = (weight / width).unsqueeze(-1)
        lost = normal.multiply_(paddle.matmul(paddle.matmul(both, weighed), row))
        lost = lost.add_(paddle.matmul(paddle.matmul(grad, weighed), row))
        grad_x = (grad * weight).subtract_(lost).multiply_(scale).reshape(shape)
        return grad_x, paddle.matmul(column, both).squeeze(0), paddle.matmul(column, grad).squeeze(0)


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the last axis with a backward pass that takes half the time on a CPU.

    Args:
        width: Length C of the last axis.
        epsilon: Added to the variance.
    """

    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        super().__init__(width, epsilon=epsilon)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[..., C]``. Returns: the same shape."""
        if _learning(x, self.weight, self.bias) == 3 and applies(x):
            return _LayerNorm.apply(x, self.weight, self.bias, self._epsilon)
        return super().forward(x)


class _DepthwiseConv(PyLayer):
    """The gradient to the input is a convolution with the turned kernel: the forward's fast kernel."""

    @staticmethod
    def forward(ctx, x_bchw, weight):
        with paddle.enable_grad():
            kernel = weight.detach()
            kernel.stop_gradient = False
            out = F.conv2d(x_bchw.detach(), kernel, padding=1, groups=kernel.shape[0])
        ctx.inner = out, kernel
        return out.detach()

    @staticmethod
    def backward(ctx, grad):
        out, kernel = ctx.inner
        (grad_kernel,) = paddle.grad(out, kernel, grad)
        grad_x = F.conv2d(grad, kernel.detach().flip([2, 3]), padding=1, groups=kernel.shape[0])
        return grad_x, grad_kernel


def use_packed(x_bchw: paddle.Tensor) -> bool:
    """Whether :func:`pack` pays for a depth-wise convolution of maps ``[B, C, H, W]``.

    The convolution kernel takes several times as long per pixel where rows are short.
    """
    return applies(x_bchw) and 1 < x_bchw.shape[3] + 1 <= _SHORT and x_bchw.shape[0] > 1


def pack(x_bchw: paddle.Tensor, ones: bool = False) -> paddle.Tensor:
    """The images of a batch side by side, a column of zeros after each: ``[C, H, B·(W+1)]``.

    A 3×3 convolution of the result sees zeros at the borders of every image.

    Args:
        x_bchw: Maps ``[B, C, H, W]``.
        ones: Append a channel of ones (zeros in the gaps): a bias in a matrix product then needs no pass
            of its own, and leaves the gaps zero.
    """
    batch, _, height, width = x_bchw.shape
    # A product with a wide identity appends the zeros: many short copies take twice as long.
    x = paddle.matmul(x_bchw, paddle.eye(width, width + 1, dtype=x_bchw.dtype)).transpose([1, 2, 0, 3])
    if ones:
        row = paddle.concat([paddle.ones([width], dtype=x.dtype), paddle.zeros([1], dtype=x.dtype)])
        x = paddle.concat([x, row.expand([1, height, batch, width + 1])], axis=0)
    return x.reshape([-1, height, batch * (width + 1)])


def unpack(x_chl: paddle.Tensor, batch: int) -> paddle.Tensor:
    """The reverse of :func:`pack`, whatever lies in the gaps: ``[B, C, H, W]``."""
    channels, height, length = x_chl.shape
    x = x_chl.reshape([channels, height, batch, length // batch])[:, :, :, :-1]
    return x.transpose([2, 0, 1, 3])


def depthwise_conv3x3(x_bchw: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """Depth-wise 3×3 convolution, stride 1, zeros around, without bias.

    Args:
        x_bchw: Maps ``[B, C, H, W]``.
        weight: Kernels ``[C, 1, 3, 3]``.

    Returns:
        ``[B, C, H, W]``.
    """
    if use_packed(x_bchw):
        packed = depthwise_conv3x3(pack(x_bchw).unsqueeze(0), weight)
        return unpack(packed.squeeze(0), x_bchw.shape[0])
    if applies(x_bchw) and _learning(x_bchw, weight) == 2:
        return _DepthwiseConv.apply(x_bchw, weight)
    return F.conv2d(x_bchw, weight, padding=1, groups=weight.shape[0])
