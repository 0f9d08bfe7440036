"""Turning a JPEG file into one whose restart markers make tiles, without changing a pixel.

`jpeg.decode_part` then decodes only the tiles under a crop. Every coefficient stays as it is; the file grows
by about 3 %. Any program reads it.

A coefficient's code is a Huffman code, which says how many zeros come before it and how many bits follow, and
these bits. Only a block's first code (DC) is relative to another block: after a restart marker it is relative
to 0. So all other codes are copied as they are.
"""

import functools

import numpy as np

from passl_sot.imageio.jpeg import HUFFMAN, INTERVAL, Header, read_header, segments, tile_blocks
from passl_sot.imageio.kernels.jit import compiled

# Numba's integers without a sign, of 64 bits, which it doesn't mix with others.
_32 = np.uint64(32)
_DC_SIZES = 12
_LARGEST_BLOCK = 64  # words of 32 bits that hold the codes of any block
# Sizes 0 to 11 of the first codes (DC), by the lengths that the standard proposes for them (table K.3).
_DC_COUNTS = (0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0)
_DC_SYMBOLS = tuple(range(_DC_SIZES))

_Table = tuple[np.ndarray, np.ndarray]  # number of codes of each length (16), symbols


def tile_jpeg(data: bytes) -> bytes | None:
    """A whole JPEG file with restart markers every so many blocks, of the same coefficients and metadata.

    Returns:
        None where `data` isn't a plain sequential file (see `jpeg.read_header`), has restart markers already,
        or is damaged.
    """
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
    add_restarts = functools.partial(
        _add_restarts, data[header.codes_at : -2], blocks, interval, component, of_component
    )
    more = b""
    stretches = add_restarts([dc for dc, _ in of_component])
    if stretches is None:
        # A table made for this file may have no code for the differences that restarts bring.
        standard = np.array(_DC_COUNTS, np.int64), np.array(_DC_SYMBOLS, np.int64)
        stretches = add_restarts([standard] * len(sampling))
        body = b"".join(bytes([dc, *_DC_COUNTS, *_DC_SYMBOLS]) for dc in sorted({dc for dc, _ in chosen}))
        more = bytes((0xFF, HUFFMAN)) + (2 + len(body)).to_bytes(2, "big") + body
    if stretches is None:
        return None
    more += bytes((0xFF, INTERVAL, 0, 4)) + interval.to_bytes(2, "big")
    return data[: header.scan_at] + more + data[header.scan_at : header.codes_at] + stretches


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


def _add_restarts(
    codes: bytes,
    mcus: int,
    interval: int,
    component: np.ndarray,
    tables: list[tuple[_Table, _Table]],
    written_by: list[_Table],
) -> bytes | None:
    """The codes of a sequential file with a marker after every ``interval`` MCUs, and the file's end.

    ``component`` is that of each 8×8 coefficients in an MCU, ``tables`` each component's for DC and AC, and
    ``written_by`` its table for DC to write with. None if codes aren't as they should be, or it lacks one.
    """
    # A 0 after each 255 tells it from a marker.
    plain = codes.replace(b"\xff\0", b"\xff")
    if len(codes) - len(plain) != codes.count(b"\xff"):
        return None
    # With room for a block more, as damaged codes are noticed at the end of a block.
    room = (len(codes) + 15) // 4 * 4 + 8 + 4 * _LARGEST_BLOCK
    words = np.frombuffer(plain.ljust(room, b"\0"), ">u4").astype(np.uint32)
    by_bits = np.empty((len(tables), 2, 1 << 16), np.int32)
    dc_codes = np.empty((len(tables), _DC_SIZES), np.int64)
    for c, (dc, ac) in enumerate(tables):
        by_bits[c] = _code_tables(*dc)[0], _code_tables(*ac)[0]
        dc_codes[c] = _code_tables(*written_by[c])[1][:_DC_SIZES]
    # At worst every byte is 255, and each stretch has a new first code, a marker and a part of a byte.
    out = np.empty(2 * len(plain) + 24 * (mcus // interval + 1) + 64, np.uint8)
    written, read = _rewrite(words, mcus, interval, component, by_bits, dc_codes, out)
    whole = written > 0 and 0 <= 8 * len(plain) - read < 8
    return out[:written].tobytes() if whole else None


def _code_tables(counts: np.ndarray, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A Huffman table by the next 16 bits in the file, int32 [65536], and by symbol, int64 [256]."""
    # By bits: symbol times 32 plus the length of its code; by symbol: code times 32 plus its length; else 0.
    lengths = np.repeat(np.arange(1, 17), counts)
    # Codes follow each other, shorter ones first, and each stands for all 16 bits that begin with it.
    spans = 1 << (16 - lengths)
    by_bits = np.zeros(1 << 16, np.int32)
    entries = np.repeat(symbols * 32 + lengths, spans)
    by_bits[: entries.size] = entries
    by_symbol = np.zeros(256, np.int64)
    by_symbol[symbols] = ((np.cumsum(spans) - spans) >> (16 - lengths)) * 32 + lengths
    return by_bits, by_symbol


# The rest is compiled, as every bit of a file passes through it, one code after the other.
@compiled
def _peek(words, at, n):
    """``n`` bits, 1 to 32, from bit ``at`` on."""
    both = np.uint64(words[at >> 5]) << _32 | np.uint64(words[(at >> 5) + 1])
    return np.int64(both << np.uint64(at & 31) >> np.uint64(64 - n))


@compiled
def _put(out, writer, value, n):
    """Writes ``n`` bits, at most 32. ``writer``: next byte, bits in hand (at the bottom), how many."""
    writer[1] = writer[1] << n | value
    writer[2] += n
    while writer[2] >= 8:
        writer[2] -= 8
        byte = writer[1] >> writer[2]
        writer[1] ^= byte << writer[2]
        out[writer[0]] = byte
        writer[0] += 1
        if byte == 255:
            out[writer[0]] = 0
            writer[0] += 1


@compiled
def _end_stretch(out, writer, marker):
    """Fills the last byte with ones, and writes a marker."""
    rest = -writer[2] % 8
    _put(out, writer, (1 << rest) - 1, rest)
    out[writer[0]] = 255
    out[writer[0] + 1] = marker
    writer[0] += 2


@compiled
def _put_first_code(out, writer, difference, codes):
    """``codes``: for each size the Huffman code times 32 plus its length; 0 where there is none."""
    size = 0
    while abs(difference) >> size:
        size += 1
    if size >= _DC_SIZES or codes[size] == 0:
        return False
    _put(out, writer, codes[size] >> 5, codes[size] & 31)
    # Negative ones are written less 1, so that their first bit is 0.
    low = difference
    if difference < 0:
        low += (1 << size) - 1
    _put(out, writer, low, size)
    return True


@compiled
def _copy_rest(words, at, out, writer, table):
    """The other 63 coefficients of a block, as they are; gives where they end, or -1."""
    k = 1
    while k < 64:
        entry = table[_peek(words, at, 16)]
        if entry == 0:
            return -1
        run = entry >> 9
        size = entry >> 5 & 15
        n = (entry & 31) + size
        _put(out, writer, _peek(words, at, n), n)
        at += n
        if size == 0 and run != 15:
            return at
        k += run + 1
    return at if k == 64 else -1


@compiled
def _rewrite(words, mcus, interval, component, tables, dc_codes, out):
    """Numbers of bytes written to ``out`` and of bits read; -1 and 0 where it can't go on."""
    at = 0
    writer = np.zeros(3, np.int64)
    # Of each component the last value of a first code: as it was read, and as it was written.
    read = np.zeros(3, np.int64)
    written = np.zeros(3, np.int64)
    for mcu in range(mcus):
        if mcu and mcu % interval == 0:
            _end_stretch(out, writer, 0xD0 + (mcu // interval - 1) % 8)
            written[:] = 0
        for c in component:
            entry = tables[c, 0, _peek(words, at, 16)]
            size = entry >> 5
            if entry == 0 or size >= _DC_SIZES or at >> 5 >= words.size - 1 - _LARGEST_BLOCK:
                return -1, 0
            at += entry & 31
            if size:
                value = _peek(words, at, size)
                read[c] += value if value >> (size - 1) else value - (1 << size) + 1
                at += size
            if not _put_first_code(out, writer, read[c] - written[c], dc_codes[c]):
                return -1, 0
            written[c] = read[c]
            at = _copy_rest(words, at, out, writer, tables[c, 1])
            if at < 0:
                return -1, 0
    _end_stretch(out, writer, 0xD9)
    return writer[0], at
