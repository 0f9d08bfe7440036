"""Pillow's affine warps as compiled loops: the same numbers, a fraction of the time.

The result's pixel (x, y) shows the place (u, v) = M·(x + 1/2, y + 1/2, 1) of the image, measured from the
image's corner, so that pixel i has its center at i + 1/2. Places outside of the image show the fill color. A
place between four centers is their bilinear mixture, or that of the sixteen around it by the cubic through
the inner two of four with the slopes v3 - v1 and v4 - v2: first along the rows, then down the column. Beyond
the border its last pixels go on. All is computed in double precision, in Pillow's order of operations, and
cut off, not rounded, to bytes: so the same bits come out wherever the arithmetic fuses nothing (x86-64).

Under a shear or shift along one axis the bytes of a line lie side by side as their neighbors do, so that
vector instructions mix many at once. All else gathers the neighbors of a row's pixels, as words of four
bytes, and mixes them then.

Legend: H, W rows and columns, n pixels of a row that lie inside of the image, t how far a place is from the
second of its four neighbors to the third, m the matrix (m0, m1, m2, m3, m4, m5).
"""

import math
from typing import Literal

import numpy as np

from passl_sot.imageio.kernels.jit import compiled
from passl_sot.imageio.kernels.layout import transpose

# Constants of 32 bits: with Python's own, numba computes in 64, and half as many values go into a register.
_INT = np.int32
_WORD = np.uint32
_FLOAT = np.float64
_NONE = _INT(0)
_FULL = _INT(255)
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
def _between(v1, v2, v3, v4, t, cubic):
    """The mixture of four, or of the inner two, at t from v2 to v3; in Pillow's order of operations."""
    if not cubic:
        return v2 + t * (v3 - v2)
    # Not 2·(v1 - v2), whose 2 would have to be of the same type; the sum is the same.
    p3 = (v1 - v2) + (v1 - v2) + v3 - v4
    p4 = -v1 + v2 - v3 + v4
    return v2 + t * ((-v1 + v3) + t * (p3 + t * p4))


def _filled(height, width, fill):
    """A result before any pixel comes from inside, [H, 3·W]."""
    out = np.empty((height, 3 * width), np.uint8)
    out[:] = np.tile(np.array(fill, np.uint8), width)
    return out


# -- along one axis ---------------------------------------------------------------------------------
@compiled
def _mix(a, b, c, d, t, cubic, mixed, out):
    """Mixes four rows of bytes, or the inner two, at t [bytes] of the way from b to c."""
    for j in range(out.size):
        # Differences of whole numbers are exact, as they are in Pillow's double precision.
        mixed[j] = _INT(_between(_INT(a[j]), _INT(b[j]), _INT(c[j]), _INT(d[j]), t[j], cubic))
    # Apart from the arithmetic: compilers do badly at a loop from bytes by wider numbers to bytes.
    for j in range(out.size):
        out[j] = min(max(mixed[j], _NONE), _FULL)


@compiled
def _measure(column, shift, t):
    """How many columns away the second neighbor of a row's bytes is; fills t of each, by its column."""
    # Equally far in the whole row, unless that is a whole number but for rounding, which grows on the way.
    # There t is 1 then, which gives the third neighbor, exactly as t = 0 from that one does.
    away = np.floor(((column[0] + 0.5) + shift) - 0.5) - column[0]
    for j in range(column.size):
        t[j] = (((column[j] + 0.5) + shift) - 0.5) - (column[j] + away)
    return int(away)


@compiled
def _warp_rows(image, m1, m2, cubic, out):
    """A warp of ``image`` [H, 3·W] by (1, m1, m2, 0, 1, 0), of which m1 or m2 is 0."""
    height, n = image.shape
    width = n // 3
    edge = 3 * _EDGE
    line = np.empty(n + 2 * edge, np.uint8)
    # For each byte, though three have the same: spreading them afterwards takes twice as long.
    column = np.empty(n, _FLOAT)
    for j in range(n):
        column[j] = j // 3
    t = np.empty(n, _FLOAT)
    mixed = np.empty(n, _INT)
    for y in range(height):
        first, last = _inside(1.0, m1, m2, y + 0.5, 0, width, width)
        if first == last:
            continue
        for j in range(n):
            line[edge + j] = image[y, j]
        for j in range(edge):
            line[j] = image[y, j % 3]
            line[edge + n + j] = image[y, n - 3 + j % 3]
        at = 3 * first
        end = 3 * last
        away = _measure(column[at:end], m1 * (y + 0.5) + m2, t[at:end])
        a = line[at + 3 * (away - 1) + edge :]
        _mix(a, a[3:], a[6:], a[9:], t[at:end], cubic, mixed, out[y, at:end])


@compiled
def _shift_rows(image, m5, cubic, out):
    """A warp of ``image`` [H, 3·W] by (1, 0, 0, 0, 1, m5): a row's bytes have the same rows around them."""
    height, n = image.shape
    t = np.empty(n, _FLOAT)
    mixed = np.empty(n, _INT)
    for y in range(height):
        if not 0.0 <= (y + 0.5) + m5 < height:
            continue
        place = ((y + 0.5) + m5) - 0.5
        k = math.floor(place)
        a = image[max(k - 1, 0)]
        b = image[max(k, 0)]
        c = image[min(k + 1, height - 1)]
        d = image[min(k + 2, height - 1)]
        t[:] = place - k
        _mix(a, b, c, d, t, cubic, mixed, out[y])


# -- along both -------------------------------------------------------------------------------------
@compiled
def _words(image):
    """Pixels as words, continued on all sides: ``image`` [H, 3·W] to [H + 4, W + 4]."""
    height = image.shape[0]
    width = image.shape[1] // 3
    out = np.empty((height + 2 * _EDGE, width + 2 * _EDGE), _WORD)
    for y in range(height):
        row = out[y + _EDGE]
        for x in range(width):
            red = _WORD(image[y, 3 * x])
            green = _WORD(image[y, 3 * x + 1])
            blue = _WORD(image[y, 3 * x + 2])
            row[x + _EDGE] = red | green << _WORD(8) | blue << _WORD(16)
        row[:_EDGE] = row[_EDGE]
        row[width + _EDGE :] = row[width + _EDGE - 1]
    for k in range(_EDGE):
        out[k] = out[_EDGE]
        out[height + _EDGE + k] = out[height + _EDGE - 1]
    return out


@compiled
def _locate(m, y, first, pitch, by_row, by_column, places):
    """For n pixels from ``first`` on: t along the row and down the column; and the first neighbor."""
    for j in range(by_row.size):
        x = (first + j) + 0.5
        u = ((m[0] * x + m[1] * y) + m[2]) - 0.5
        v = ((m[3] * x + m[4] * y) + m[5]) - 0.5
        left = math.floor(u)
        above = math.floor(v)
        by_row[j] = u - left
        by_column[j] = v - above
        places[j] = _WORD((_INT(above) + _INT(_EDGE - 1)) * _INT(pitch) + _INT(left) + _INT(_EDGE - 1))


@compiled
def _gather(flat, places, offset, edge, taken):
    """Words of four neighbors of n pixels in a row of the image, or of the inner two."""
    # A loop for each neighbor: the machine has an instruction that gathers several words.
    for k in range(edge, 4 - edge):
        start = np.uint64(offset + k)
        for j in range(places.size):
            taken[k, j] = flat[np.uint64(places[j]) + start]


@compiled
def _mix_words(taken, bits, t, cubic, out):
    """Mixes four words, or the inner two, of each pixel; of one channel, whose bits begin at ``bits``."""
    for j in range(out.size):
        v1 = (taken[0, j] >> bits) & _FULL
        v2 = (taken[1, j] >> bits) & _FULL
        v3 = (taken[2, j] >> bits) & _FULL
        v4 = (taken[3, j] >> bits) & _FULL
        out[j] = _between(v1, v2, v3, v4, t[j], cubic)


@compiled
def _mix_floats(mixed, t, cubic, out):
    """Mixes the four mixtures of rows, or the inner two, of each pixel."""
    for j in range(out.size):
        value = _between(mixed[0, j], mixed[1, j], mixed[2, j], mixed[3, j], t[j], cubic)
        out[j] = np.uint8(_INT(min(max(value, 0.0), 255.0)))


# Compiled in many small loops over a row: each does one thing to all pixels, which the compiler turns into
# vector instructions; a single loop over everything took three times as long.
@compiled
def _warp_general(image, m, cubic, out):
    """A warp of ``image`` [H, 3·W] by any matrix."""
    height = image.shape[0]
    width = image.shape[1] // 3
    words = _words(image)
    pitch = words.shape[1]
    flat = words.reshape(-1).view(_INT)
    edge = int(not cubic)  # the inner two of four neighbors alone
    taken = np.empty((4, width), _INT)
    mixed = np.empty((3, 4, width), _FLOAT)
    by_row = np.empty(width, _FLOAT)
    by_column = np.empty(width, _FLOAT)
    places = np.empty(width, _WORD)
    result = np.empty((3, width), np.uint8)
    for y in range(height):
        first, last = _inside(m[0], m[1], m[2], y + 0.5, 0, width, width)
        first, last = _inside(m[3], m[4], m[5], y + 0.5, first, last, height)
        n = last - first
        _locate(m, y + 0.5, first, pitch, by_row[:n], by_column[:n], places[:n])
        for r in range(edge, 4 - edge):
            _gather(flat, places[:n], r * pitch, edge, taken)
            for c in range(3):
                _mix_words(taken, _INT(8 * c), by_row, cubic, mixed[c, r, :n])
        for c in range(3):
            _mix_floats(mixed[c], by_column, cubic, result[c, :n])
        for j in range(n):
            for c in range(3):
                out[y, 3 * (first + j) + c] = result[c, j]


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
        fill: Color of pixels that come in from outside of the image.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    rows = image.reshape(height, -1)
    out = _filled(height, width, fill)
    cubic = interpolation == "bicubic"
    m = tuple(map(float, matrix))
    _, m1, m2, m3, _, m5 = m
    if m in ((1, m1, 0, 0, 1, 0), (1, 0, m2, 0, 1, 0)):
        _warp_rows(rows, m1, m2, cubic, out)
    elif m == (1, 0, 0, m3, 1, 0):
        # As the rows of one that lies on its side.
        lying = _filled(width, height, fill)
        _warp_rows(transpose(rows), m3, 0.0, cubic, lying)
        out = transpose(lying)
    elif m == (1, 0, 0, 0, 1, m5):
        _shift_rows(rows, m5, cubic, out)
    else:
        _warp_general(rows, m, cubic, out)
    return out.reshape(image.shape)


def rotate(
    image: np.ndarray,
    degrees: float,
    interpolation: Literal["bilinear", "bicubic"],
    fill: tuple[int, int, int],
) -> np.ndarray:
    """Turns an image counter-clockwise around its center, as `Image.rotate` does; arguments as of `warp`."""
    height, width = image.shape[:2]
    angle = -math.radians(degrees % 360)
    cos = round(math.cos(angle), _DECIMALS)
    sin = round(math.sin(angle), _DECIMALS)
    x = width / 2
    y = height / 2
    matrix = (cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y)
    return warp(image, matrix, interpolation, fill)
