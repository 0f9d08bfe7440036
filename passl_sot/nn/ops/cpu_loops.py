"""Compiled loops for a CPU over single numbers: GELU and dropout.

GELU is one pass where Paddle takes several, and Paddle draws the numbers of a dropout one by one. They serve
where `passl_sot.nn.ops.cpu_numba` does.
"""

from typing import Any

import numpy as np
import paddle
from paddle.autograd import PyLayer

from passl_sot.nn.ops.cpu_numba import _compiled, _gelu, _times_slope, _view

_F = np.float32
_ZERO = _F(0.0)
_K1 = np.uint32(0x7FEB352D)
_K2 = np.uint32(0x846CA68B)
_S15 = np.uint32(15)
_S16 = np.uint32(16)


@_compiled
def _bits(i, first, second):
    """32 random bits of number i for a pair of keys: two rounds of a mixing of integers (lowbias32)."""
    # Cast after each step: numba widens to 64 bits.
    h = np.uint32(np.uint32(i) + first)
    for _ in range(2):
        h = np.uint32(h ^ np.uint32(h >> _S16))
        h = np.uint32(h * _K1)
        h = np.uint32(h ^ np.uint32(h >> _S15))
        h = np.uint32(h * _K2)
        h = np.uint32(h ^ np.uint32(h >> _S16))
        h = np.uint32(h ^ second)
    return h


@_compiled
def _drop(x, first, second, dropped_below, scale, out):
    for i in range(x.size):
        out[i] = x[i] * scale if _bits(i, first, second) >= dropped_below else _ZERO


class _Gelu(PyLayer):
    @staticmethod
    def forward(ctx: Any, x):
        ctx.save_for_backward(x)
        # Not in the memory of x: loops whose input may overlap the output aren't made vector instructions.
        out = paddle.empty_like(x)
        _gelu(_view(x, -1), _ZERO, _view(out, -1))
        return out

    @staticmethod
    def backward(ctx: Any, grad):
        (x,) = ctx.saved_tensor()
        out = grad.clone()
        _times_slope(_view(x, -1), _ZERO, _view(out, -1))
        return out


class _Drops:
    """Which numbers a dropout drops: the same at each call."""

    def __init__(self, rate: float) -> None:
        # By Paddle's generator, so that its seed and its saved state mean what they mean elsewhere.
        self._keys = paddle.randint(0, 2**31 - 1, [2]).numpy().astype(np.uint32)
        self._below = np.uint32(round(rate * 2**32))
        self._scale = _F(1.0 / (1.0 - rate))

    def __call__(self, x: paddle.Tensor) -> paddle.Tensor:
        out = paddle.empty_like(x)
        _drop(_view(x, -1), *self._keys, self._below, self._scale, _view(out, -1))
        return out


class _Dropout(PyLayer):
    @staticmethod
    def forward(ctx: Any, x, rate):
        ctx.drops = _Drops(rate)
        return ctx.drops(x)

    @staticmethod
    def backward(ctx: Any, grad):
        return ctx.drops(grad.contiguous())


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """Exact GELU of any shape."""
    return _Gelu.apply(x.contiguous())


def dropout(x: paddle.Tensor, rate: float) -> paddle.Tensor:
    """Dropout of any shape."""
    return _Dropout.apply(x.contiguous(), rate)
