"""Decoding of plain JPEG files, in part where that saves time, where simplejpeg is installed.

simplejpeg is libjpeg-turbo, as Pillow is, with the same settings, so pixels are the same; it does without
Pillow's copies. A rectangle of a file is decoded in one of two ways:

- Of any sequential file the top is decoded: a smaller height is written into a copy of the header, and the
  rows below don't count. (Rows above and columns beside have to be read, as the place of each code depends
  on those before it.)
- Restart markers make the stretches between them independent. Where they divide the image into tiles, and
  numba is installed, the stretches that touch the rectangle are joined to a smaller file.

Files that aren't plain are left to Pillow: see `read_header`.
"""

import functools
import importlib.util
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from passl_sot.imageio.kernels import jit

# Kinds of segments, as their second byte says (ITU-T T.81, table B.1).
HUFFMAN = 0xC4
INTERVAL = 0xDD
_SCAN = 0xDA
_BASELINE = 0xC0
_EXTENDED = 0xC1
_PROGRESSIVE = 0xC2
_APP1 = 0xE1
_APP2 = 0xE2
# Other kinds that say nothing about how pixels are coded: tables, comments, applications' segments.
_HARMLESS = {HUFFMAN, 0xDB, 0xFE, *range(0xE0, 0xF0)}
# Horizontal and vertical factors of a component, a half byte each.
_SAMPLINGS = {0x11, 0x12, 0x21, 0x22}
_BEGIN = b"\xff\xd8"
_END = b"\xff\xd9"
# Where chroma has half as many samples, that of a pixel depends on the nearest two: its own and a neighbor's.
_MARGIN = 1
# Width of a tile in pixels: what is aimed at, and the least and the most that help. Narrow tiles let less be
# decoded beside a crop, but each makes a file larger and decoding slower: 16 is no faster than 32.
_LEAST, _WIDTH, _MOST = 16, 24, 160
# Below this Pillow takes no longer, and filters of chroma have special cases.
_SMALLEST = 16


@functools.cache
def available() -> bool:
    """Whether simplejpeg is installed."""
    return importlib.util.find_spec("simplejpeg") is not None


class Header(NamedTuple):
    """All that must be known of a JPEG file to decode a part of it. An MCU is the unit of coding."""

    height: int
    width: int
    mcu_hw: tuple[int, int]  # of an MCU in pixels: 8 times the sampling
    interval: int  # MCUs between restart markers; 0 where there are none
    sequential: bool  # runs once from top to bottom, so that a part of it can be decoded
    may_turn: bool  # there is metadata that may hold an orientation
    size_at: int  # where in the file height and width are written, 2 bytes each
    scan_at: int  # where the scan's header begins
    codes_at: int  # where the codes begin


def segments(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Kind, begin and end of each segment of a JPEG file, up to the header of its first scan.

    The last one is a scan, unless the file is damaged.
    """
    at = 2
    kind = None
    while kind != _SCAN and at + 4 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        after = at + 2 + _number(data, at + 2)
        yield kind, at, after
        at = after


def bits(data: bytes) -> int:
    """How many bits each value of a JPEG file has; 0 where that can't be read."""
    frames = set(range(_BASELINE, 0xD0)) - {HUFFMAN, 0xC8, 0xCC}  # of all codings, plain or not
    return next((data[at + 4] for kind, at, _ in segments(data) if kind in frames and at + 4 < len(data)), 0)


def read_header(data: bytes | memoryview) -> Header | None:
    """Reads the header of a plain JPEG file: 8 bits, gray or three colors, Huffman-coded, with an end.

    Returns:
        None for all else: other kinds of file, CMYK, several pictures, arithmetic coding, damaged headers,
        an end that is missing.
    """
    # Plain Python: it takes 5 to 10 us of an image's 1,500 or more.
    if data[:2] != _BEGIN or data[-2:] != _END:
        return None
    frame_at = interval = kind = 0
    may_turn = False
    for kind, at, after in segments(data):
        if kind in (_BASELINE, _EXTENDED, _PROGRESSIVE) and not frame_at:
            frame_at = at
            frame = bytes(data[at:after])
        elif kind == INTERVAL:
            interval = _number(data, at + 4)
        elif kind == _APP2 and data[at + 4 : at + 8] == b"MPF\0":
            return None  # more pictures follow
        elif kind == _APP1:
            may_turn = True
        elif kind != _SCAN and kind not in _HARMLESS:
            return None
    if kind != _SCAN or not frame_at or after > len(data):
        return None
    sampling = frame[11::3]
    components = len(sampling)
    if components not in (1, 3) or len(frame) != 10 + 3 * components:
        return None
    if frame[9] != components or frame[4] != 8 or any(factors not in _SAMPLINGS for factors in sampling):
        return None
    height = _number(frame, 5)
    width = _number(frame, 7)
    if min(height, width) < _SMALLEST:
        return None
    if components == 1:
        sampling = b"\x11"  # whatever it says, a block is the unit of coding then
    mcu_hw = 8 * max(factors & 15 for factors in sampling), 8 * max(factors >> 4 for factors in sampling)
    sequential = frame[1] != _PROGRESSIVE and data[at + 4] == components
    return Header(height, width, mcu_hw, interval, sequential, may_turn, frame_at + 5, at, after)


def decode_part(
    data: bytes | memoryview, header: Header, top: int, bottom: int, left: int, right: int
) -> np.ndarray:
    """The pixels of a rectangle.

    Returns:
        uint8 [bottom - top, right - left, 3].

    Raises:
        ValueError: The file is damaged.
    """
    import simplejpeg

    if header.sequential:
        above, beside = (_MARGIN * (side > 8) for side in header.mcu_hw)
        if header.interval and jit.available():
            # Of tiles less than 5 pixels wide the decoder would spread colors otherwise.
            first = min(left, header.width - 4) if beside else left
            joined = _join_tiles(data, header, top - above, bottom + above, first - beside, right + beside)
            if joined is not None:
                part, y, x = joined
                return simplejpeg.decode_jpeg(part)[top - y : bottom - y, left - x : right - x]
        mcu_height = header.mcu_hw[0]
        rows = -(-(bottom + above) // mcu_height) * mcu_height
        if rows < header.height:
            shorter = bytearray(data)
            shorter[header.size_at : header.size_at + 2] = rows.to_bytes(2, "big")
            # Not strict: the rows left over would count as a fault.
            return simplejpeg.decode_jpeg(shorter, strict=False)[top:bottom, left:right]
    return simplejpeg.decode_jpeg(data)[top:bottom, left:right]


def _join_tiles(
    data: bytes | memoryview, header: Header, top: int, bottom: int, left: int, right: int
) -> tuple[np.ndarray, int, int] | None:
    """A file of those tiles that hold a rectangle, which may reach over the image's edges.

    Returns:
        The file, uint8 [bytes], and the place (top, left) of its first pixel. None where restart markers
        don't divide the image into tiles, or all tiles would be needed, or markers aren't as they should be.
    """
    from passl_sot.imageio.kernels.jpeg_splice import splice

    mcu_height, mcu_width = header.mcu_hw
    mcus = -(-header.width // mcu_width)
    if mcus % header.interval and header.interval % mcus:
        return None
    tile_height = mcu_height * max(1, header.interval // mcus)
    tile_width = mcu_width * min(header.interval, mcus)
    rows = -(-header.height // tile_height)
    columns = -(-header.width // tile_width)
    first_row = max(0, top) // tile_height
    end_row = min(rows, -(-bottom // tile_height))
    first_column = max(0, left) // tile_width
    end_column = min(columns, -(-right // tile_width))
    chosen = (first_row, end_row, first_column, end_column)
    if chosen == (0, rows, 0, columns):
        return None
    # A tile has at least a byte of codes and a marker's two: a damaged header could ask for any number.
    if 2 * rows * columns > len(data):
        return None
    out = splice(np.frombuffer(data, np.uint8), header.codes_at, (rows, columns), chosen)
    if not out.size:
        return None
    y = first_row * tile_height
    x = first_column * tile_width
    height = min(header.height, end_row * tile_height) - y
    width = min(header.width, end_column * tile_width) - x
    out[header.size_at : header.size_at + 4] = divmod(height, 256) + divmod(width, 256)
    return out, y, x


def tile_blocks(image_width: int, width: int) -> int:
    """How many blocks of a width make a tile: a divisor of those of a row, or the whole row."""
    blocks = -(-image_width // width)
    divisors = [n for n in range(1, blocks + 1) if blocks % n == 0 and _LEAST <= n * width <= _MOST]
    wide = [n for n in divisors if n * width >= _WIDTH]
    return min(wide, default=max(divisors, default=blocks))


def _number(data: bytes | memoryview, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
