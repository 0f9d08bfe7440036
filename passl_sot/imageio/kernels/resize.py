"""Pillow's antialiased resampling as compiled loops: the same numbers in a fraction of the time.

A pixel of the result is a weighted mean of the pixels that its filter covers: per axis, output i has its
center at c = (i + 1/2)·scale of the input, with scale = inputs / outputs, and input x the weight
f((x + 1/2 - c) / max(scale, 1)), normalized to a sum of 1. Pillow rounds these weights to whole multiples of
2^-22, and the result of the first pass to uint8 before the second one. So does this: results are equal in
every bit. Two things make it fast:

- For the horizontal pass the bytes are laid out column by column, in blocks of up to 256 rows: a tap is then
  one weight for many bytes side by side, which vector instructions take at once. The vertical pass has rows
  for that.
- Rows and columns that the result doesn't need (because a crop follows) are neither read nor computed.

Legend: H, W rows and columns of the input, h, w of the result, C channels, K taps (inputs per output).
"""

import math

import numpy as np
import PIL

from passl_sot.imageio.kernels.jit import compiled
from passl_sot.imageio.lazy_image import LazyImage

# How far each filter reaches, in inputs to either side.
FILTERS = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}

_BITS = 22
# Of 32 bits: with Python's own constants, numba computes in 64, half as many values at once.
_SHIFT = np.int32(_BITS)
_HALF = np.int32(1 << (_BITS - 1))
_LOW = np.int32(0)
_HIGH = np.int32(255)
_BYTE = np.uint64(255)
# Rows that are turned at once, so that they stay in the processor's cache.
_BLOCK = 256
_PILLOW = tuple(int(number) for number in PIL.__version__.split(".")[:2])


def resample(
    image: LazyImage,
    size_hw: tuple[int, int],
    interpolation: str,
    window: tuple[int, int, int, int],
    mirrored: bool,
) -> np.ndarray:
    """`decode.resize` for a filter of ``FILTERS``."""
    height, width, channels = image.shape
    top, left, h, w = window
    reach = FILTERS[interpolation]
    across = _plan(width, size_hw[1], left, w, reach)
    down = _plan(height, size_hw[0], top, h, reach)
    y = int(down[0, 0])
    x = int(across[0, 0])
    part = image[y : down[0, -1] + len(down) - 1, x : across[0, -1] + len(across) - 1]
    if part.strides[1:] != (channels, 1) or part.strides[0] < 0:
        part = np.ascontiguousarray(part)
    rows, columns = part.shape[:2]
    n = columns * channels
    pitch = part.strides[0]
    # Every byte from the first pixel to the last: the layout that compiles best.
    source = np.lib.stride_tricks.as_strided(part, ((rows - 1) * pitch + n,), (1,), writeable=False)
    down[0] -= y
    across[0] -= x
    if mirrored:
        across = np.ascontiguousarray(across[:, ::-1])
    # Between the passes rows can't be written, as those of the source can't: all is compiled for one kind.
    if _vertical_first(height, width, size_hw):
        between = np.empty(h * n, np.uint8)
        _weighted_means(source, rows, pitch, n, down, between)
        between.flags.writeable = False
        out = _across(between, h, n, n, channels, across)
    else:
        between = _across(source, rows, pitch, n, channels, across)
        between.flags.writeable = False
        out = np.empty(h * w * channels, np.uint8)
        _weighted_means(between, rows, w * channels, w * channels, down, out)
    return out.reshape(h, w, channels)


def _vertical_first(height: int, width: int, size_hw: tuple[int, int]) -> bool:
    """Whether Pillow has the vertical pass first: rounding between the passes then hits other numbers."""
    lower = height - size_hw[0]
    narrower = width - size_hw[1]
    if _PILLOW >= (13, 0):
        return lower > max(0, 2 * narrower)
    # 12.2 turned the order only for images of over 100 times the height of their width.
    return _PILLOW >= (12, 2) and height > 100 * width and lower > 0


@compiled
def _weight(x, reach):
    """The filter at x: a triangle, Keys' cubic with a = -1/2, or Lanczos' with three lobes."""
    if reach == 3.0:
        if x == 0.0:
            return 1.0
        if not -3.0 <= x < 3.0:
            return 0.0
        wide = x * math.pi
        slow = x / 3.0 * math.pi
        return math.sin(wide) / wide * (math.sin(slow) / slow)
    x = abs(x)
    if reach == 1.0:
        return max(1.0 - x, 0.0)
    # Both pieces, then a choice: without a branch many are computed at once.
    outer = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0
    return (1.5 * x - 2.5) * x * x + 1.0 if x < 1.0 else outer


@compiled
def _plan(length, size, first, count, reach):
    """First input, and weights times 2^22, of ``count`` outputs from ``first`` on: int32 [1 + K, count]."""
    # K is even, at least 4, as `_mean` takes taps; weights of inputs that aren't covered are 0.
    scale = length / size
    stretch = max(scale, 1.0)
    support = reach * stretch
    narrow = 1.0 / stretch
    most = max(4, (math.ceil(2.0 * support) + 1) // 2 * 2)
    firsts = np.empty(count, np.int64)
    covered = np.empty(count, np.int64)
    centers = np.empty(count)
    totals = np.zeros(count)
    for i in range(count):
        centers[i] = (first + i + 0.5) * scale
        firsts[i] = max(int(centers[i] - support + 0.5), 0)
        covered[i] = min(int(centers[i] + support + 0.5), length) - firsts[i]
    # Tap by tap, which lets the machine compute many outputs at once.
    exact = np.empty((most, count))
    plan = np.empty((1 + most, count), np.int32)
    plan[0] = firsts
    for k in range(most):
        for i in range(count):
            weight = _weight((k + firsts[i] - centers[i] + 0.5) * narrow, reach)
            exact[k, i] = weight if k < covered[i] else 0.0
            totals[i] += exact[k, i]
    for k in range(most):
        for i in range(count):
            share = exact[k, i] / totals[i] * (1 << _BITS)
            plan[1 + k, i] = np.int32(share + math.copysign(0.5, share))
    return plan


@compiled
def _across(image, rows, pitch, n, channels, plan):
    """The horizontal pass over rows of ``n`` bytes that begin every ``pitch`` bytes. Gives [rows · w·C]."""
    width = plan.shape[1] * channels
    out = np.empty(rows * width, np.uint8)
    blocks = (rows + _BLOCK - 1) // _BLOCK
    block = ((rows + blocks - 1) // blocks + 31) // 32 * 32
    words = np.empty((n, block // 8), np.uint64)
    means = np.empty((width, block // 8), np.uint64)
    # The channels of a column lie one after the other and have the same weights.
    column = channels * block
    for top in range(0, rows, block):
        here = min(block, rows - top)
        turn(image[top * pitch :], pitch, here, n, words)
        by_column = words.view(np.uint8).reshape(-1)
        _weighted_means(by_column, n // channels, column, column, plan, means.view(np.uint8).reshape(-1))
        turn_back(means, here, out[top * width :])
    return out


# Compiled, as all of these, because NumPy needs a pass over memory for every tap and each step of it, and
# Pillow's own loops take one pixel at a time: resizing takes 0.4 to 0.6 of Pillow's time.
@compiled
def _weighted_means(image, rows, pitch, n, plan, out):
    """The vertical pass over rows of ``n`` bytes that begin every ``pitch`` bytes. Fills [h · n]."""
    sums = np.empty(n, np.int32)
    last = (rows - 1) * pitch
    for i in range(plan.shape[1]):
        _mean(image, plan[0, i] * pitch, pitch, last, plan[1:, i], sums, out[i * n :][:n])


@compiled
def turn(image, pitch, rows, n, words):
    """Rows of ``n`` bytes into columns, eight bytes to a word; the last row stands in for those that lack."""
    eight = np.empty(n, np.uint64)
    for y in range((rows + 7) // 8):
        eight[:] = 0
        for r in range(8 * y, 8 * y + 8):
            row = image[min(r, rows - 1) * pitch :][:n]
            shift = np.uint64(8 * (r - 8 * y))
            for j in range(n):
                eight[j] |= np.uint64(row[j]) << shift
        for j in range(n):
            words[j, y] = eight[j]


@compiled
def turn_back(words, rows, out):
    """Columns, eight bytes to a word, into ``rows`` rows one after the other."""
    n = words.shape[0]
    eight = np.empty(n, np.uint64)
    for y in range((rows + 7) // 8):
        for j in range(n):
            eight[j] = words[j, y]
        for k in range(min(8, rows - 8 * y)):
            row = out[(8 * y + k) * n :][:n]
            shift = np.uint64(8 * k)
            for j in range(n):
                row[j] = np.uint8(eight[j] >> shift & _BYTE)


@compiled
def _mean(data, first, step, last, weights, sums, out):
    """Weighted mean of the K rows that begin at ``first``, ``first + step``, …, rounded to uint8."""
    n = out.size
    # None begins after ``last``, which stands in for those that would; their weights are 0.
    # Four taps at once, then two: that saves reading and writing sums, and most images have no more than six.
    a = data[first:][:n]
    b = data[min(first + step, last) :][:n]
    c = data[min(first + 2 * step, last) :][:n]
    d = data[min(first + 3 * step, last) :][:n]
    p = weights[0]
    q = weights[1]
    r = weights[2]
    s = weights[3]
    for j in range(n):
        low = np.int32(p * np.int32(a[j]) + q * np.int32(b[j]))
        sums[j] = _HALF + low + np.int32(r * np.int32(c[j]) + s * np.int32(d[j]))
    for t in range(4, weights.size, 2):
        p = weights[t]
        q = weights[t + 1]
        if p == 0 and q == 0:
            continue
        a = data[min(first + t * step, last) :][:n]
        b = data[min(first + (t + 1) * step, last) :][:n]
        for j in range(n):
            sums[j] += np.int32(p * np.int32(a[j]) + q * np.int32(b[j]))
    for j in range(n):
        out[j] = min(max(sums[j] >> _SHIFT, _LOW), _HIGH)
