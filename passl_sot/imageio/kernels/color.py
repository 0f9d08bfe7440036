"""Pillow's colour operations as compiled loops: the same numbers, a fraction of the time.

What Pillow does by a table is arithmetic on bytes here wherever there is a formula: the machine then works on
32 bytes at once, where it looks up one, so that a run of such operations takes less time than the one table
that they could be composed into. The rest goes by tables of 256 values per channel.

An enhancement by a factor f is g + f·(x - g) in single precision, limited to 0 … 255 and cut off to bytes,
where g is black, the mean of the grey image, the grey image, or the smoothed one.

Images are uint8 [H, W, 3], contiguous; results are new arrays of that kind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from passl_sot.imageio.kernels.jit import compiled

__all__ = ["OPERATIONS"]

_BYTE, _SHORT, _INT, _SINGLE = np.uint8, np.uint16, np.int32, np.float32
_LEAST, _MOST, _HALF = _INT(0), _INT(255), _SINGLE(0.5)
# Bytes that are worked on at once: whole pixels, and whole registers.
_STRETCH = 768
# Grey after ITU-R 601, in 1/65536.
_RED, _GREEN, _BLUE, _ROUND, _SHIFT = _INT(19595), _INT(38470), _INT(7471), _INT(32768), _INT(16)
# The smoothing filter's weights are 5 in the middle and 1 around it, in thirteenths.
_FIVE, _WEIGHT = _SHORT(5), _SINGLE(1 / 13)


# -- by formulas ------------------------------------------------------------------------------------
@compiled
def _pointwise(x, below, room, added, flipped, kept, out):
    """Adds up to room + added to values under ``below``, flips bits of the others, and keeps some bits."""
    for i in range(x.size):
        value = x[i]
        low, high = _BYTE(min(value, room) + added), _BYTE(value ^ flipped)
        out[i] = _BYTE((low if value < below else high) & kept)


def _points(
    image: np.ndarray, below: int, *, added: int = 0, flipped: int = 0, kept: int = 255
) -> np.ndarray:
    out = np.empty_like(image)
    numbers = np.int16(below), _BYTE(255 - added), _BYTE(added), _BYTE(flipped), _BYTE(kept)
    _pointwise(image.reshape(-1), *numbers, out.reshape(-1))
    return out


def invert(image: np.ndarray) -> np.ndarray:
    """255 - x."""
    return _points(image, 0, flipped=255)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """The first ``bits``, 0 to 8, of each value."""
    return _points(image, 0, kept=256 - (1 << (8 - bits)))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts values from ``threshold`` up."""
    return _points(image, threshold, flipped=255)


def solarize_add(image: np.ndarray, added: int) -> np.ndarray:
    """Adds to values below 128, up to 255."""
    return _points(image, 128, added=added)


@compiled
def _grey_of(x, i):
    red, green, blue = _INT(x[3 * i]), _INT(x[3 * i + 1]), _INT(x[3 * i + 2])
    return (red * _RED + green * _GREEN + blue * _BLUE + _ROUND) >> _SHIFT


@compiled
def _sum_of_greys(x):
    total = 0
    for i in range(x.size // 3):
        total += _grey_of(x, i)
    return total


@compiled
def _grey(x, out):
    for i in range(x.size // 3):
        value = _BYTE(_grey_of(x, i))
        out[3 * i], out[3 * i + 1], out[3 * i + 2] = value, value, value


@compiled
def _blend(grey, value, factor):
    return _INT(_SINGLE(grey) + factor * _SINGLE(value - grey))


@compiled
def _limit(x, out):
    # Apart from what makes the numbers: a loop from bytes by words to bytes is more than compilers do well.
    for j in range(out.size):
        out[j] = min(max(x[j], _LEAST), _MOST)


@compiled
def _from_one(x, base, factor, out):
    mixed = np.empty(_STRETCH, _INT)
    for i in range(0, x.size, _STRETCH):
        part = x[i : i + _STRETCH]
        for j in range(part.size):
            mixed[j] = _blend(base, _INT(part[j]), factor)
        _limit(mixed, out[i : i + _STRETCH])


@compiled
def _from_grey(x, factor, out):
    grey, mixed = np.empty(_STRETCH, _INT), np.empty(_STRETCH, _INT)
    for i in range(0, x.size, _STRETCH):
        part = x[i : i + _STRETCH]
        for j in range(part.size // 3):
            value = _grey_of(part, j)
            grey[3 * j], grey[3 * j + 1], grey[3 * j + 2] = value, value, value
        for j in range(part.size):
            mixed[j] = _blend(grey[j], _INT(part[j]), factor)
        _limit(mixed, out[i : i + _STRETCH])


@compiled
def _from_smooth(x, factor, out):
    """``x`` is [H, 3·W]. Border pixels have no smooth value, and stay."""
    height, width = x.shape
    n = width - 6
    totals, mixed = np.empty(width, _SHORT), np.empty(width, _INT)
    out[0], out[height - 1] = x[0], x[height - 1]
    for y in range(1, height - 1):
        for j in range(3):
            out[y, j], out[y, width - 1 - j] = x[y, j], x[y, width - 1 - j]
        if n <= 0:
            continue
        a, b, c = x[y - 1, :n], x[y - 1, 3 : 3 + n], x[y - 1, 6:]
        d, e, f = x[y, :n], x[y, 3 : 3 + n], x[y, 6:]
        g, h, i = x[y + 1, :n], x[y + 1, 3 : 3 + n], x[y + 1, 6:]
        for j in range(n):
            # Sums of at most 13·255: 16 bits hold them, and the machine adds twice as many at once.
            above = _SHORT(_SHORT(a[j]) + _SHORT(_SHORT(b[j]) + _SHORT(c[j])))
            below = _SHORT(_SHORT(g[j]) + _SHORT(_SHORT(h[j]) + _SHORT(i[j])))
            beside = _SHORT(_SHORT(d[j]) + _SHORT(f[j]))
            totals[j] = _SHORT(_SHORT(above + below) + _SHORT(beside + _SHORT(_FIVE * _SHORT(e[j]))))
        for j in range(n):
            # A thirteenth is never half-way between two integers, so this rounds as exact arithmetic does.
            mixed[j] = _blend(_INT(_SINGLE(totals[j]) * _WEIGHT + _HALF), _INT(e[j]), factor)
        _limit(mixed, out[y, 3 : 3 + n])


def _factor(factor: float) -> np.float32:
    # Larger ones do the same, and leave the range of integers.
    return _SINGLE(min(factor, 1e6))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """As `ImageEnhance.Brightness`."""
    out = np.empty_like(image)
    _from_one(image.reshape(-1), _INT(0), _factor(factor), out.reshape(-1))
    return out


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """As `ImageEnhance.Contrast`."""
    out, flat = np.empty_like(image), image.reshape(-1)
    mean = int(_sum_of_greys(flat) / (flat.size // 3) + 0.5)
    _from_one(flat, _INT(mean), _factor(factor), out.reshape(-1))
    return out


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """As `ImageEnhance.Color`."""
    out = np.empty_like(image)
    _from_grey(image.reshape(-1), _factor(factor), out.reshape(-1))
    return out


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """As `ImageEnhance.Sharpness`."""
    out, height = np.empty_like(image), len(image)
    _from_smooth(image.reshape(height, -1), _factor(factor), out.reshape(height, -1))
    return out


def grey(image: np.ndarray) -> np.ndarray:
    """Red, green and blue all that of Pillow's "L"."""
    out = np.empty_like(image)
    _grey(image.reshape(-1), out.reshape(-1))
    return out


# -- by tables --------------------------------------------------------------------------------------
@compiled
def _apply(x, tables, out):
    red, green, blue = tables[0], tables[1], tables[2]
    for i in range(x.size // 3):
        out[3 * i], out[3 * i + 1], out[3 * i + 2] = red[x[3 * i]], green[x[3 * i + 1]], blue[x[3 * i + 2]]


@compiled
def _stretch(x, out):
    """Brings each channel's least value to 0 and its greatest to 255; False if that changes nothing."""
    low0, low1, low2 = x[0], x[1], x[2]
    high0, high1, high2 = low0, low1, low2
    for i in range(x.size // 3):
        red, green, blue = x[3 * i], x[3 * i + 1], x[3 * i + 2]
        low0, low1, low2 = min(low0, red), min(low1, green), min(low2, blue)
        high0, high1, high2 = max(high0, red), max(high1, green), max(high2, blue)
    tables, changes = np.empty((3, 256), np.uint8), False
    for c, (least, most) in enumerate(((low0, high0), (low1, high1), (low2, high2))):
        low, high = _INT(least), _INT(most)
        changes |= 0 < high - low < 255
        scale = 255.0 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        for v in range(256):
            tables[c, v] = min(max(int(v * scale + offset), 0), 255)
    if changes:
        _apply(x, tables, out)
    return changes


@compiled
def _even_out(x, out):
    """Spreads each channel's values evenly."""
    # Neighbours are often alike; counting them apart, neither waits for the other.
    pairs, pixels = np.zeros((6, 256), np.int64), x.size // 3
    a, b, c, d, e, f = pairs[0], pairs[1], pairs[2], pairs[3], pairs[4], pairs[5]
    for i in range(pixels // 2):
        a[x[6 * i]] += 1
        b[x[6 * i + 1]] += 1
        c[x[6 * i + 2]] += 1
        d[x[6 * i + 3]] += 1
        e[x[6 * i + 4]] += 1
        f[x[6 * i + 5]] += 1
    counts = pairs[:3] + pairs[3:]
    if pixels % 2:
        for k in range(3):
            counts[k, x[3 * pixels - 3 + k]] += 1
    tables = np.empty((3, 256), np.uint8)
    for c in range(3):
        highest = 255
        while counts[c, highest] == 0 and highest > 0:
            highest -= 1
        # 0 too where a channel has one value alone.
        step = (pixels - counts[c, highest]) // 255
        passed = step // 2
        for v in range(256):
            tables[c, v] = min(passed // step, 255) if step else v
            passed += counts[c, v]
    _apply(x, tables, out)


def autocontrast(image: np.ndarray) -> np.ndarray:
    """As `ImageOps.autocontrast`; the image itself where nothing changes."""
    out = np.empty_like(image)
    return out if _stretch(image.reshape(-1), out.reshape(-1)) else image


def equalize(image: np.ndarray) -> np.ndarray:
    """As `ImageOps.equalize`."""
    out = np.empty_like(image)
    _even_out(image.reshape(-1), out.reshape(-1))
    return out


# By the kinds of `operations`, with their strength.
OPERATIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "AutoContrast": lambda image, _: autocontrast(image),
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Equalize": lambda image, _: equalize(image),
    "Grey": lambda image, _: grey(image),
    "Invert": lambda image, _: invert(image),
    "Posterize": lambda image, bits: posterize(image, int(bits)),
    "Sharpness": sharpness,
    "Solarize": lambda image, threshold: solarize(image, int(threshold)),
    "SolarizeAdd": lambda image, added: solarize_add(image, int(added)),
}
