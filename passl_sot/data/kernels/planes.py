"""Mirroring, normalising, and mixing two images, as compiled loops. The numbers are NumPy's."""

from __future__ import annotations

import numpy as np

from passl_sot.data.kernels.compiling import compiled

__all__ = ["blend_bytes", "blend_floats", "mirror", "normalize"]

_SINGLE = np.float32


@compiled
def mirror(x, out):
    """Rows of RGB pixels from right to left, uint8 [H, 3·W]."""
    width = x.shape[1] // 3
    planes = np.empty((3, width), np.uint8)
    red, green, blue = planes[0], planes[1], planes[2]
    turned_red, turned_green, turned_blue = red[::-1], green[::-1], blue[::-1]
    for y in range(x.shape[0]):
        source, target = x[y], out[y]
        for i in range(width):
            red[i], green[i], blue[i] = source[3 * i], source[3 * i + 1], source[3 * i + 2]
        for i in range(width):
            target[3 * i], target[3 * i + 1] = turned_red[i], turned_green[i]
            target[3 * i + 2] = turned_blue[i]


@compiled
def normalize(x, scale, bias, out):
    """x·scale + bias, a plane per channel.

    Args:
        x: uint8 [H·W·C], channels last.
        scale: float32 [C].
        bias: float32 [C].
        out: float32 [C, H·W].
    """
    channels, n = out.shape
    if channels == 3:  # a distance that is known here lets three planes be read at once
        s0, s1, s2, b0, b1, b2 = scale[0], scale[1], scale[2], bias[0], bias[1], bias[2]
        red, green, blue = out[0], out[1], out[2]
        for i in range(n):
            red[i] = _SINGLE(x[3 * i]) * s0 + b0
            green[i] = _SINGLE(x[3 * i + 1]) * s1 + b1
            blue[i] = _SINGLE(x[3 * i + 2]) * s2 + b2
    else:
        for c in range(channels):
            for i in range(n):
                out[c, i] = _SINGLE(x[channels * i + c]) * scale[c] + bias[c]


@compiled
def blend_bytes(a, b, share, rest):
    """Bytes of two images become a·share + b·rest and b·share + a·rest, rounded to even at a half."""
    for i in range(a.size):
        x, y = _SINGLE(a[i]), _SINGLE(b[i])
        a[i], b[i] = np.uint8(np.rint(x * share + y * rest)), np.uint8(np.rint(y * share + x * rest))


@compiled
def blend_floats(a, b, share, rest):
    """The same of float32, not rounded."""
    for i in range(a.size):
        x, y = a[i], b[i]
        a[i], b[i] = x * share + y * rest, y * share + x * rest
