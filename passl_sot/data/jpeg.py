"""Decoding of plain JPEG files, in part where that saves time, where simplejpeg is installed.

simplejpeg is libjpeg-turbo, as Pillow is, with the same settings, so pixels are the same; it does without
Pillow's copies. A file is decoded from the top; the rows below those that are wanted are left out by writing
a smaller height into a copy of its header. (Rows above have to be read all the same, as each code's place
depends on those before it.) Whatever isn't plain is left to Pillow: see `read_header`.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass

import numpy as np

__all__ = ["Header", "available", "decode_rows", "read_header"]

_BEGIN, _END = b"\xff\xd8\xff", b"\xff\xd9"
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_TABLES = {0xC4, 0xDB, 0xDD, 0xFE}  # Huffman, quantisation, restart interval, comment
_APP, _APP1, _APP2 = range(0xE0, 0xF0), 0xE1, 0xE2
_SCAN = 0xDA
# Smoothed chroma looks at the row below; its rows are up to 2 pixels high.
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
        height_at: Where in the file the height is written, 2 bytes.
        band: Rows that are decoded together: 8 times the vertical sampling.
        sequential: Whether the file runs from top to bottom, so that a part of it can be decoded.
        may_turn: Whether there is metadata that may hold an orientation.
    """

    height: int
    width: int
    height_at: int
    band: int
    sequential: bool
    may_turn: bool


def read_header(data: bytes) -> Header | None:
    """Reads the header of a plain JPEG file: 8 bits, grey or three colours, Huffman-coded, with an end.

    Returns:
        None for all else: other kinds of file, CMYK, several pictures, arithmetic coding, damaged headers,
        an end that is missing.
    """
    if not data.startswith(_BEGIN) or not data.endswith(_END):
        return None
    at, frame, may_turn = 2, None, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if kind in (_BASELINE, _EXTENDED, _PROGRESSIVE):
            if frame is not None:
                return None
            frame = (kind, at + 5, body)
        elif kind == _SCAN:
            return _header(*frame, body, may_turn) if frame is not None else None
        elif kind in _APP:
            may_turn = may_turn or kind == _APP1
            if kind == _APP2 and body.startswith(b"MPF\0"):
                return None
        elif kind not in _TABLES:
            return None
        at += 2 + length
    return None


def _header(kind: int, height_at: int, frame: bytes, scan: bytes, may_turn: bool) -> Header | None:
    if len(frame) < 6 or not scan or frame[0] != 8 or len(frame) != 6 + 3 * frame[5]:
        return None
    height, width, components = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big"), frame[5]
    vertical = [frame[7 + 3 * i] & 15 for i in range(components)]
    if components not in (1, 3) or min(height, width) < _SMALLEST or max(vertical) > 2:
        return None
    return Header(
        height=height,
        width=width,
        height_at=height_at,
        band=8 * max(vertical),
        # In one scan of all colours.
        sequential=kind != _PROGRESSIVE and scan[0] == components,
        may_turn=may_turn,
    )


def decode_rows(data: bytes, header: Header, bottom: int) -> np.ndarray:
    """The first rows of a file, at least `bottom` of them.

    Returns:
        uint8 [H', W, 3], H' >= bottom.

    Raises:
        ValueError: The file is damaged.
    """
    import simplejpeg

    rows = -(-(bottom + _MARGIN) // header.band) * header.band
    if rows >= header.height or not header.sequential:
        return simplejpeg.decode_jpeg(data)
    part = bytearray(data)
    part[header.height_at : header.height_at + 2] = rows.to_bytes(2, "big")
    # Not strict: what is left over would count as a fault.
    return simplejpeg.decode_jpeg(part, strict=False)
