"""Pillow's affine warps as compiled loops: the same numbers, a fraction of the time.

The result's pixel (x, y) shows the place (u, v) = M·(x + 1/2, y + 1/2, 1) of the image, measured from the
image's corner, so that pixel i has its centre at i + 1/2. Places outside of the image show the fill colour. A
place between four centres is their bilinear mixture, or that of the sixteen around it by the cubic through
the inner two of four with the slopes v3 - v1 and v4 - v2: first along the rows, then down the column. Beyond
the border its last pixels go on. All is computed in double precision, in Pillow's order of operations, and
cut off, not rounded, to bytes: so the same bits come out wherever the arithmetic fuses nothing (x86-64).

A shear or shift along the rows needs neighbours of one row, all of them at the same distance: its loop runs
over bytes that lie side by side. All else gathers the neighbours of a row's pixels, as words of four bytes,
so that these lie side by side, and mixes them then.

Legend: H, W rows and columns, n pixels of a row that lie inside of the image, t how far a place is from the
second of its four neighbours to the third, m the matrix (m0, m1, m2, m3, m4, m5).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from passl_sot.data.kernels.compiling import compiled

__all__ = ["rotate", "warp"]

_INT, _FLOAT, _PLACE, _WORD = np.int32, np.float64, np.uint64, np.uint32
_LOW, _HIGH = 0.0, 255.0
# Pixels that continue each border, as far as the cubic reaches.
_EDGE = 2
# Decimals that Pillow rounds a rotation's sine and cosine to.
_DECIMALS = 15


@compiled
def _inside(a, b, c, at, first, last, length):
    """The part of [first, last), one stretch, where 0 <= a·(x + 1/2) + b·at + c < length."""
    while first < last and not 0.0 <= (a * (first + 0.5) + b * at) + c < length:
        first += 1
    while first < last and not 0.0 <= (a * (last - 0.5) + b * at) + c < length:
        last -= 1
    return first, last


@compiled
def _fill(row, first, last, fill):
    for x in range(first, last):
        row[3 * x], row[3 * x + 1], row[3 * x + 2] = fill


@compiled
def _words(image):
    """Pixels as words, continued on all sides: ``image`` [H, 3·W] to [H + 4, W + 4]."""
    height, width = image.shape[0], image.shape[1] // 3
    out = np.empty((height + 2 * _EDGE, width + 2 * _EDGE), _WORD)
    for y in range(height):
        row = out[y + _EDGE, _EDGE:]
        for x in range(width):
            red, green, blue = _WORD(image[y, 3 * x]), _WORD(image[y, 3 * x + 1]), _WORD(image[y, 3 * x + 2])
            row[x] = red | green << _WORD(8) | blue << _WORD(16)
    for y in range(_EDGE, height + _EDGE):
        for k in range(_EDGE):
            out[y, k], out[y, width + _EDGE + k] = out[y, _EDGE], out[y, width + _EDGE - 1]
    for k in range(_EDGE):
        out[k], out[height + _EDGE + k] = out[_EDGE], out[height + _EDGE - 1]
    return out


# -- along one axis ---------------------------------------------------------------------------------
@compiled
def _mix(a, b, c, d, t, cubic, out):
    """Mixes four rows of bytes, or the inner two, at t of the way from b to c."""
    n = out.size
    a, b, c, d = a[:n], b[:n], c[:n], d[:n]
    if cubic:
        for j in range(n):
            v1, v2, v3, v4 = _INT(a[j]), _INT(b[j]), _INT(c[j]), _INT(d[j])
            p2, p3, p4 = v3 - v1, _INT(2) * (v1 - v2) + v3 - v4, v2 - v1 + v4 - v3
            value = v2 + t[j] * (p2 + t[j] * (p3 + t[j] * p4))
            out[j] = np.uint8(_INT(min(max(value, _LOW), _HIGH)))
    else:
        for j in range(n):
            v2, v3 = _INT(b[j]), _INT(c[j])
            out[j] = np.uint8(_INT(v2 + t[j] * (v3 - v2)))


@compiled
def _columns(n):
    """The column of each byte of a row of pixels."""
    out = np.empty(n, _FLOAT)
    for j in range(n):
        out[j] = j // 3
    return out


@compiled
def _distances(column, shift, offset, whole, t):
    """How far places along a row are from their neighbours, these being ``whole`` columns away."""
    for j in range(t.size):
        t[j] = ((((column[j] + 0.5) + shift) + offset) - 0.5) - (column[j] + whole)


@compiled
def _along(image, m1, m2, cubic, fill, out):
    """A warp of ``image`` [H, 3·W] by (1, m1, m2, 0, 1, 0)."""
    height, n = image.shape
    width, column = n // 3, _columns(n)
    line, t = np.empty(n + 6 * _EDGE, np.uint8), np.empty(n, _FLOAT)
    for y in range(height):
        row, shift = out[y], m1 * (y + 0.5)
        first, last = _inside(1.0, m1, m2, y + 0.5, 0, width, width)
        _fill(row, 0, first, fill)
        _fill(row, last, width, fill)
        for j in range(n):
            line[3 * _EDGE + j] = image[y, j]
        for j in range(3 * _EDGE):
            line[j], line[3 * _EDGE + n + j] = image[y, j % 3], image[y, n - 3 + j % 3]
        while first < last:
            # How far the neighbours are away. It's the same in the whole row, unless that is a whole number
            # but for rounding, which may change on the way.
            whole = math.floor(((first + 0.5) + shift + m2) - 0.5) - first
            end = last
            while math.floor(((end - 0.5) + shift + m2) - 0.5) - (end - 1) != whole:
                end -= 1
            p = 3 * (first + whole - 1 + _EDGE)
            part = slice(3 * first, 3 * end)
            _distances(column[part], shift, m2, _FLOAT(whole), t[part])
            _mix(line[p:], line[p + 3 :], line[p + 6 :], line[p + 9 :], t[part], cubic, row[part])
            first = end


@compiled
def _take(words, first, above, cubic, column, taken):
    """Neighbours, one below the other, of a row's pixels from ``first`` on: [4, 3·n], or the inner two."""
    pitch, flat, n = words.shape[1], words.reshape(-1), above.size
    for k in range(0 if cubic else 1, 4 if cubic else 3):
        row, start = taken[k], (k - 1 + _EDGE) * pitch + first + _EDGE
        for j in range(n):
            column[j] = flat[_PLACE(above[j] * pitch + start + j)]
        for j in range(n):
            word = column[j]
            row[3 * j], row[3 * j + 1], row[3 * j + 2] = word, word >> _WORD(8), word >> _WORD(16)


@compiled
def _fractions(column, slope, at, offset, t, above):
    """How far places down a column are from the neighbours above them; and the rows of these, by pixel."""
    for j in range(t.size):
        place = ((slope * (column[j] + 0.5) + at) + offset) - 0.5
        t[j] = place - math.floor(place)
    for j in range(above.size):
        above[j] = _INT(math.floor(((slope * ((column[0] + j) + 0.5) + at) + offset) - 0.5))


@compiled
def _down(image, m3, m5, cubic, fill, out):
    """A warp of ``image`` [H, 3·W] by (1, 0, 0, m3, 1, m5)."""
    height, n = image.shape
    width, column = n // 3, _columns(n)
    taken, t, above = np.empty((4, n), np.uint8), np.empty(n, _FLOAT), np.empty(width, _INT)
    words, picked = _words(image) if m3 != 0.0 else np.empty((0, 0), _WORD), np.empty(width, _WORD)
    for y in range(height):
        row = out[y]
        first, last = _inside(m3, 1.0, m5, y + 0.5, 0, width, height)
        _fill(row, 0, first, fill)
        _fill(row, last, width, fill)
        if first == last:
            continue
        part = slice(3 * first, 3 * last)
        _fractions(column[part], m3, y + 0.5, m5, t[part], above[: last - first])
        if m3 == 0.0:  # all of the row's pixels have the same rows around them
            highest, k = height - 1, above[0]
            b, c = image[max(k, 0)], image[min(k + 1, highest)]
            _mix(image[max(k - 1, 0)], b, c, image[min(k + 2, highest)], t, cubic, row)
        else:
            _take(words, first, above[: last - first], cubic, picked, taken)
            a, b, c, d = taken[0], taken[1], taken[2], taken[3]
            _mix(a, b, c, d, t[part], cubic, row[part])


# -- along both -------------------------------------------------------------------------------------
@compiled
def _locate(m, y, first, pitch, by_row, by_column, places):
    """For n pixels from ``first`` on: t along the row and down the column; and the first neighbour."""
    for j in range(by_row.size):
        x = (first + j) + 0.5
        u, v = ((m[0] * x + m[1] * y) + m[2]) - 0.5, ((m[3] * x + m[4] * y) + m[5]) - 0.5
        left, above = math.floor(u), math.floor(v)
        by_row[j], by_column[j] = u - left, v - above
        places[j] = _WORD((_INT(above) + _INT(_EDGE - 1)) * _INT(pitch) + _INT(left) + _INT(_EDGE - 1))


@compiled
def _gather(flat, pitch, places, cubic, taken):
    """Words of the neighbours of n pixels: [4, 4, n], or the inner [2, 2, n] of these."""
    one, two, three = _PLACE(1), _PLACE(2), _PLACE(3)
    for r in range(0 if cubic else 1, 4 if cubic else 3):
        a, b, c, d = taken[r, 0], taken[r, 1], taken[r, 2], taken[r, 3]
        offset = _PLACE(r * pitch)
        if cubic:
            for j in range(places.size):
                p = _PLACE(places[j]) + offset
                a[j], b[j], c[j], d[j] = flat[p], flat[p + one], flat[p + two], flat[p + three]
        else:
            for j in range(places.size):
                p = _PLACE(places[j]) + offset
                b[j], c[j] = flat[p + one], flat[p + two]


@compiled
def _mix_words(taken, bits, t, cubic, out):
    """Mixes four words, or the inner two, of each pixel; of one channel, whose bits begin at ``bits``."""
    n, ones = out.size, _INT(255)
    a, b, c, d = taken[0, :n], taken[1, :n], taken[2, :n], taken[3, :n]
    if cubic:
        for j in range(n):
            v1, v2 = (a[j] >> bits) & ones, (b[j] >> bits) & ones
            v3, v4 = (c[j] >> bits) & ones, (d[j] >> bits) & ones
            p2, p3, p4 = v3 - v1, _INT(2) * (v1 - v2) + v3 - v4, v2 - v1 + v4 - v3
            out[j] = v2 + t[j] * (p2 + t[j] * (p3 + t[j] * p4))
    else:
        for j in range(n):
            v2, v3 = (b[j] >> bits) & ones, (c[j] >> bits) & ones
            out[j] = v2 + t[j] * (v3 - v2)


@compiled
def _mix_floats(mixed, t, cubic, out):
    n = out.size
    a, b, c, d = mixed[0, :n], mixed[1, :n], mixed[2, :n], mixed[3, :n]
    if cubic:
        for j in range(n):
            v1, v2, v3, v4 = a[j], b[j], c[j], d[j]
            p2, p3, p4 = -v1 + v3, 2.0 * (v1 - v2) + v3 - v4, -v1 + v2 - v3 + v4
            value = v2 + t[j] * (p2 + t[j] * (p3 + t[j] * p4))
            out[j] = np.uint8(_INT(min(max(value, _LOW), _HIGH)))
    else:
        for j in range(n):
            out[j] = np.uint8(_INT(b[j] + t[j] * (c[j] - b[j])))


@compiled
def _everywhere(image, m, cubic, fill, out):
    """A warp of ``image`` [H, 3·W] by any matrix."""
    height, width = image.shape[0], image.shape[1] // 3
    words = _words(image)
    pitch, flat = words.shape[1], words.reshape(-1).view(_INT)
    taken, mixed = np.empty((4, 4, width), _INT), np.empty((4, width), _FLOAT)
    by_row, by_column, places = np.empty(width, _FLOAT), np.empty(width, _FLOAT), np.empty(width, _WORD)
    result = np.empty((3, width), np.uint8)
    for y in range(height):
        first, last = _inside(m[0], m[1], m[2], y + 0.5, 0, width, width)
        first, last = _inside(m[3], m[4], m[5], y + 0.5, first, last, height)
        row, n = out[y], last - first
        _fill(row, 0, first, fill)
        _fill(row, last, width, fill)
        _locate(m, y + 0.5, first, pitch, by_row[:n], by_column[:n], places[:n])
        _gather(flat, pitch, places[:n], cubic, taken)
        for c in range(3):
            for r in range(0 if cubic else 1, 4 if cubic else 3):
                _mix_words(taken[r], _INT(8 * c), by_row, cubic, mixed[r, :n])
            _mix_floats(mixed, by_column, cubic, result[c, :n])
        red, green, blue, part = result[0], result[1], result[2], row[3 * first : 3 * last]
        for x in range(n):
            part[3 * x], part[3 * x + 1], part[3 * x + 2] = red[x], green[x], blue[x]


def warp(
    image: np.ndarray,
    matrix: tuple[float, ...],
    interpolation: Literal["bilinear", "bicubic"],
    fill: tuple[int, int, int],
) -> np.ndarray:
    """Moves pixels by an affine map, as `Image.transform` with `AFFINE` does.

    Args:
        image: uint8 [H, W, 3], contiguous.
        matrix: (m0, m1, m2, m3, m4, m5), from places in the result to the image's.
        interpolation: Filter.
        fill: Colour of what comes in from outside of the image.

    Returns:
        uint8 [H, W, 3].
    """
    out = np.empty_like(image)
    m = tuple(map(float, matrix))
    cubic = interpolation == "bicubic"
    rows, results = image.reshape(len(image), -1), out.reshape(len(image), -1)
    if m[0] == 1 and m[3:] == (0, 1, 0):
        _along(rows, m[1], m[2], cubic, fill, results)
    elif m[:3] == (1, 0, 0) and m[4] == 1:
        _down(rows, m[3], m[5], cubic, fill, results)
    else:
        _everywhere(rows, m, cubic, fill, results)
    return out


def rotate(
    image: np.ndarray,
    degrees: float,
    interpolation: Literal["bilinear", "bicubic"],
    fill: tuple[int, int, int],
) -> np.ndarray:
    """Turns an image counter-clockwise around its middle, as `Image.rotate` does; arguments as of `warp`."""
    if degrees % 360 == 0:
        return image.copy()
    height, width = image.shape[:2]
    angle = -math.radians(degrees % 360)
    cos, sin = round(math.cos(angle), _DECIMALS), round(math.sin(angle), _DECIMALS)
    x, y = width / 2, height / 2
    matrix = (cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y)
    return warp(image, matrix, interpolation, fill)
