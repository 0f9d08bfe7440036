"""Parameter initialisers with the distributions the official PyTorch recipes were tuned for.

Paddle's own defaults differ: ``nn.Linear`` starts Xavier-uniform, ``nn.Conv2D`` normal with a
standard deviation about 2.4 times PyTorch's, and ``TruncatedNormal`` changed its meaning
between Paddle 2.6 (cut at two standard deviations) and 3.0 (cut at absolute values).
"""

import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn.layers import Conv2D, Linear

__all__ = [
    "BatchNorm2D",
    "batch_norm",
    "conv2d",
    "linear",
    "torch_default_",
    "trunc_normal_",
    "uniform_fan_in_",
]


def trunc_normal_(
    param: paddle.Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> paddle.Tensor:
    """Fill ``param`` in place from a normal distribution cut to the absolute interval [a, b].

    Semantics of ``timm.models.layers.trunc_normal_``: with ``std=0.02`` the cut at 2 lies a
    hundred standard deviations out, so the values are in practice plainly normal. Drawn in
    float64 by the inverse distribution function: a float32 uniform number can reach exactly
    -1, whose inverse is minus infinity, which PyTorch then clips to a stray -2.

    Args:
        param: Parameter of any shape.
        mean: Mean of the normal distribution before cutting.
        std: Its standard deviation, positive.
        a: Lower cut, in the parameter's own units (not in standard deviations).
        b: Upper cut.

    Returns:
        ``param`` itself.
    """

    def cdf(value: float) -> float:
        return (1.0 + math.erf((value - mean) / (std * math.sqrt(2.0)))) / 2.0

    low, high = 2.0 * cdf(a) - 1.0, 2.0 * cdf(b) - 1.0
    with paddle.no_grad():
        draw = paddle.uniform([math.prod(param.shape)], dtype="float64", min=low, max=high)
        values = paddle.clip(paddle.erfinv(draw) * (std * math.sqrt(2.0)) + mean, a, b)
        param.set_value(values.reshape(param.shape).astype(param.dtype))
    return param


def uniform_fan_in_(param: paddle.Tensor, fan_in: int) -> paddle.Tensor:
    """Fill ``param`` in place uniformly in ±1/sqrt(fan_in): PyTorch's default for convolutions.

    (PyTorch writes it as Kaiming-uniform with a = √5, for weights and biases alike.)
    """
    bound = 1.0 / math.sqrt(fan_in)
    with paddle.no_grad():
        draw = paddle.uniform([math.prod(param.shape)], dtype="float64", min=-bound, max=bound)
        param.set_value(draw.reshape(param.shape).astype(param.dtype))
    return param


def linear(in_features: int, out_features: int, bias: bool = True, std: float = 0.02) -> nn.Linear:
    """``nn.Linear`` with truncated-normal weights (``std``, cut at ±2) and zero bias."""
    zero = nn.initializer.Constant(0.0)
    layer = Linear(
        in_features,
        out_features,
        weight_attr=paddle.ParamAttr(initializer=zero),
        bias_attr=paddle.ParamAttr(initializer=zero) if bias else False,
    )
    trunc_normal_(layer.weight, std=std)
    return layer


def torch_default_(layer: nn.Layer) -> nn.Layer:
    """Start every Linear inside ``layer`` as PyTorch does by default: uniform, ±1/sqrt(inputs).

    For models whose authors initialise no Linear (PiT). Biases are drawn too, not zero.

    Returns:
        ``layer`` itself.
    """
    for part in layer.sublayers(include_self=True):
        if isinstance(part, nn.Linear):
            fan_in = part.weight.shape[0]
            uniform_fan_in_(part.weight, fan_in)
            if part.bias is not None:
                uniform_fan_in_(part.bias, fan_in)
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
    """``nn.Conv2D`` with PyTorch's default initialisation of weight and bias."""
    zero = nn.initializer.Constant(0.0)
    layer = Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=padding,
        groups=groups,
        weight_attr=paddle.ParamAttr(initializer=zero),
        bias_attr=paddle.ParamAttr(initializer=zero) if bias else False,
    )
    fan_in = in_channels // groups * kernel_size * kernel_size
    uniform_fan_in_(layer.weight, fan_in)
    if bias:
        uniform_fan_in_(layer.bias, fan_in)
    return layer


class BatchNorm2D(nn.BatchNorm2D):
    """``nn.BatchNorm2D`` without the warning that it gives at every training run."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[B, C, H, W]``. Returns: the same shape."""
        return F.batch_norm(
            x,
            self._mean,
            self._variance,
            weight=self.weight,
            bias=self.bias,
            training=self.training,
            momentum=self._momentum,
            epsilon=self._epsilon,
            data_format=self._data_format,
        )


def batch_norm(channels: int, epsilon: float = 1e-5, torch_momentum: float = 0.1) -> nn.BatchNorm2D:
    """BatchNorm with the momentum given as PyTorch counts it (Paddle's is 1 minus that)."""
    return BatchNorm2D(channels, momentum=1.0 - torch_momentum, epsilon=epsilon)
