"""Normal noise, as a compiled loop; see `passl_sot.data.transforms.noise`, which says how it is made."""

from __future__ import annotations

import math

import numpy as np

from passl_sot.imageio.kernels.jit import compiled

__all__ = ["fill"]

_LONG = np.uint64
_STEP, _FIRST, _SECOND = _LONG(0x9E3779B97F4A7C15), _LONG(0xBF58476D1CE4E5B9), _LONG(0x94D049BB133111EB)
_30, _27, _31, _52, _28, _11 = _LONG(30), _LONG(27), _LONG(31), _LONG(52), _LONG(28), _LONG(11)
_FRACTION = _LONG(0xFFFFFF)
_SCALE, _DOUBLE = np.float32(2.0**-24), 2.0**-53


@compiled
def _hash(number):
    number = (number ^ (number >> _30)) * _FIRST
    number = (number ^ (number >> _27)) * _SECOND
    return number ^ (number >> _31)


@compiled
def _tail(number, edge):
    """Beyond the edge, by Marsaglia's method of 1964, from further hashes of the number."""
    while True:
        number = _hash(number + _STEP)
        x = -math.log(1.0 - (number >> _11) * _DOUBLE) / edge
        number = _hash(number + _STEP)
        y = -math.log(1.0 - (number >> _11) * _DOUBLE)
        if y + y > x * x:
            return edge + x


@compiled
def fill(key, quantiles, image, top, bottom, left, right):
    """Writes noise to a rectangle.

    Args:
        key: What it is a function of, uint64.
        quantiles: float32 [4097].
        image: float32 [C, H, W].
        top: The rectangle's first row.
        bottom: The row behind its last.
        left: Its first column.
        right: The column behind its last.
    """
    edge = quantiles[4095]
    number = key
    for c in range(image.shape[0]):
        for r in range(top, bottom):
            row = image[c, r][left:right]
            for i in range(row.size):
                bits = _hash(number + _LONG(i) * _STEP)
                place = bits >> _52
                low = quantiles[place]
                share = np.float32((bits >> _28) & _FRACTION) * _SCALE
                row[i] = low + share * (quantiles[place + _LONG(1)] - low)
            for i in range(row.size):
                if abs(row[i]) >= edge:
                    bits = _hash(number + _LONG(i) * _STEP)
                    place = bits >> _52
                    if place == _LONG(0):
                        row[i] = -_tail(bits, float(edge))
                    elif place == _LONG(4095):
                        row[i] = _tail(bits, float(edge))
            number += _LONG(row.size) * _STEP
