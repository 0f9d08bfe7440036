"""Paddle's layers with their computation taken from `passl_sot.nn.ops`, and stochastic depth.

Parameters and names are Paddle's.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn import ops


class Linear(nn.Linear):
    """``nn.Linear``, with its arguments."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[..., in_features]``. Returns: ``[..., out_features]``."""
        return ops.linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the last axis, of length C."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[..., C]``. Returns: the same shape."""
        return ops.layer_norm(x, self.weight, self.bias, self._epsilon)


class GELU(nn.GELU):
    """``nn.GELU`` in its exact form."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: any shape. Returns: the same shape."""
        return ops.gelu(x)


class Dropout(nn.Dropout):
    """``nn.Dropout`` of single numbers."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: any shape. Returns: the same shape."""
        return ops.dropout(x, self.p) if self.training and self.p else x


class Conv2D(nn.Conv2D):
    """``nn.Conv2D`` without dilation, padded by zeros."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[B, C, H, W]``. Returns: ``[B, out, H', W']``."""
        return ops.conv2d(x, self.weight, self.bias, self._stride, self._updated_padding, self._groups)


class DropPath(nn.Layer):
    """Drops a whole residual branch for some samples of a batch while training.

    One Bernoulli draw per sample; kept samples are divided by the keep probability, so the
    expectation is unchanged (Huang et al., "Deep Networks with Stochastic Depth", 2016).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        """Set the probability of dropping; a ValueError outside [0, 1)."""
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop-path rate must lie in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[B, ...]``. Returns: the same shape."""
        # Nothing is drawn, so that a rate of 0 leaves the random state alone.
        if self.rate == 0.0 or not self.training:
            return x
        # A dropout over one number per sample: no arithmetic on shapes, so any traced batch works.
        axes = list(range(1, x.ndim))
        corner = paddle.slice(x, axes=axes, starts=[0] * len(axes), ends=[1] * len(axes))
        return x * F.dropout(paddle.ones_like(corner), p=self.rate, training=True)
