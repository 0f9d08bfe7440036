"""Decoding of plain JPEG files, in part where that saves time, where simplejpeg is installed.

simplejpeg is libjpeg-turbo, as Pillow is, with the same settings, so pixels are the same; it does without
Pillow's copies. Of a file a rectangle is decoded in one of two ways:

- Any sequential file has its top decoded: a smaller height is written into a copy of the header, and the rows
  below don't count. (Rows above and columns beside have to be read, as each code's place depends on those
  before it.)
- Restart markers make the stretches between them independent. Where they divide the image into tiles, the
  stretches that touch the rectangle are joined to a smaller file.

Whatever isn't plain is left to Pillow: see `read_header`.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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

_BEGIN, _END = b"\xff\xd8\xff", b"\xff\xd9"
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_QUANTISATION, _COMMENT = 0xDB, 0xFE
_APP, _APP1, _APP2 = range(0xE0, 0xF0), 0xE1, 0xE2
_RESTART, _EOI = 0xD0, 0xD9
# Where chroma has half as many samples, their smoothing looks at pixels up to so far away.
_MARGIN = 2
# Below this Pillow takes no longer, and filters of chroma have special cases.
_SMALLEST = 16


@functools.cache
def available() -> bool:
    """Whether simplejpeg is installed."""
    return importlib.util.find_spec("simplejpeg") is not None


@dataclass(frozen=True, kw_only=True)
class Header:
    """What must be known of a JPEG file to decode it.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        block: Height and width in pixels of what is coded together: 8 times the sampling.
        interval: Number of blocks between restart markers; 0 where there are none.
        sequential: Whether the file runs once from top to bottom, so that a part of it can be decoded.
        may_turn: Whether there is metadata that may hold an orientation.
        size_at: Where in the file height and width are written, 2 bytes each.
        scan_at: Where the scan's header begins.
        codes_at: Where the codes begin.
    """

    height: int
    width: int
    block: tuple[int, int]
    interval: int
    sequential: bool
    may_turn: bool
    size_at: int
    scan_at: int
    codes_at: int


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


def read_header(data: bytes) -> Header | None:
    """Reads the header of a plain JPEG file: 8 bits, grey or three colours, Huffman-coded, with an end.

    Returns:
        None for all else: other kinds of file, CMYK, several pictures, arithmetic coding, damaged headers,
        an end that is missing.
    """
    if not data.startswith(_BEGIN) or not data.endswith(_END):
        return None
    frame_at, interval, may_turn = 0, 0, False
    for kind, at, after in segments(data):
        if kind in (_BASELINE, _EXTENDED, _PROGRESSIVE):
            if frame_at:
                return None
            frame_at = at
        elif kind == SCAN:
            return _header(data, frame_at, at, after, interval, may_turn) if frame_at else None
        elif kind == INTERVAL:
            interval = _number(data, at + 4)
        elif kind in _APP:
            may_turn = may_turn or kind == _APP1
            if kind == _APP2 and data.startswith(b"MPF\0", at + 4):
                return None
        elif kind not in (HUFFMAN, _QUANTISATION, _COMMENT):
            return None
    return None


def _header(
    data: bytes, frame_at: int, scan_at: int, codes_at: int, interval: int, may_turn: bool
) -> Header | None:
    components = {11: 1, 17: 3}.get(_number(data, frame_at + 2))
    if components is None or data[frame_at + 9] != components or data[frame_at + 4] != 8:
        return None
    height, width = _number(data, frame_at + 5), _number(data, frame_at + 7)
    sampling = [data[frame_at + 11 + 3 * i] for i in range(components)]
    high, wide = max(s & 15 for s in sampling), max(s >> 4 for s in sampling)
    if min(height, width) < _SMALLEST or {high, wide} - {1, 2} or codes_at > len(data):
        return None
    return Header(
        height=height,
        width=width,
        # One component alone is coded by single blocks whatever its sampling.
        block=(8 * high, 8 * wide) if components == 3 else (8, 8),
        interval=interval,
        sequential=data[frame_at + 1] != _PROGRESSIVE and data[scan_at + 4] == components,
        may_turn=may_turn,
        size_at=frame_at + 5,
        scan_at=scan_at,
        codes_at=codes_at,
    )


def decode_part(data: bytes, header: Header, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """The pixels of a rectangle.

    Returns:
        uint8 [bottom - top, right - left, 3].

    Raises:
        ValueError: The file is damaged.
    """
    import simplejpeg

    if header.sequential:
        joined = _join_tiles(data, header, top, bottom, left, right) if header.interval else None
        if joined is not None:
            part, y, x = joined
            return simplejpeg.decode_jpeg(part)[top - y : bottom - y, left - x : right - x]
        rows = -(-(bottom + _margin(header.block[0])) // header.block[0]) * header.block[0]
        if rows < header.height:
            # Not strict: what is left over would count as a fault.
            pixels = simplejpeg.decode_jpeg(_with_size(data, header, rows, header.width), strict=False)
            return pixels[top:bottom, left:right]
    return simplejpeg.decode_jpeg(data)[top:bottom, left:right]


def _join_tiles(
    data: bytes, header: Header, top: int, bottom: int, left: int, right: int
) -> tuple[np.ndarray, int, int] | None:
    """A file of those tiles that hold a rectangle, and the place (top, left) of its first pixel.

    Returns:
        None where restart markers don't divide the image into tiles, or all tiles would be needed, or the
        codes aren't as they should be.
    """
    high, wide = header.block
    blocks_x = -(-header.width // wide)
    if blocks_x % header.interval and header.interval % blocks_x:
        return None
    high *= max(1, header.interval // blocks_x)
    wide *= min(header.interval, blocks_x)
    rows, columns = -(-header.height // high), -(-header.width // wide)
    above, beside = (_margin(side) for side in header.block)
    first_row, first_column = max(0, top - above) // high, max(0, left - beside) // wide
    end_row = min(rows, -(-(bottom + above) // high))
    end_column = min(columns, -(-(right + beside) // wide))
    if (end_row - first_row) * (end_column - first_column) == rows * columns:
        return None
    codes = np.frombuffer(data, np.uint8, offset=header.codes_at)
    # 255 is followed by 0 where it is part of the codes.
    places = np.flatnonzero(codes[:-1] == 255)
    places = places[codes[places + 1] != 0]
    expected = _RESTART + np.arange(len(places)) % 8
    expected[-1:] = _EOI
    if len(places) != rows * columns or not np.array_equal(codes[places + 1], expected):
        return None
    ends = header.codes_at + places + 2
    starts = np.concatenate(([header.codes_at], ends[:-1]))
    starts, ends = starts.reshape(rows, columns), ends.reshape(rows, columns)
    wanted = (slice(first_row, end_row), slice(first_column, end_column))
    y, x = first_row * high, first_column * wide
    height, width = min(header.height, end_row * high) - y, min(header.width, end_column * wide) - x
    stretches = zip(starts[wanted][:, 0].tolist(), ends[wanted][:, -1].tolist(), strict=True)
    head = _with_size(data[: header.codes_at], header, height, width)
    part = np.frombuffer(b"".join([head, *(data[start:end] for start, end in stretches)]), np.uint8).copy()
    # Markers count from 0 to 7 and again; the last one is the file's end.
    markers = len(head) - 1 + (ends - starts)[wanted].ravel().cumsum()
    part[markers] = _RESTART + np.arange(len(markers)) % 8
    part[-1] = _EOI
    return part, y, x


def _margin(side: int) -> int:
    return _MARGIN if side > 8 else 0


def _with_size(data: bytes, header: Header, height: int, width: int) -> bytearray:
    changed = bytearray(data)
    changed[header.size_at : header.size_at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return changed


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
