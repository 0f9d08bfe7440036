"""Decoding of plain JPEG files, in part where that saves time, where simplejpeg is installed.

simplejpeg is libjpeg-turbo, as Pillow is, with the same settings, so pixels are the same; it does without
Pillow's copies. Of a file a rectangle is decoded in one of two ways:

- Any sequential file has its top decoded: a smaller height is written into a copy of the header, and the rows
  below don't count. (Rows above and columns beside have to be read, as each code's place depends on those
  before it.)
- Restart markers make the stretches between them independent. Where they divide the image into tiles, and
  numba is installed, the stretches that touch the rectangle are joined to a smaller file.

Whatever isn't plain is left to Pillow: see `read_header`.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from passl_sot.imageio.kernels import jit as compiling

__all__ = [
    "HUFFMAN",
    "INTERVAL",
    "SCAN",
    "Header",
    "available",
    "bits",
    "decode_part",
    "read_header",
    "segments",
]

# Kinds of segments, as the second byte of each says.
HUFFMAN, INTERVAL, SCAN = 0xC4, 0xDD, 0xDA

_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_QUANTISATION, _COMMENT = 0xDB, 0xFE
_FIRST_APP, _APP1, _APP2, _LAST_APP = 0xE0, 0xE1, 0xE2, 0xEF
_BEGIN, _END = 0xD8, 0xD9
# Where chroma has half as many samples, a pixel's depends on the nearest two: its own and a neighbour's.
_MARGIN = 1
# Below this Pillow takes no longer, and filters of chroma have special cases.
_SMALLEST = 16


@functools.cache
def available() -> bool:
    """Whether simplejpeg is installed."""
    return importlib.util.find_spec("simplejpeg") is not None


class Header(NamedTuple):
    """What must be known of a JPEG file to decode it.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        high: Height in pixels of what is coded together: 8 times the sampling.
        wide: Width of that.
        interval: Number of these between restart markers; 0 where there are none.
        sequential: Whether the file runs once from top to bottom, so that a part of it can be decoded.
        may_turn: Whether there is metadata that may hold an orientation.
        size_at: Where in the file height and width are written, 2 bytes each.
        scan_at: Where the scan's header begins.
        codes_at: Where the codes begin.
    """

    height: int
    width: int
    high: int
    wide: int
    interval: int
    sequential: bool
    may_turn: bool
    size_at: int
    scan_at: int
    codes_at: int

    @property
    def block(self) -> tuple[int, int]:
        """Height and width in pixels of what is coded together."""
        return self.high, self.wide


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Goes through a JPEG file's segments to the header of its first scan.

    Yields:
        Kind, where the segment begins, and where the next one does; the last is a `SCAN`, unless the file is
        damaged.
    """
    at, kind = 2, None
    while kind != SCAN and at + 4 <= len(data) and data[at] == 0xFF:
        kind, after = data[at + 1], at + 2 + _number(data, at + 2)
        yield kind, at, after
        at = after


def bits(data: bytes) -> int:
    """How many bits each value of a JPEG file has; 0 where that can't be read."""
    frames = set(range(_BASELINE, 0xD0)) - {HUFFMAN, 0xC8, 0xCC}  # of all codings, plain or not
    return next((data[at + 4] for kind, at, _ in segments(data) if kind in frames and at + 4 < len(data)), 0)


def read_header(data: bytes | memoryview) -> Header | None:
    """Reads the header of a plain JPEG file: 8 bits, grey or three colours, Huffman-coded, with an end.

    Returns:
        None for all else: other kinds of file, CMYK, several pictures, arithmetic coding, damaged headers,
        an end that is missing.
    """
    found = _compiled()(np.frombuffer(data, np.uint8)) if compiling.available() else _parse(data)
    height, width, high, wide, interval, sequential, may_turn, *places = found
    if not height:
        return None
    return Header(height, width, high, wide, interval, bool(sequential), bool(may_turn), *places)


@functools.cache
def _compiled() -> Callable:
    return compiling.compiled(_parse)


def _parse(data):
    """The fields of `Header`, or zeros for what isn't plain, from anything that gives bytes by their places.

    Every place is compared with the size first: compiled loops don't.
    """
    nothing = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    size, at, frame, interval, may_turn = len(data), 2, 0, 0, 0
    if size < 4 or data[0] != 255 or data[1] != _BEGIN or data[size - 2] != 255 or data[size - 1] != _END:
        return nothing
    kind, after = 0, 0
    while at + 6 <= size and data[at] == 255:
        kind, after = data[at + 1], at + 2 + data[at + 2] * 256 + data[at + 3]
        if kind in (_BASELINE, _EXTENDED, _PROGRESSIVE):
            if frame or after - at not in (13, 19) or after > size:
                return nothing
            frame = at
        elif kind == SCAN:
            break
        elif kind == INTERVAL:
            interval = data[at + 4] * 256 + data[at + 5]
        elif _FIRST_APP <= kind <= _LAST_APP:
            may_turn = 1 if kind == _APP1 else may_turn
            here = at if kind == _APP2 and at + 8 <= size else 0
            # "MPF" and 0: more pictures follow.
            if (
                here
                and data[at + 4] == 77
                and data[at + 5] == 80
                and data[at + 6] == 70
                and data[at + 7] == 0
            ):
                return nothing
        elif kind not in (HUFFMAN, _QUANTISATION, _COMMENT):
            return nothing
        at = after
    components = 3 if data[frame + 3] == 17 else 1
    if kind != SCAN or not frame or after > size or data[frame + 9] != components or data[frame + 4] != 8:
        return nothing
    high = wide = 1
    for i in range(components):
        across, down = data[frame + 11 + 3 * i] // 16, data[frame + 11 + 3 * i] % 16
        if across not in (1, 2) or down not in (1, 2):
            return nothing
        high, wide = max(high, down), max(wide, across)
    height, width = data[frame + 5] * 256 + data[frame + 6], data[frame + 7] * 256 + data[frame + 8]
    if min(height, width) < _SMALLEST:
        return nothing
    if components == 1:  # coded by single blocks whatever its sampling
        high = wide = 1
    sequential = data[frame + 1] != _PROGRESSIVE and data[at + 4] == components
    return height, width, 8 * high, 8 * wide, interval, int(sequential), may_turn, frame + 5, at, after


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
        above, beside = (_MARGIN if side > 8 else 0 for side in header.block)
        if header.interval and compiling.available():
            from passl_sot.imageio.kernels.jpeg_splice import join_tiles

            # Of tiles less than 5 pixels wide the decoder would spread colours otherwise.
            first = min(left, header.width - 4) if beside else left
            needed = top - above, bottom + above, first - beside, right + beside
            part, y, x = join_tiles(np.frombuffer(data, np.uint8), tuple(header), *needed)
            if part.size:
                return simplejpeg.decode_jpeg(part)[top - y : bottom - y, left - x : right - x]
        rows = -(-(bottom + above) // header.high) * header.high
        if rows < header.height:
            shorter = bytearray(data)
            shorter[header.size_at : header.size_at + 2] = rows.to_bytes(2, "big")
            # Not strict: what is left over would count as a fault.
            return simplejpeg.decode_jpeg(shorter, strict=False)[top:bottom, left:right]
    return simplejpeg.decode_jpeg(data)[top:bottom, left:right]


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
