"""Pillow's color operations as compiled loops: the same numbers, a fraction of the time.

Wherever there is a formula for Pillow's table, it is arithmetic on bytes here: the machine then works on 32
bytes at once, where it looks up one, so that a run of such operations takes less time than the one table that
they could be composed into. The rest goes by tables of 256 values per channel.

An enhancement by a factor f is g + f·(x - g) in single precision, limited to 0 … 255 and cut off to bytes,
where g is black, the mean of the gray image, the gray image, or the smoothed one.

Images are uint8 [H, W, 3], contiguous; results are new arrays of that kind.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from passl_sot.imageio.kernels.jit import compiled

# Constants of few bits: with Python's own, numba computes in 64, and fewer values go into a register.
_BYTE = np.uint8
_SHORT = np.uint16
_INT = np.int32
_WORD = np.uint32
_SINGLE = np.float32
_LEAST = _INT(0)
_MOST = _INT(255)
# Bytes that are worked on at once: whole pixels, and whole registers.
_STRETCH = 768
# Gray after ITU-R 601, in 1/65536.
_RED = _INT(19595)
_GREEN = _INT(38470)
_BLUE = _INT(7471)
_ROUND = _INT(32768)
_SHIFT = _INT(16)
# The smoothing filter's weights are 5 in the middle and 1 around it, in thirteenths.
_FIVE = _SHORT(5)
_SIX = _WORD(6)
_THIRTEENTH = _WORD(5042)
_SIXTEEN = _WORD(16)


# -- by formulas ------------------------------------------------------------------------------------
@compiled
def _pointwise(x, below, room, added, flipped, kept, out):
    """Adds to values under ``below``, up to room + added; flips bits of others; keeps some bits of all."""
    for i in range(x.size):
        value = x[i]
        low = _BYTE(min(value, room) + added)
        high = _BYTE(value ^ flipped)
        out[i] = _BYTE((low if value < below else high) & kept)


@compiled
def _gray_of(x, i):
    red = _INT(x[3 * i])
    green = _INT(x[3 * i + 1])
    blue = _INT(x[3 * i + 2])
    return (red * _RED + green * _GREEN + blue * _BLUE + _ROUND) >> _SHIFT


@compiled
def _sum_of_grays(x):
    total = 0
    for i in range(x.size // 3):
        total += _gray_of(x, i)
    return total


@compiled
def _gray(x, out):
    for i in range(x.size // 3):
        value = _BYTE(_gray_of(x, i))
        for c in range(3):
            out[3 * i + c] = value


@compiled
def _blend(x, constant, base, factor, out):
    """Of ``constant`` and ``x``, or of ``base`` where that is below 0."""
    mixed = np.empty(_STRETCH, _INT)
    for i in range(0, x.size, _STRETCH):
        part = x[i : i + _STRETCH]
        gray = base[i : i + _STRETCH]
        target = out[i : i + _STRETCH]
        for j in range(part.size):
            value = _INT(gray[j]) if constant < _LEAST else constant
            mixed[j] = _INT(_SINGLE(value) + factor * _SINGLE(_INT(part[j]) - value))
        # Apart from the arithmetic: a loop from bytes by words to bytes is more than compilers do well.
        for j in range(part.size):
            target[j] = min(max(mixed[j], _LEAST), _MOST)


@compiled
def _smooth(x, height, out):
    """Border pixels have no smooth value, and stay."""
    rows = x.reshape(height, -1)
    results = out.reshape(height, -1)
    n = max(rows.shape[1] - 6, 0)
    totals = np.empty(n, _SHORT)
    results[0] = rows[0]
    results[height - 1] = rows[height - 1]
    for y in range(1, height - 1):
        above = rows[y - 1]
        here = rows[y]
        below = rows[y + 1]
        target = results[y, 3:]
        for j in range(3):
            results[y, j] = here[j]
            results[y, -1 - j] = here[-1 - j]
        # Sums of at most 13·255: 16 bits hold them, and the machine adds twice as many at once.
        for j in range(n):
            row = _SHORT(_SHORT(above[j]) + _SHORT(_SHORT(above[j + 3]) + _SHORT(above[j + 6])))
            last = _SHORT(_SHORT(below[j]) + _SHORT(_SHORT(below[j + 3]) + _SHORT(below[j + 6])))
            beside = _SHORT(_SHORT(here[j]) + _SHORT(here[j + 6]))
            totals[j] = _SHORT(_SHORT(row + last) + _SHORT(beside + _SHORT(_FIVE * _SHORT(here[j + 3]))))
        for j in range(n):
            # (total + 6) // 13, which is the mean rounded.
            target[j] = _BYTE((_WORD(totals[j]) + _SIX) * _THIRTEENTH >> _SIXTEEN)


# -- by tables --------------------------------------------------------------------------------------
@compiled
def _apply(x, tables, out):
    for i in range(x.size // 3):
        for c in range(3):
            out[3 * i + c] = tables[c, x[3 * i + c]]


@compiled
def _stretch(x, out):
    """Brings each channel's least value to 0 and its greatest to 255; False if that changes nothing."""
    # Of every byte of a stretch first, which takes no account of channels and so many bytes at once.
    least = np.full(_STRETCH, 255, np.uint8)
    most = np.zeros(_STRETCH, np.uint8)
    for i in range(0, x.size, _STRETCH):
        part = x[i : i + _STRETCH]
        for j in range(part.size):
            least[j] = min(least[j], part[j])
            most[j] = max(most[j], part[j])
    tables = np.empty((3, 256), np.uint8)
    changes = False
    for c in range(3):
        low = _INT(least[c::3].min())
        high = _INT(most[c::3].max())
        changes |= 0 < high - low < 255
        scale = 1.0
        offset = 0.0
        if high > low:
            scale = 255.0 / (high - low)
            offset = -low * scale
        for v in range(256):
            tables[c, v] = min(max(int(v * scale + offset), 0), 255)
    if changes:
        _apply(x, tables, out)
    return changes


@compiled
def _even_out(x, out):
    """Spreads each channel's values evenly."""
    # Neighbors are often alike; counting them apart, neither waits for the other.
    pairs = np.zeros((6, 256), np.int64)
    pixels = x.size // 3
    for i in range(pixels // 2):
        for k in range(6):
            pairs[k, x[6 * i + k]] += 1
    counts = pairs[:3] + pairs[3:]
    if pixels % 2:
        for k in range(3):
            counts[k, x[3 * pixels - 3 + k]] += 1
    tables = np.empty((3, 256), np.uint8)
    for c in range(3):
        highest = 255
        while counts[c, highest] == 0 and highest > 0:
            highest -= 1
        # Pillow's integers. 0 too where a channel has one value alone, which then stays.
        step = (pixels - counts[c, highest]) // 255
        passed = step // 2
        for v in range(256):
            tables[c, v] = min(passed // step, 255) if step else v
            passed += counts[c, v]
    _apply(x, tables, out)


# -- all together -----------------------------------------------------------------------------------
def _points(
    image: np.ndarray, below: int, *, added: int = 0, flipped: int = 0, kept: int = 255
) -> np.ndarray:
    return _each(_pointwise, image, np.int16(below), *map(_BYTE, (255 - added, added, flipped, kept)))


def _each(loop: Callable, image: np.ndarray, *others: Any) -> np.ndarray:
    out = np.empty_like(image)
    loop(image.reshape(-1), *others, out.reshape(-1))
    return out


def _enhance(image: np.ndarray, factor: float, base: np.ndarray | int) -> np.ndarray:
    constant = base if isinstance(base, int) else -1
    gray = image if isinstance(base, int) else base
    # Larger factors do the same, and leave the range of integers.
    return _each(_blend, image, _INT(constant), gray.reshape(-1), _SINGLE(min(factor, 1e6)))


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = int(_sum_of_grays(image.reshape(-1)) / (image.size // 3) + 0.5)
    return _enhance(image, factor, mean)


def _autocontrast(image: np.ndarray) -> np.ndarray:
    out = np.empty_like(image)
    return out if _stretch(image.reshape(-1), out.reshape(-1)) else image


# Image and strength to image, by the names of Pillow's `ImageOps` and `ImageEnhance`. "Grey" is Pillow's "L"
# in all three channels; "Posterize" keeps 0 to 8 bits; "Solarize" inverts values from a threshold on;
# "SolarizeAdd" adds to values below 128. AutoContrast gives the image itself where nothing changes.
OPERATIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "AutoContrast": lambda image, _: _autocontrast(image),
    "Brightness": lambda image, factor: _enhance(image, factor, 0),
    "Color": lambda image, factor: _enhance(image, factor, _each(_gray, image)),
    "Contrast": _contrast,
    "Equalize": lambda image, _: _each(_even_out, image),
    "Grey": lambda image, _: _each(_gray, image),
    "Invert": lambda image, _: _points(image, 0, flipped=255),
    "Posterize": lambda image, bits: _points(image, 0, kept=256 - (1 << (8 - int(bits)))),
    "Sharpness": lambda image, factor: _enhance(image, factor, _each(_smooth, image, len(image))),
    "Solarize": lambda image, threshold: _points(image, int(threshold), flipped=255),
    "SolarizeAdd": lambda image, added: _points(image, 128, added=int(added)),
}
