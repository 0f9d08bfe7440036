"""Pillow's affine warps as compiled loops: the same numbers, a fraction of the time.

The result's pixel (x, y) shows the place (u, v) = M·(x + 1/2, y + 1/2, 1) of the image, measured from the
image's corner, so that pixel i has its centre at i + 1/2. Places outside of the image show the fill colour. A
place between four centres is their bilinear mixture, or that of the sixteen around it by the cubic through
the inner two of four with the slopes v3 - v1 and v4 - v2: first along the rows, then down the column. Beyond
the border its last pixels go on. All is computed in double precision, in Pillow's order of operations, and
cut off, not rounded, to bytes: so the same bits come out wherever the arithmetic fuses nothing (x86-64).

Under a shear or shift along one axis all bytes of a line are equally far from their neighbours, and lie side
by side as these do. Whole numbers mix them: weights times 2^22, as in `resize`. The few mixtures that come so
near to a whole number that double precision may be on its other side are computed again as Pillow does it.
All else gathers the neighbours of a row's pixels, as words of four bytes, and mixes them then.

Legend: H, W rows and columns, n pixels of a row that lie inside of the image, t how far a place is from the
second of its four neighbours to the third, m the matrix (m0, m1, m2, m3, m4, m5).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from passl_sot.imageio.kernels.jit import compiled
from passl_sot.imageio.kernels.resize import turn, turn_back

__all__ = ["rotate", "warp"]

_INT, _FLOAT, _PLACE, _WORD = np.int32, np.float64, np.uint64, np.uint32
_LOW, _HIGH = 0.0, 255.0
_NONE, _FULL = _INT(0), _INT(255)
# Pixels that continue each border, as far as the cubic reaches.
_EDGE = 2
# Of mixtures by whole numbers: what 1 and 1/2 are, and the part of a sum below 1.
_ONE, _HALF, _PART, _SHIFT = float(1 << 22), _INT(1 << 21), _INT((1 << 22) - 1), _INT(22)
# Weights are wrong by 1/2 at most, but one of the four by 3/2. As the sum of these errors is 0, bytes count
# by how far they are from 255/2, and a mixture is wrong by 3·255/2 at most.
_DOUBT = _INT(400)
# Decimals that Pillow rounds a rotation's sine and cosine to.
_DECIMALS = 15


@compiled
def _inside(a, b, c, at, first, last, length):
    """The part of [first, last), one stretch, where 0 <= a·(x + 1/2) + b·at + c < length."""
    rest = b * at + c
    if abs(a) * 1e12 > abs(b * at) + abs(c) + length:  # else rounding has a say in where the ends are
        one, other = -rest / a - 0.5, (length - rest) / a - 0.5
        first = int(min(max(np.floor(min(one, other)) - 1.0, first), last))
        last = int(max(min(np.ceil(max(one, other)) + 2.0, last), first))
    while first < last and not 0.0 <= (a * (first + 0.5) + b * at) + c < length:
        first += 1
    while first < last and not 0.0 <= (a * (last - 0.5) + b * at) + c < length:
        last -= 1
    return first, last


@compiled
def _fill(row, first, last, fill):
    """Gives pixels ``first`` … ``last - 1`` of a row of bytes the colour ``fill``."""
    for x in range(first, last):
        row[3 * x], row[3 * x + 1], row[3 * x + 2] = fill


# -- along one axis ---------------------------------------------------------------------------------
@compiled
def _cubic(v1, v2, v3, v4, t):
    """The byte at t of the way from v2 to v3, as Pillow computes it; likewise `_linear`."""
    a, b, c, d = _FLOAT(v1), _FLOAT(v2), _FLOAT(v3), _FLOAT(v4)
    p2, p3, p4 = c - a, 2.0 * (a - b) + c - d, b - a + d - c
    return np.uint8(_INT(min(max(b + t * (p2 + t * (p3 + t * p4)), _LOW), _HIGH)))


@compiled
def _linear(v2, v3, t):
    return np.uint8(_INT(_FLOAT(v2) + t * (_FLOAT(v3) - _FLOAT(v2))))


@compiled
def _mix(a, b, c, d, t, cubic, sums, out):
    """Mixes four rows of bytes, or the inner two, at t of the way from b to c, by weights of 2^-22.

    Returns:
        Whether a sum is in doubt. Where all bytes are alike it can't be, as the sum of the weights is exactly
        1; it has 1/2 added there, which doesn't change the whole part.
    """
    n = out.size
    b, c = b[:n], c[:n]
    if cubic:
        a, d = a[:n], d[:n]
        p = _INT(np.rint(((2.0 - t) * t - 1.0) * t * _ONE))
        r = _INT(np.rint(((1.0 - t) * t + 1.0) * t * _ONE))
        s = _INT(np.rint((t - 1.0) * t * t * _ONE))
        q = _INT(_INT(_ONE) - p - r - s)
        for j in range(n):
            v1, v2, v3, v4 = _INT(a[j]), _INT(b[j]), _INT(c[j]), _INT(d[j])
            half = _HALF if v1 == v2 and v2 == v3 and v3 == v4 else _NONE
            sums[j] = _INT(p * v1 + q * v2) + _INT(r * v3 + s * v4) + half
    else:
        r = _INT(np.rint(t * _ONE))
        q = _INT(_INT(_ONE) - r)
        for j in range(n):
            v2, v3 = _INT(b[j]), _INT(c[j])
            sums[j] = _INT(q * v2 + r * v3) + (_HALF if v2 == v3 else _NONE)
    least = _PART
    for j in range(n):
        least = min(least, (sums[j] + _DOUBT) & _PART)
        out[j] = min(max(sums[j] >> _SHIFT, _NONE), _FULL)
    return least < _INT(2) * _DOUBT


@compiled
def _next_doubt(sums, j):
    """The first place from ``j`` on whose sum is in doubt; the number of sums where there is none."""
    while j < sums.size:
        stretch, least = sums[j : j + 32], _PART
        for k in range(stretch.size):
            least = min(least, (stretch[k] + _DOUBT) & _PART)
        if least < _INT(2) * _DOUBT:
            for k in range(stretch.size):
                if (stretch[k] + _DOUBT) & _PART < _INT(2) * _DOUBT:
                    return j + k
        j += stretch.size
    return j


@compiled
def _exactly(flat, at, span, pitch, j, shift, offset, cubic):
    """Byte ``j`` of what `_slide` gives, in Pillow's arithmetic."""
    x = j % pitch // span
    place = (((x + 0.5) + shift) + offset) - 0.5
    left = math.floor(place)
    p = at + j + span * (left - x)
    v2, v3, t = flat[p], flat[p + span], place - left
    return _cubic(flat[p - span], v2, v3, flat[p + 2 * span], t) if cubic else _linear(v2, v3, t)


@compiled
def _slide(flat, at, span, pitch, first, last, shift, offset, cubic, sums, out):
    """Places ``first`` … ``last - 1`` of lines that are moved along themselves, ``span`` bytes a place.

    Place x shows what lies at ``x + shift + offset``; other places get any value. Lines begin every ``pitch``
    bytes, the first at ``flat[at]`` and ``out[0]``; two places more continue each at both of its ends.
    """
    if first >= last:
        return
    # How far the neighbours are away. It's the same in the whole line, unless that is a whole number but for
    # rounding, which may change on the way.
    place = ((first + 0.5) + shift + offset) - 0.5
    whole, end = math.floor(place) - first, last
    while math.floor(((end - 0.5) + shift + offset) - 0.5) - (end - 1) != whole:
        end -= 1
    p = at + span * (whole - 1)
    a, b, c, d = flat[p:], flat[p + span :], flat[p + 2 * span :], flat[p + 3 * span :]
    if _mix(a, b, c, d, place - (first + whole), cubic, sums, out):
        j = _next_doubt(sums, 0)
        while j < sums.size:
            out[j] = _exactly(flat, at, span, pitch, j, shift, offset, cubic)
            j = _next_doubt(sums, j + 1)
    if end < last:
        for j in range(out.size):
            if end <= j % pitch // span < last:
                out[j] = _exactly(flat, at, span, pitch, j, shift, offset, cubic)


@compiled
def _continue(line, span, begin, end):
    """Repeats the first and last places of a line, ``span`` bytes each, beyond its ends."""
    for j in range(span):
        for k in range(1, _EDGE + 1):
            line[begin - k * span + j], line[end + (k - 1) * span + j] = line[begin + j], line[end - span + j]


@compiled
def _along(image, m1, m2, cubic, fill, out):
    """A warp of ``image`` [H, 3·W] by (1, m1, m2, 0, 1, 0)."""
    height, n = image.shape
    # Between rows there is room for their continuations; above and below for what is read in vain.
    pitch, begin = n + 6 * _EDGE, 3 * _EDGE
    rows, sums = np.empty((height + 2, pitch), np.uint8), np.empty(n, _INT)
    for y in range(height):
        source, target = image[y], rows[y + 1, begin:]
        for j in range(n):
            target[j] = source[j]
        _continue(rows[y + 1], 3, begin, begin + n)
    flat = rows.reshape(-1)
    for y in range(height):
        first, last = _inside(1.0, m1, m2, y + 0.5, 0, n // 3, n // 3)
        at = (y + 1) * pitch + begin
        _slide(flat, at, 3, n, first, last, m1 * (y + 0.5), m2, cubic, sums, out[y])
        _fill(out[y], 0, first, fill)
        _fill(out[y], last, n // 3, fill)


def _down(image, m3, m5, cubic, fill, out):
    """A warp of ``image`` [H, 3·W] by (1, 0, 0, m3, 1, m5): along the rows of one that lies on its side."""
    height, n = image.shape
    # A word between columns has room for their continuations; more of them for what is read in vain.
    words = (height + 7) // 8 + 1
    lying, moved = np.empty((n + 3, words), np.uint64), np.empty((n, words), np.uint64)
    turn(image.reshape(-1), n, 0, height, n, lying[1:-2, 1:])
    _along_columns(lying.view(np.uint8), height, m3, m5, cubic, fill, moved.view(np.uint8))
    turn_back(moved, height, out.reshape(-1))


@compiled
def _along_columns(columns, height, m3, m5, cubic, fill, out):
    """Moves columns of ``height`` bytes, each after 8 bytes of room: [3·W + 3, pitch] to [3·W, pitch]."""
    n, pitch = out.shape
    flat, moved, sums = columns.reshape(-1), out.reshape(-1), np.empty(3 * pitch, _INT)
    for k in range(1, n + 1):
        _continue(flat[k * pitch :], 1, 8, 8 + height)
    for x in range(n // 3):
        first, last = _inside(1.0, m3, m5, x + 0.5, 0, height, height)
        three = moved[3 * x * pitch :][: 3 * pitch]
        at = (3 * x + 1) * pitch + 8
        _slide(flat, at, 1, pitch, first, last, m3 * (x + 0.5), m5, cubic, sums, three)
        for c in range(3):
            column = out[3 * x + c]
            for y in range(first):
                column[y] = fill[c]
            for y in range(last, height):
                column[y] = fill[c]


@compiled
def _lift(image, m5, cubic, fill, out):
    """A warp of ``image`` [H, 3·W] by (1, 0, 0, 0, 1, m5): a row's bytes have the same rows around them."""
    height, n = image.shape
    sums, highest = np.empty(n, _INT), height - 1
    for y in range(height):
        row = out[y]
        if not 0.0 <= (y + 0.5) + m5 < height:
            _fill(row, 0, n // 3, fill)
            continue
        place = ((y + 0.5) + m5) - 0.5
        k = math.floor(place)
        a, b = image[max(k - 1, 0)], image[max(k, 0)]
        c, d, t = image[min(k + 1, highest)], image[min(k + 2, highest)], place - k
        if _mix(a, b, c, d, t, cubic, sums, row):
            j = _next_doubt(sums, 0)
            while j < n:
                row[j] = _cubic(a[j], b[j], c[j], d[j], t) if cubic else _linear(b[j], c[j], t)
                j = _next_doubt(sums, j + 1)


# -- along both -------------------------------------------------------------------------------------
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


@compiled
def _locate(m, y, first, pitch, by_row, by_column, places):
    """For n pixels from ``first`` on: t _along the row and down the column; and the first neighbour."""
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
        if m[3] == 0:
            _lift(rows, m[5], cubic, fill, results)
        else:
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
