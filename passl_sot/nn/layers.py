"""Paddle's layers with their computation taken from `passl_sot.nn.ops`; parameters and names are Paddle's."""

import paddle
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


class Conv2D(nn.Conv2D):
    """``nn.Conv2D`` without dilation, padded by zeros."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[B, C, H, W]``. Returns: ``[B, out, H', W']``."""
        return ops.conv2d(x, self.weight, self.bias, self._stride, self._updated_padding, self._groups)
