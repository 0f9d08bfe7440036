"""Compiled loops for a CPU over numbers and rows: GELU, dropout, and the softmax of attention.

GELU is one pass where Paddle takes several, Paddle draws the numbers of a dropout one by one, and its softmax
takes twice as long unless rows are multiples of 128. They serve where `passl_sot.nn.ops.cpu_numba` does.
"""

from typing import Any

import numpy as np
import paddle
from paddle.autograd import PyLayer

from passl_sot.imageio.kernels import jit
from passl_sot.nn.ops.cpu_numba import _FLAGS, _compiled, _gelu, _times_slope, _view, numba

_F = np.float32
_ZERO = _F(0.0)
_ONE = _F(1.0)
_LOG2E = 1.4426950408889634
_LOWEST = _F(-92.0)  # about where Paddle cuts, and far from numbers that are slow because they are tiny
# 2^x on [0, 1], lowest power first: fitted by least squares, relative error 3e-9.
_E0, _E1, _E2, _E3 = map(_F, (1.0, 0.693146929, 0.240230502, 0.0554804263))
_E4, _E5, _E6 = map(_F, (0.00968458045, 0.00123878215, 0.000218775048))
_BIAS = np.int32(127)  # of a float32's exponent
_MANTISSA = np.int32(23)  # its bits below the exponent
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


def _greatest(row):
    greatest = row[0]
    for j in range(row.size):
        greatest = max(greatest, row[j])
    return greatest


if numba is not None:
    # With NaN any number may come out, which the loops that follow turn into NaN.
    _greatest = jit.compiled(_greatest, fastmath={*_FLAGS, "nnan"})


@_compiled
def _softmax_rows(x, scale, out):
    """Softmax of scale · x, row by row; the scale is times log2(e)."""
    exponents = np.empty(x.shape[1], np.int32)
    powers = exponents.view(np.float32)
    for r in range(x.shape[0]):
        row = x[r]
        to = out[r]
        greatest = _greatest(row)
        # e^y as 2^(k + f): the whole part k becomes the exponent of a float, 2^f is a polynomial.
        for j in range(row.size):
            y = (row[j] - greatest) * scale
            if y < _LOWEST:  # not max(), which would hide NaN
                y = _LOWEST
            k = np.floor(y)
            f = y - k
            exponents[j] = (np.int32(k) + _BIAS) << _MANTISSA
            to[j] = (((((_E6 * f + _E5) * f + _E4) * f + _E3) * f + _E2) * f + _E1) * f + _E0
        total = _ZERO
        for j in range(row.size):
            to[j] *= powers[j]
            total += to[j]
        factor = _ONE / total
        for j in range(row.size):
            to[j] *= factor


@_compiled
def _softmax_rows_backward(y, grad, scale, out):
    for r in range(y.shape[0]):
        total = _ZERO
        for j in range(y.shape[1]):
            total += y[r, j] * grad[r, j]
        for j in range(y.shape[1]):
            out[r, j] = (grad[r, j] - total) * y[r, j] * scale


class _Softmax(PyLayer):
    @staticmethod
    def forward(ctx: Any, x, scale):
        ctx.scale = scale
        rows = (-1, x.shape[-1])
        out = paddle.empty_like(x)
        _softmax_rows(_view(x, *rows), _F(scale * _LOG2E), _view(out, *rows))
        # Detached: `out` itself will hold this node, and a node that held it would never be freed where
        # there is no backward().
        ctx.save_for_backward(out.detach())
        return out

    @staticmethod
    def backward(ctx: Any, grad):
        (y,) = ctx.saved_tensor()
        rows = (-1, y.shape[-1])
        grad = grad.contiguous()
        out = paddle.empty_like(y)
        _softmax_rows_backward(_view(y, *rows), _view(grad, *rows), _F(ctx.scale), _view(out, *rows))
        return out


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


def softmax(x: paddle.Tensor, scale: float = 1.0) -> paddle.Tensor:
    """Softmax of scale · x over the last axis."""
    return _Softmax.apply(x.contiguous(), scale)
