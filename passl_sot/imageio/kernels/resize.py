"""Pillow's antialiased resampling as compiled loops: the same numbers in a fraction of the time.

A pixel of the result is a weighted mean of the pixels that its filter covers: per axis, output i has its
centre at c = start + (i + 1/2)·scale of the input, with scale = (end - start) / size, and input x the weight
f((x + 1/2 - c) / max(scale, 1)), normalised to a sum of 1. Pillow rounds these weights to whole multiples of
2^-22, and the result of the first pass to uint8 before the second one. So does this: results are equal in
every bit. The horizontal pass comes first; but Pillow 13 begins with the vertical one where an image gets
lower by more than twice what it gets narrower, and 12.2 did where one gets lower that is over 100 times as
high as wide; that changes some pixels by 1. Here the rule is that of the Pillow that is installed. What makes
this fast:

- For the horizontal pass the bytes are laid out column by column, in blocks of up to 256 rows: a tap is then
  one weight for many bytes side by side, which the machine's vector instructions take at once. The vertical
  pass has rows for that.
- Rows and columns that the result doesn't need (because a crop follows) are neither read nor computed.

Legend: H, W rows and columns of the input, h, w of the result, C channels, K taps (inputs per output).
"""

from __future__ import annotations

import math

import numpy as np
import PIL

from passl_sot.imageio.kernels.jit import compiled
from passl_sot.imageio.lazy_image import Pixels

__all__ = ["FILTERS", "resample", "turn", "turn_back"]

# How far each filter reaches, in inputs to either side.
FILTERS = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}

_BITS = 22
_SHIFT, _HALF = np.int32(_BITS), np.int32(1 << (_BITS - 1))
_LOW, _HIGH = np.int32(0), np.int32(255)
_BLOCK = 256  # rows that are turned at once
_PILLOW = tuple(int(number) for number in PIL.__version__.split(".")[:2])
_BYTE = np.uint64(255)
_1, _2, _3, _4, _5, _6, _7 = (np.uint64(8 * i) for i in range(1, 8))


def resample(
    image: Pixels,
    size_hw: tuple[int, int],
    box: tuple[float, float, float, float],
    interpolation: str,
    window: tuple[int, int, int, int],
    mirrored: bool,
) -> np.ndarray:
    """Resizes an image, bit-equal to ``PIL.Image.resize`` of each channel.

    Args:
        image: uint8 [H, W, C].
        size_hw: Height and width of the whole result.
        box: Region (left, top, right, bottom) of the image that the whole result shows.
        interpolation: One of ``FILTERS``.
        window: The part (top, left, height, width) of the result that is wanted.
        mirrored: Whether it is wanted from right to left.

    Returns:
        uint8 [*window[2:], C].
    """
    height, width, channels = image.shape
    top, left, h, w = window
    reach = FILTERS[interpolation]
    across = _plan(width, float(box[0]), float(box[2]), size_hw[1], left, w, reach)
    down = _plan(height, float(box[1]), float(box[3]), size_hw[0], top, h, reach)
    part = image[down[0, 0] : down[0, -1] + len(down) - 1, across[0, 0] : across[0, -1] + len(across) - 1]
    if part.strides[1:] != (channels, 1) or part.strides[0] < 0:
        part = np.ascontiguousarray(part)
    rows, n, pitch = part.shape[0], part.shape[1] * channels, part.strides[0]
    # Every byte from the first pixel to the last: the layout that compiles best.
    source = np.lib.stride_tricks.as_strided(part, ((rows - 1) * pitch + n,), (1,), writeable=False)
    if _begins_below(height, width, size_hw):
        between = _down(source, rows, pitch, n, down)
        out = _across(_frozen(between), h, n, n, channels, across, mirrored)
    else:
        between = _across(source, rows, pitch, n, channels, across, mirrored)
        out = _down(_frozen(between), rows, w * channels, w * channels, down)
    return out.reshape(h, w, channels)


def _frozen(array: np.ndarray) -> np.ndarray:
    """As what comes from outside; for another kind of array all would be compiled a second time."""
    array.flags.writeable = False
    return array


def _begins_below(height: int, width: int, size_hw: tuple[int, int]) -> bool:
    """Whether Pillow has the vertical pass first."""
    lower, narrower = height - size_hw[0], width - size_hw[1]
    if _PILLOW >= (13, 0):
        return lower > max(0, 2 * narrower)
    return _PILLOW >= (12, 2) and height > 100 * width and lower > 0


@compiled
def _weight(x, reach):
    """The filter at x: a triangle, Keys' cubic with a = -1/2, or Lanczos' with three lobes."""
    if reach == 3.0:
        if x == 0.0:
            return 1.0
        if not -3.0 <= x < 3.0:
            return 0.0
        wide, slow = x * math.pi, x / 3.0 * math.pi
        return math.sin(wide) / wide * (math.sin(slow) / slow)
    x = abs(x)
    if reach == 1.0:
        return 1.0 - x if x < 1.0 else 0.0
    inner, outer = (1.5 * x - 2.5) * x * x + 1.0, (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return inner if x < 1.0 else outer if x < 2.0 else 0.0


@compiled
def _plan(length, start, end, size, first, count, reach):
    """Weights of outputs ``first`` … ``first + count - 1`` of ``size``.

    Returns:
        int32 [1 + K, count]: the first input of each, and weights times 2^22. K is even, at least 4, and
        weights of inputs that aren't covered are 0.
    """
    # Pillow takes the box as numbers of 32 bits.
    begin, end = np.float32(start), np.float32(end)
    scale = np.float64(end - begin) / size
    stretch = max(scale, 1.0)
    support, narrow = reach * stretch, 1.0 / stretch
    most = max(4, (math.ceil(2.0 * support) + 1) // 2 * 2)
    firsts, covered = np.empty(count, np.int64), np.empty(count, np.int64)
    centres, totals = np.empty(count), np.zeros(count)
    for i in range(count):
        centres[i] = np.float64(begin) + (first + i + 0.5) * scale
        firsts[i] = max(int(centres[i] - support + 0.5), 0)
        covered[i] = min(int(centres[i] + support + 0.5), length) - firsts[i]
    # Tap by tap, which lets the machine compute many outputs at once.
    exact, plan = np.empty((most, count)), np.empty((1 + most, count), np.int32)
    plan[0] = firsts
    for k in range(most):
        row = exact[k]
        for i in range(count):
            weight = _weight((k + firsts[i] - centres[i] + 0.5) * narrow, reach)
            row[i] = weight if k < covered[i] else 0.0
            totals[i] += row[i]
    for k in range(most):
        row, rounded = exact[k], plan[1 + k]
        for i in range(count):
            share = (row[i] / totals[i] if totals[i] != 0.0 else row[i]) * (1 << _BITS)
            rounded[i] = np.int32(share - 0.5 if share < 0.0 else share + 0.5)
    return plan


@compiled
def _across(image, rows, pitch, n, channels, plan, mirrored):
    """The horizontal pass over rows of ``n`` bytes that begin every ``pitch`` bytes. Gives [rows · w·C]."""
    x = plan[0]
    width = x.size * channels
    out = np.empty(rows * width, np.uint8)
    blocks = (rows + _BLOCK - 1) // _BLOCK
    block = ((rows + blocks - 1) // blocks + 31) // 32 * 32
    words = np.empty((n, block // 8), np.uint64)
    done = np.empty((width, block // 8), np.uint64)
    by_column, means = words.view(np.uint8).reshape(-1), done.view(np.uint8).reshape(-1)
    # The channels of a column lie one after the other and have the same weights.
    column = channels * block
    sums = np.empty(column, np.int32)
    for top in range(0, rows, block):
        here = min(block, rows - top)
        turn(image, pitch, top, here, n, words)
        for i in range(x.size):
            first, last = (x[i] - x[0]) * column, n * block - column
            place = (x.size - 1 - i if mirrored else i) * column
            _mean(by_column, first, column, last, plan[1:, i], sums, means[place:][:column])
        turn_back(done, here, out[top * width :])
    return out


@compiled
def _down(image, rows, pitch, n, plan):
    """The vertical pass over rows of ``n`` bytes that begin every ``pitch`` bytes. Gives [h · n]."""
    y = plan[0]
    out = np.empty(y.size * n, np.uint8)
    sums = np.empty(n, np.int32)
    for i in range(y.size):
        first, last = (y[i] - y[0]) * pitch, (rows - 1) * pitch
        _mean(image, first, pitch, last, plan[1:, i], sums, out[i * n :][:n])
    return out


@compiled
def turn(image, pitch, top, rows, n, words):
    """Rows of ``n`` bytes into columns, eight bytes to a word; the last row stands in for those that lack."""
    eight = np.empty(n, np.uint64)
    last = top + rows - 1
    for y in range((rows + 7) // 8):
        r = top + 8 * y
        a, b = image[r * pitch :][:n], image[min(r + 1, last) * pitch :][:n]
        c, d = image[min(r + 2, last) * pitch :][:n], image[min(r + 3, last) * pitch :][:n]
        e, f = image[min(r + 4, last) * pitch :][:n], image[min(r + 5, last) * pitch :][:n]
        g, h = image[min(r + 6, last) * pitch :][:n], image[min(r + 7, last) * pitch :][:n]
        for j in range(n):
            low = np.uint64(a[j]) | np.uint64(b[j]) << _1 | np.uint64(c[j]) << _2 | np.uint64(d[j]) << _3
            high = (
                np.uint64(e[j]) << _4 | np.uint64(f[j]) << _5 | np.uint64(g[j]) << _6 | np.uint64(h[j]) << _7
            )
            eight[j] = low | high
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
        for r in range(min(8, rows - 8 * y)):
            row, shift = out[(8 * y + r) * n :][:n], np.uint64(8 * r)
            for j in range(n):
                row[j] = np.uint8(eight[j] >> shift & _BYTE)


@compiled
def _mean(data, first, step, last, k, sums, out):
    """Weighted mean of the K rows that begin at ``first``, ``first + step``, …, rounded to uint8.

    None begins after ``last``, which stands in for those that would; their weights are 0.
    """
    n = out.size
    a, b = data[first:][:n], data[min(first + step, last) :][:n]
    c, d = data[min(first + 2 * step, last) :][:n], data[min(first + 3 * step, last) :][:n]
    p, q, r, s = k[0], k[1], k[2], k[3]
    for j in range(n):
        low = np.int32(p * np.int32(a[j]) + q * np.int32(b[j]))
        sums[j] = _HALF + low + np.int32(r * np.int32(c[j]) + s * np.int32(d[j]))
    for t in range(4, k.size, 2):
        a, b = data[min(first + t * step, last) :][:n], data[min(first + (t + 1) * step, last) :][:n]
        p, q = k[t], k[t + 1]
        if p == 0 and q == 0:
            continue
        for j in range(n):
            sums[j] += np.int32(p * np.int32(a[j]) + q * np.int32(b[j]))
    for j in range(n):
        out[j] = min(max(sums[j] >> _SHIFT, _LOW), _HIGH)
