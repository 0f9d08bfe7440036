"""Parameter initializers with the distributions the official PyTorch recipes were tuned for."""

import math

import paddle
from paddle import nn

from passl_sot.nn.layers import Conv2D, Linear


def _fill(param: paddle.Tensor, draw: paddle.Tensor) -> paddle.Tensor:
    param.set_value(draw.reshape(param.shape).astype(param.dtype))
    return param


@paddle.no_grad()
def trunc_normal_(param: paddle.Tensor, std: float = 1.0) -> paddle.Tensor:
    """Fill ``param`` in place from a normal distribution of mean 0 cut to [-2, 2]; gives it back.

    The cut is in the parameter's own units, not in stds, as in ``timm.models.layers.trunc_normal_``: with
    ``std=0.02`` it lies a hundred stds out, so that the values are in practice plainly normal.
    """
    # Paddle's TruncatedNormal cuts at two stds in 2.6 and at absolute values in 3.x. Drawn in float64 by
    # the inverse distribution function: a float32 uniform number can reach exactly -1, whose inverse is
    # minus infinity, which PyTorch then clips to a stray -2.
    bound = math.erf(2.0 / (std * math.sqrt(2.0)))
    draw = paddle.uniform([math.prod(param.shape)], dtype="float64", min=-bound, max=bound)
    return _fill(param, paddle.clip(paddle.erfinv(draw) * (std * math.sqrt(2.0)), -2.0, 2.0))


@paddle.no_grad()
def uniform_fan_in_(layer: nn.Layer, fan_in: int) -> None:
    """Fill a layer's own parameters uniformly in ±1/sqrt(fan_in): PyTorch's default."""
    # PyTorch writes it as Kaiming-uniform with a = √5, for weights and biases alike.
    bound = 1.0 / math.sqrt(fan_in)
    for param in layer.parameters(include_sublayers=False):
        _fill(param, paddle.uniform([math.prod(param.shape)], dtype="float64", min=-bound, max=bound))


def _zero() -> paddle.ParamAttr:
    # Paddle's own defaults differ from PyTorch's (Linear: Xavier-uniform, Conv2D: normal with a std about
    # 2.4 times as large), and would draw random numbers only for others to take their place.
    return paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))


def linear(in_features: int, out_features: int, bias: bool = True, std: float = 0.02) -> nn.Linear:
    """``nn.Linear`` with truncated-normal weights (``std``, cut at ±2) and zero bias."""
    layer = Linear(in_features, out_features, weight_attr=_zero(), bias_attr=bias and _zero())
    trunc_normal_(layer.weight, std)
    return layer


def embedding(rows: int, width: int, zero_row: int | None = None) -> nn.Embedding:
    """``nn.Embedding`` with normal weights (std 0.02), one row of which may start at zero."""
    layer = nn.Embedding(rows, width, weight_attr=_zero())
    trunc_normal_(layer.weight, 0.02)
    if zero_row is not None:
        with paddle.no_grad():
            layer.weight[zero_row] = 0.0
    return layer


def torch_default_(layer: nn.Layer) -> nn.Layer:
    """Start every Linear inside ``layer`` as PyTorch does by default: uniform, ±1/sqrt(inputs), biases too.

    For models whose authors initialize no Linear (PiT). Gives ``layer`` back.
    """
    for part in layer.sublayers(include_self=True):
        if isinstance(part, nn.Linear):
            uniform_fan_in_(part, part.weight.shape[0])
    return layer


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2D:
    """``nn.Conv2D`` with PyTorch's default initialization of weight and bias."""
    start = {"weight_attr": _zero(), "bias_attr": bias and _zero()}
    layer = Conv2D(in_channels, out_channels, kernel_size, stride, padding, groups=groups, **start)
    uniform_fan_in_(layer, in_channels // groups * kernel_size * kernel_size)
    return layer
