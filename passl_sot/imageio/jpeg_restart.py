"""Turning a JPEG file into one whose restart markers make tiles, without changing a pixel.

`jpeg.decode_part` then decodes only the tiles under a crop. Every coefficient stays as it is; the file grows
by about 3 %. Any program reads it.
"""

from __future__ import annotations

import numpy as np

from passl_sot.imageio.jpeg import HUFFMAN, INTERVAL, Header, read_header, segments

# Width of a tile in pixels: what is aimed at, and the least and the most that help. Narrow tiles let less be
# decoded beside a crop, but each makes a file larger and decoding slower: 16 is no faster than 32.
_LEAST, _WIDTH, _MOST = 16, 24, 160
# Sizes 0 to 11 of the first codes (DC), by the lengths that the standard proposes for them (table K.3).
_DC_COUNTS = (0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0)
_DC_SYMBOLS = tuple(range(12))

_Table = tuple[np.ndarray, np.ndarray]


def tile_jpeg(data: bytes) -> bytes | None:
    """A whole JPEG file with restart markers every so many blocks, of the same coefficients and metadata.

    Returns:
        None where `data` isn't a plain sequential file (see `jpeg.read_header`), has restart markers already,
        or is damaged.

    Raises:
        ModuleNotFoundError: numba isn't installed.
    """
    from passl_sot.imageio.kernels.jpeg_huffman import add_restarts

    header = read_header(data)
    if header is None or not header.sequential or header.interval:
        return None
    blocks = -(-header.height // header.mcu_hw[0]) * -(-header.width // header.mcu_hw[1])
    interval = tile_blocks(header.width, header.mcu_hw[1])
    tables = _tables(data)
    sampling, chosen = _components(data, header)
    try:
        of_component = [(tables[dc], tables[16 + ac]) for dc, ac in chosen]
    except KeyError:
        return None
    component = np.repeat(np.arange(len(sampling)), sampling)
    codes = data[header.codes_at : -2]
    more = b""
    stretches = add_restarts(codes, blocks, interval, component, of_component, None)
    if stretches is None:
        # A table made for this file may have no code for the differences that restarts bring.
        standard = np.array(_DC_COUNTS, np.int64), np.array(_DC_SYMBOLS, np.int64)
        stretches = add_restarts(codes, blocks, interval, component, of_component, standard)
        body = b"".join(bytes([dc, *_DC_COUNTS, *_DC_SYMBOLS]) for dc in sorted({dc for dc, _ in chosen}))
        more = bytes((0xFF, HUFFMAN)) + (2 + len(body)).to_bytes(2, "big") + body
    if stretches is None:
        return None
    more += bytes((0xFF, INTERVAL, 0, 4)) + interval.to_bytes(2, "big")
    return data[: header.scan_at] + more + data[header.scan_at : header.codes_at] + stretches


def tile_blocks(image_width: int, width: int) -> int:
    """How many blocks of a width make a tile: a divisor of those of a row, or the whole row."""
    blocks = -(-image_width // width)
    divisors = [n for n in range(1, blocks + 1) if blocks % n == 0 and _LEAST <= n * width <= _MOST]
    wide = [n for n in divisors if n * width >= _WIDTH]
    return min(wide, default=max(divisors, default=blocks))


def _tables(data: bytes) -> dict[int, _Table]:
    """Huffman tables, (codes of each length, symbols) by class and number."""
    tables = {}
    for kind, at, after in segments(data):
        body = data[at + 4 : after]
        while kind == HUFFMAN and len(body) >= 17:
            counts = np.frombuffer(body[1:17], np.uint8).astype(np.int64)
            size = int(counts.sum())
            symbols = np.frombuffer(body[17 : 17 + size], np.uint8).astype(np.int64)
            # More codes of a length than there is room for: no table.
            room = (counts * 2.0 ** -np.arange(1, 17)).sum()
            # Nor one that has two codes for a symbol: the longer one could be written in place of the other.
            if len(symbols) == size == len(np.unique(symbols)) and room <= 1:
                tables[body[0]] = counts, symbols
            body = body[17 + size :]
    return tables


def _components(data: bytes, header: Header) -> tuple[list[int], list[tuple[int, int]]]:
    """Blocks of 8x8 of each component in what is coded together, and numbers of its tables for DC and AC."""
    scan = data[header.scan_at + 4 : header.codes_at]
    chosen = [(scan[2 + 2 * i] >> 4, scan[2 + 2 * i] & 15) for i in range(scan[0])]
    if len(chosen) == 1:
        return [1], chosen
    frame = data[header.size_at + 4 :]
    return [(frame[2 + 3 * i] >> 4) * (frame[2 + 3 * i] & 15) for i in range(frame[0])], chosen
