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
    "GELU",
    "Conv2D",
    "LayerNorm",
    "Linear",
    "affine",
    "applies",
    "channel_bias",
    "depthwise_conv3x3",
    "erf_gate",
    "gelu",
    "pack",
    "unpack",
    "use_packed",
]

_SHORT = 48  # rows of so many pixels are short for the convolution kernel; measured


@paddle.jit.not_to_static
def applies(x: paddle.Tensor) -> bool:
    """Whether the formulations for the CPU are used for ``x``."""
    if not paddle.in_dynamic_mode():
        return False
    return x.place.is_cpu_place() and x.dtype in (paddle.float32, paddle.float64)


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


class Conv2D(nn.Conv2D):
    """``nn.Conv2D`` with its bias added by :func:`channel_bias`, and 1×1 kernels as a matrix product."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[B, C, H, W]``. Returns: ``[B, out, H', W']``."""
        if not applies(x):
            return super().forward(x)
        point = self._kernel_size == [1, 1] and self._groups == 1 and self._updated_padding in (0, [0, 0])
        if point:
            down, right = self._stride
            x = x if down == right == 1 else x[:, :, ::down, ::right]
            maps, size = paddle.matmul(self.weight.flatten(1), x.flatten(2)), x.shape[2:]
        else:
            maps = F.conv2d(
                x,
                self.weight,
                stride=self._stride,
                padding=self._updated_padding,
                dilation=self._dilation,
                groups=self._groups,
            )
            size = maps.shape[2:]
            maps = maps.flatten(2)
        if self.bias is not None:
            maps = channel_bias(maps, self.bias)
        return maps.reshape([0, 0, *size])


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


class _ErfGate(PyLayer):
    @staticmethod
    def forward(ctx, u):
        gate = paddle.erf(u).scale_(1.0, 1.0)
        slope = (u * u).scale_(-1.0, math.log(2.0 / math.sqrt(math.pi))).exp_()
        ctx.save_for_backward(slope.multiply_(u).add_(gate))
        return gate.multiply_(u)

    @staticmethod
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensor()
        return slope * grad


def erf_gate(u: paddle.Tensor) -> paddle.Tensor:
    """u·(1 + erf u), which is √2·gelu(√2·u); without gradients in the memory of ``u``. Any shape.

    Where the layers before and after take a factor √½ into their weights, this is a GELU with a pass less.
    """
    if not applies(u):
        return F.gelu(u * math.sqrt(2.0)) * math.sqrt(2.0)  # 16 bits are computed in 32 inside
    return _ErfGate.apply(u) if _learning(u) else u.multiply_(paddle.erf(u).scale_(1.0, 1.0))


class GELU(nn.GELU):
    """:func:`gelu` as a layer."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: any shape. Returns: the same shape."""
        return gelu(x)


class _LayerNorm(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        return F.layer_norm(x, [x.shape[-1]], weight, bias, epsilon)

    @staticmethod
    def backward(ctx, grad):
        """The forward kernel is fast and gives x̂ again; sums over channels and tokens are products."""
        x, weight = ctx.saved_tensor()
        shape, width = x.shape, x.shape[-1]
        x, grad = x.reshape([-1, width]), grad.reshape([-1, width])
        normal = F.layer_norm(x, [width], None, None, ctx.epsilon)
        mean = paddle.full([width, 1], 1.0 / width, dtype=x.dtype)
        column = paddle.ones([1, x.shape[0]], dtype=x.dtype)
        scale = _inverse_deviation(x, normal, mean, ctx.epsilon)
        both = grad * normal
        grad_weight, grad_bias = (
            paddle.matmul(column, both).squeeze(0),
            paddle.matmul(column, grad).squeeze(0),
        )
        weighed = (weight / width).unsqueeze(-1)
        lost = normal.multiply_(paddle.matmul(both, weighed))
        grad_x = (grad * weight).subtract_(lost).subtract_(paddle.matmul(grad, weighed)).multiply_(scale)
        return grad_x.reshape(shape), grad_weight, grad_bias


def _inverse_deviation(
    x: paddle.Tensor, normal: paddle.Tensor, mean: paddle.Tensor, epsilon: float
) -> paddle.Tensor:
    """1/sqrt(v + ε) per row, ``[M, 1]``, from x and x̂ = (x - m)/sqrt(v + ε), both ``[M, C]``.

    s = mean((x - m)·x̂) is v/sqrt(v + ε), which gives v as the positive root of v² = s²(v + ε).
    """
    s = paddle.matmul(x * normal, mean) - paddle.matmul(x, mean) * paddle.matmul(normal, mean)
    s = s.clip(min=0.0)
    squared = s * s
    return paddle.rsqrt((squared + s * paddle.sqrt(squared + 4.0 * epsilon)) * 0.5 + epsilon)


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


def _affine(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    # One product that starts from the bias: added afterwards, it costs up to a third of the whole.
    out = paddle.addmm(bias.unsqueeze(0), x.reshape([-1, x.shape[-1]]), weight)
    return out.reshape([*x.shape[:-1], weight.shape[1]])


class _Affine(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.x_learns = not x.stop_gradient
        return _affine(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        """The bias's gradient is a product with ones: Paddle's sum over rows takes 50 times as long."""
        x, weight = ctx.saved_tensor()
        grad_x = paddle.matmul(grad, weight, transpose_y=True) if ctx.x_learns else None
        x, grad = x.reshape([-1, x.shape[-1]]), grad.reshape([-1, grad.shape[-1]])
        ones = paddle.ones([1, grad.shape[0]], dtype=grad.dtype)
        grad_bias = paddle.matmul(ones, grad).squeeze(0)
        return grad_x, paddle.matmul(x, grad, transpose_x=True), grad_bias


def affine(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """``F.linear``: x · weight + bias.

    Args:
        x: ``[..., in]``.
        weight: ``[in, out]``.
        bias: ``[out]``.

    Returns:
        ``[..., out]``.
    """
    if bias is None or not applies(x):
        return F.linear(x, weight, bias)
    if _learning(weight, bias) == 2:
        return _Affine.apply(x, weight, bias)
    return F.linear(x, weight, bias) if _learning(x, weight, bias) else _affine(x, weight, bias)


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`affine`; its arguments are those of ``nn.Linear``."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[..., in_features]``. Returns: ``[..., out_features]``."""
        return affine(x, self.weight, self.bias)


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
