"""Mirroring, cropping, normalizing and mixing images as compiled loops. The numbers are NumPy's.

Compiled because NumPy takes rows of three bytes one by one, or copies images several times. The compiler
needs help: rows as views of their own, whose indices can't be negative, cost a fifth of `x[y, i + left]`.
"""

import numpy as np

from passl_sot.imageio.kernels.jit import compiled

_SINGLE = np.float32


@compiled
def mirror(x, out):
    """Rows of RGB pixels from right to left, uint8 [H, 3·W]."""
    width = x.shape[1] // 3
    # A plane per channel in between: single bytes are read backwards many at once, groups of three aren't.
    planes = np.empty((3, width), np.uint8)
    turned = planes[:, ::-1]
    for y in range(x.shape[0]):
        source = x[y]
        target = out[y]
        for i in range(width):
            for c in range(3):
                planes[c, i] = source[3 * i + c]
        for i in range(width):
            for c in range(3):
                target[3 * i + c] = turned[c, i]


@compiled
def transpose(x):
    """RGB pixels of uint8 [H, 3·W] to [W, 3·H]."""
    out = np.empty((x.shape[1] // 3, 3 * x.shape[0]), np.uint8)
    for i in range(out.shape[0]):
        for y in range(x.shape[0]):
            for c in range(3):
                out[i, 3 * y + c] = x[y, 3 * i + c]
    return out


@compiled
def copy_bytes(source, target):
    """Copies one array of bytes to another; an assignment of slices takes several times as long."""
    for k in range(source.size):
        target[k] = source[k]


@compiled
def mirror_each(x, turned, out):
    """Copies of images, uint8 [B, H, W, C], from right to left where `turned`, bool [B]."""
    height, width, channels = x.shape[1:]
    for i in range(len(x)):
        if not turned[i]:
            copy_bytes(x[i].reshape(-1), out[i].reshape(-1))
        elif channels == 3:
            mirror(x[i].reshape(height, 3 * width), out[i].reshape(height, 3 * width))
        else:
            out[i] = x[i, :, ::-1]


@compiled
def crop_each(x, tops, lefts, out):
    """A rectangle of each image; ``out`` stays as it is where that sticks out.

    Args:
        x: uint8 [B, H, W·C].
        tops: Its first row, which may be below 0, int64 [B].
        lefts: Its first byte of a row, likewise.
        out: uint8 [B, h, w·C].
    """
    for i in range(len(x)):
        top = tops[i]
        left = lefts[i]
        first = max(0, -left)
        end = max(first, min(out.shape[2], x.shape[2] - left))
        for y in range(max(0, -top), min(out.shape[1], x.shape[1] - top)):
            copy_bytes(x[i, y + top, first + left : end + left], out[i, y, first:end])


@compiled
def normalize(x, scale, bias, out):
    """x·scale + bias, float32 [C] each, of uint8 [H·W·C] to a plane per channel, float32 [C, H·W]."""
    channels, n = out.shape
    if channels == 3:  # a distance that is known here lets three planes be read at once
        for i in range(n):
            for c in range(3):
                out[c, i] = _SINGLE(x[3 * i + c]) * scale[c] + bias[c]
    else:
        for c in range(channels):
            for i in range(n):
                out[c, i] = _SINGLE(x[channels * i + c]) * scale[c] + bias[c]


@compiled
def normalize_each(x, scale, bias, out):
    """`normalize` of uint8 [B, H·W·C] to float32 [B, C, H·W]."""
    for i in range(len(x)):
        normalize(x[i], scale, bias, out[i])


@compiled
def blend_bytes(a, b, share, rest, out):
    """a·share + b·rest of the bytes of two images, rounded to even at a half."""
    for i in range(out.size):
        out[i] = np.uint8(np.rint(_SINGLE(a[i]) * share + _SINGLE(b[i]) * rest))


@compiled
def blend_floats(a, b, share, rest):
    """Two images, float32, become a·share + b·rest and b·share + a·rest."""
    for i in range(a.size):
        x = a[i]
        y = b[i]
        a[i] = x * share + y * rest
        b[i] = y * share + x * rest
