"""JPEG files brought into tiles without a change of their pixels, so that crops need decode a part of them.

The codes of a plain sequential file are written again with restart markers that divide its rows of blocks
(see `jpeg`); coefficients, tables and metadata stay. Of the standard (ITU-T T.81) this follows annex B for
the segments, C for the tables of codes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from passl_sot.data import jpeg
from passl_sot.data.kernels import compiling

__all__ = ["add_tiles", "tile_blocks"]

# Width of a tile in pixels: narrower ones save decoding, but each costs 3 to 5 bytes.
_TILE, _NARROWEST, _WIDEST = 64, 32, 160
_HUFFMAN, _INTERVAL, _SCAN = 0xC4, 0xDD, 0xDA
# Differences of means take 0 to 11 bits where samples have 8.
CATEGORIES = 12
# Table K.3 of the standard, which has codes for all of them.
_STANDARD = bytes([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]), bytes(range(CATEGORIES))


def tile_blocks(width: int, block: int) -> int:
    """How many blocks make the best tile: a divisor of those in a row, so that tiles stand in columns.

    Args:
        width: Width of the image in pixels.
        block: Width of a block (a unit of all components) in pixels.

    Returns:
        The number; a whole row where no divisor makes a tile 32 to 160 pixels wide.
    """
    row = -(-width // block)
    fitting = [n for n in range(1, row) if row % n == 0 and _NARROWEST <= n * block <= _WIDEST]
    return min(fitting, key=lambda n: abs(n * block - _TILE), default=row)


def add_tiles(data: bytes) -> bytes | None:
    """The file with restart markers as `tile_blocks` has them, equal in every pixel.

    Returns:
        None where there is nothing to gain or that can't be done: files that aren't plain and sequential
        (see `jpeg.read_header`), in tiles already, or damaged; everywhere, where numba isn't installed.
    """
    header = jpeg.read_header(data)
    if header is None or not header.sequential or not compiling.available():
        return None
    row = -(-header.width // header.block[1])
    interval = tile_blocks(header.width, header.block[1])
    there = header.interval
    if there == interval or (there and row % there == 0 and there * header.block[1] <= _WIDEST):
        return None
    tables = _read_tables(data, header)
    return None if tables is None else _write(data, header, tables, interval)


class _Tables:
    """Huffman tables of a file, and which blocks use them.

    Attributes:
        dc, ac: By number: how many codes have 1 to 16 bits, and what the codes stand for.
        blocks: Component, DC table and AC table of each block of a unit, int64 [B, 3].
    """

    def __init__(self) -> None:
        self.dc: dict[int, tuple[bytes, bytes]] = {}
        self.ac: dict[int, tuple[bytes, bytes]] = {}
        self.blocks = np.empty((0, 3), np.int64)


def _read_tables(data: bytes, header: jpeg.Header) -> _Tables | None:
    """The tables; None where they aren't as they should be."""
    tables, at = _Tables(), 2
    while data[at + 1] != _SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == _HUFFMAN and not _enter(data[at + 4 : end], tables):
            return None
        at = end
    components = data[header.size_at + 4]
    blocks = []
    for i in range(components):
        name, sampling = data[header.size_at + 5 + 3 * i], data[header.size_at + 6 + 3 * i]
        dc, ac = data[at + 6 + 2 * i] >> 4, data[at + 6 + 2 * i] & 15
        if name != data[at + 5 + 2 * i] or dc not in tables.dc or ac not in tables.ac:
            return None
        # One component alone is coded by single blocks whatever its sampling.
        blocks += [(i, dc, ac)] * (1 if components == 1 else (sampling >> 4) * (sampling & 15))
    tables.blocks = np.array(blocks, np.int64)
    return tables


def _enter(body: bytes, tables: _Tables) -> bool:
    """Enters the tables of one segment; whether they are whole."""
    while body:
        kind, counts = body[0], body[1:17]
        codes = sum(counts)
        values = body[17 : 17 + codes]
        room = sum(count << (16 - length) for length, count in enumerate(counts, 1))
        if len(counts) < 16 or len(values) < codes or room > 1 << 16 or kind & 0xEC:
            return False
        (tables.ac if kind >> 4 else tables.dc)[kind & 15] = counts, values
        body = body[17 + codes :]
    return True


def _write(data: bytes, header: jpeg.Header, tables: _Tables, interval: int) -> bytes | None:
    from passl_sot.data.kernels.huffman import retile

    high, wide = header.block
    total = -(-header.height // high) * -(-header.width // wide)
    codes = np.frombuffer(data, np.uint8, offset=header.codes_at)
    out = np.empty(2 * len(codes) + 8 * total + 8192, np.uint8)
    intervals = np.array([header.interval, interval], np.int64)
    words, more, written = _by_number(tables.dc, _words), b"", -1
    dc, ac = _by_number(tables.dc, _lookup), _by_number(tables.ac, _lookup)
    while written < 0:
        written = retile(codes, tables.blocks, dc, ac, words, intervals, total, out)
        if written < 0:
            # A table that was made for this file alone may lack a code; the standard's has them all.
            number = -1 - written
            words[number] = _words(*_STANDARD)
            more += _segment(_HUFFMAN, bytes([number]) + _STANDARD[0] + _STANDARD[1])
    if written == 0:
        return None
    more += _segment(_INTERVAL, interval.to_bytes(2, "big"))
    # In front of the scan's own segment they hold in place of those before.
    scan_at = header.codes_at - 8 - 2 * data[header.size_at + 4]
    return b"".join((data[:scan_at], more, data[scan_at : header.codes_at], out[:written].tobytes()))


def _segment(kind: int, body: bytes) -> bytes:
    return bytes([0xFF, kind]) + (len(body) + 2).to_bytes(2, "big") + body


def _by_number(
    tables: dict[int, tuple[bytes, bytes]], make: Callable[[bytes, bytes], np.ndarray]
) -> np.ndarray:
    made = {number: make(*table) for number, table in tables.items()}
    result = np.zeros((4, *next(iter(made.values())).shape), np.int64)
    for number, row in made.items():
        result[number] = row
    return result


@functools.lru_cache(maxsize=8)
def _lookup(counts: bytes, values: bytes) -> np.ndarray:
    """Length << 8 | value of the code that 16 bits begin with, or 0; int64 [65536]."""
    lengths = np.repeat(np.arange(1, 17), np.frombuffer(counts, np.uint8))
    entries = lengths << 8 | np.frombuffer(values, np.uint8)
    table = np.zeros(1 << 16, np.int64)
    filled = np.repeat(entries, 1 << (16 - lengths))
    table[: len(filled)] = filled
    return table


def _words(counts: bytes, values: bytes) -> np.ndarray:
    """Length << 16 | code of each category of differences, or 0; int64 [CATEGORIES]."""
    words = np.zeros(CATEGORIES, np.int64)
    code, place = 0, 0
    for length, count in enumerate(counts, 1):
        for value in values[place : place + count]:
            if value < CATEGORIES:
                words[value] = length << 16 | code
            code += 1
        place += count
        code <<= 1
    return words
