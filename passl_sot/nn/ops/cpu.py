"""Operations in a formulation that is fast on a CPU in Paddle's eager mode, for float32 and float64.

`passl_sot.nn.ops` calls them. Where Paddle's backward pass takes several times the forward's time, they have
one of their own. Times are Paddle 3.3's with the settings of `launch.cpu_env`.

Legend: B batch, C channels, H rows, W columns, N = H·W pixels.
"""

import math

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

_TANH_A = 2.0 * math.sqrt(2.0 / math.pi)
_TANH_B = 0.044715 * _TANH_A
_SHORT = 48  # rows of so many pixels are short for the convolution kernel; measured


class _Gelu(PyLayer):
    @staticmethod
    def forward(ctx, y):
        cdf = normal_cdf(y)
        # The slope Φ(y) + y·φ(y), computed here so that one tensor is kept and not two.
        density = (y * y).scale_(-0.5, -0.5 * math.log(2.0 * math.pi)).exp_()
        ctx.save_for_backward(density.multiply_(y).add_(cdf))
        return y * cdf

    @staticmethod
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensor()
        return slope * grad


class _TanhGelu(PyLayer):
    @staticmethod
    def forward(ctx, y):
        # y·(1 + tanh(√(2/π)·(y + 0.044715·y³)))/2 is y·σ(y·(a + b·y²)).
        square = y * y
        gate = F.sigmoid(square.scale(_TANH_B, _TANH_A).multiply_(y))
        inner = square.scale_(3.0 * _TANH_B, _TANH_A).multiply_(y)
        ctx.save_for_backward(inner.multiply_(gate - gate * gate).add_(gate))
        return y * gate

    @staticmethod
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensor()
        return slope * grad


def normal_cdf(y: paddle.Tensor) -> paddle.Tensor:
    """Φ(y) of any shape."""
    return paddle.erf(y * math.sqrt(0.5)).scale_(0.5, 0.5)


class _LayerNorm(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        ctx.save_for_backward(x, weight)
        ctx.frozen = weight.stop_gradient, bias.stop_gradient
        ctx.epsilon = epsilon
        return F.layer_norm(x, [x.shape[-1]], weight, bias, epsilon)

    @staticmethod
    def backward(ctx, grad):
        # Paddle's backward kernel takes 30 times its forward. The forward kernel gives x̂ again, and sums
        # over channels and tokens are products.
        x, weight = ctx.saved_tensor()
        shape = x.shape
        width = shape[-1]
        x = x.reshape([-1, width])
        grad = grad.reshape([-1, width])
        normal = F.layer_norm(x, [width], None, None, ctx.epsilon)
        scale = _inverse_std(x, normal, ctx.epsilon)
        both = grad * normal
        ones = paddle.ones([1, x.shape[0]], dtype=x.dtype)
        sums = []
        for terms, frozen in zip((both, grad), ctx.frozen, strict=True):
            sums.append(None if frozen else paddle.matmul(ones, terms).squeeze(0))
        mean_weight = (weight / width).unsqueeze(-1)
        along_normal = normal.multiply_(paddle.matmul(both, mean_weight))
        grad_x = (grad * weight).subtract_(along_normal).subtract_(paddle.matmul(grad, mean_weight))
        return grad_x.multiply_(scale).reshape(shape), *sums


def _inverse_std(x: paddle.Tensor, normal: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    """1/sqrt(v + ε) per row, ``[M, 1]``, from x and x̂ = (x - m)/sqrt(v + ε), both ``[M, C]``."""
    mean = paddle.full([x.shape[1], 1], 1.0 / x.shape[1], dtype=x.dtype)
    # s = mean((x - m)·x̂) is v/sqrt(v + ε), which gives v as the positive root of v² = s²(v + ε).
    s = paddle.matmul(x * normal, mean) - paddle.matmul(x, mean) * paddle.matmul(normal, mean)
    s = s.clip(min=0.0)
    squared = s * s
    return paddle.rsqrt((squared + s * paddle.sqrt(squared + 4.0 * epsilon)) * 0.5 + epsilon)


def biased_product(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """x · weight + bias of ``[..., in]``."""
    # One product that starts from the bias: added afterwards, it costs up to a third of the whole.
    out = paddle.addmm(bias.unsqueeze(0), x.reshape([-1, x.shape[-1]]), weight)
    return out.reshape([*x.shape[:-1], weight.shape[1]])


class _Linear(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.x_learns = not x.stop_gradient
        return biased_product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensor()
        grad_x = None
        if ctx.x_learns:
            grad_x = paddle.matmul(grad, weight, transpose_y=True)
        x = x.reshape([-1, x.shape[-1]])
        grad = grad.reshape([-1, grad.shape[-1]])
        # A product with ones: Paddle's sum over rows takes 50 times as long.
        ones = paddle.ones([1, grad.shape[0]], dtype=grad.dtype)
        return grad_x, paddle.matmul(x, grad, transpose_x=True), paddle.matmul(ones, grad).squeeze(0)


def packing_pays(x_bchw: paddle.Tensor) -> bool:
    """Whether `pack` pays for a depth-wise convolution of these maps."""
    # The convolution kernel takes several times as long per pixel where rows are short.
    return x_bchw.shape[0] > 1 and x_bchw.shape[3] < _SHORT


def pack(x_bchw: paddle.Tensor, ones: bool = False) -> paddle.Tensor:
    """Maps ``[B, C, H, W]`` side by side, a column of zeros after each: ``[C, H, B·(W+1)]``.

    With ``ones`` a channel of ones follows, with zeros in the gaps.
    """
    # So a 3×3 convolution of the result sees zeros at the borders of every image.
    batch, _, height, width = x_bchw.shape
    # A product with a wide identity appends the zeros: many short copies take twice as long.
    x = paddle.matmul(x_bchw, paddle.eye(width, width + 1, dtype=x_bchw.dtype)).transpose([1, 2, 0, 3])
    if ones:
        row = paddle.concat([paddle.ones([width], dtype=x.dtype), paddle.zeros([1], dtype=x.dtype)])
        x = paddle.concat([x, row.expand([1, height, batch, width + 1])], axis=0)
    return x.reshape([-1, height, batch * (width + 1)])


def unpack(x_chl: paddle.Tensor, batch: int) -> paddle.Tensor:
    """The reverse of `pack`, without the gaps: ``[B, C, H, W]``."""
    channels, height, length = x_chl.shape
    x = x_chl.reshape([channels, height, batch, length // batch])[:, :, :, :-1]
    return x.transpose([2, 0, 1, 3])


class _Depthwise(PyLayer):
    @staticmethod
    def forward(ctx, x_bchw, weight):
        with paddle.enable_grad():
            kernel = weight.detach()
            kernel.stop_gradient = False
            out = F.conv2d(x_bchw.detach(), kernel, padding=1, groups=kernel.shape[0])
        ctx.inner = (out, kernel)
        return out.detach()

    @staticmethod
    def backward(ctx, grad):
        out, kernel = ctx.inner
        (grad_kernel,) = paddle.grad(out, kernel, grad)
        # A convolution with the turned kernel: the forward's kernel is the faster one.
        grad_x = F.conv2d(grad, kernel.detach().flip([2, 3]), padding=1, groups=kernel.shape[0])
        return grad_x, grad_kernel


# Differentiable functions; each gives gradients to all its tensors, but `linear`, whose x may be frozen, and
# `layer_norm`, whose scale and shift may.
gelu = _Gelu.apply
tanh_gelu = _TanhGelu.apply
layer_norm = _LayerNorm.apply
linear = _Linear.apply
depthwise3x3 = _Depthwise.apply
