"""JPEG's codes gone through and written anew with restart markers, without touching a coefficient.

A coefficient's code is a Huffman code, which says how many zeros come before it and how many bits follow, and
these bits. Only a block's first code (DC) is relative to another block: after a restart marker it is relative
to 0. So all other codes are copied as they are.
"""

from __future__ import annotations

import numpy as np

from passl_sot.imageio.kernels.jit import compiled

# Numba's integers of 64 bits without a sign, which it doesn't mix with others.
_32 = np.uint64(32)
_64 = np.uint64(64)
_BYTE = np.uint64(255)
_PEEK = np.uint64(48)  # leaves 16 bits of 64
_DC_SIZES = 12
_NONE = 1 << 20  # beyond any coefficient
_LARGEST_BLOCK = 64  # words of 32 bits that hold the codes of any block


def add_restarts(
    codes: bytes,
    mcus: int,
    interval: int,
    component: np.ndarray,
    tables: list[tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]],
    standard: tuple[np.ndarray, np.ndarray] | None,
) -> bytes | None:
    """The codes of a sequential file with a marker after every ``interval`` MCUs, its units of coding.

    Args:
        codes: All between the scan's header and the file's end.
        mcus: Number of MCUs.
        interval: Number of MCUs between markers.
        component: The component of each 8×8 coefficients in an MCU.
        tables: For each component the Huffman tables of DC and AC: number of codes by length (16), symbols.
        standard: The table for DC to write with, if not the component's own.

    Returns:
        The codes and the file's end; None if they aren't as they should be, or the table for DC lacks one.
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
        by_bits[c, 0], by_symbol = _code_tables(*dc)
        by_bits[c, 1] = _code_tables(*ac)[0]
        if standard is not None:
            by_symbol = _code_tables(*standard)[1]
        dc_codes[c] = by_symbol[:_DC_SIZES]
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
def _take(words, reader, n):
    """The next ``n`` bits, at most 32. ``reader``: next word, bits in hand (from the top), how many."""
    value = np.uint64(0)
    if n:  # shifting by 64 is not defined
        value = reader[1] >> (_64 - n)
    reader[1] <<= n
    reader[2] -= n
    if reader[2] <= _32:
        reader[1] |= np.uint64(words[reader[0]]) << (_32 - reader[2])
        reader[0] += np.uint64(1)
        reader[2] += _32
    return value


@compiled
def _put(out, writer, value, n):
    """Writes ``n`` bits, at most 32. ``writer``: next byte, bits in hand (at the bottom), how many."""
    writer[1] = writer[1] << n | value
    writer[2] += n
    while writer[2] >= np.uint64(8):
        writer[2] -= np.uint64(8)
        byte = writer[1] >> writer[2] & _BYTE
        out[writer[0]] = byte
        writer[0] += np.uint64(1)
        if byte == _BYTE:
            out[writer[0]] = 0
            writer[0] += np.uint64(1)
    writer[1] &= (np.uint64(1) << writer[2]) - np.uint64(1)


@compiled
def _end_stretch(out, writer, marker):
    """Fills the last byte with ones, and writes a marker."""
    rest = np.uint64(-np.int64(writer[2]) % 8)
    _put(out, writer, (np.uint64(1) << rest) - np.uint64(1), rest)
    out[writer[0]] = 255
    out[writer[0] + np.uint64(1)] = marker
    writer[0] += np.uint64(2)


@compiled
def _first_code(words, reader, table):
    """The difference that a block's first code stands for; ``_NONE`` if there is no such code."""
    entry = np.int64(table[reader[1] >> _PEEK])
    if entry == 0 or entry >> 5 >= _DC_SIZES:
        return _NONE
    _take(words, reader, np.uint64(entry & 31))
    size = entry >> 5
    value = np.int64(_take(words, reader, np.uint64(size)))
    return value if size == 0 or value >> (size - 1) else value - (1 << size) + 1


@compiled
def _put_first_code(out, writer, difference, codes):
    """``codes``: for each size the Huffman code times 32 plus its length; 0 where there is none."""
    size = 0
    rest = abs(difference)
    while rest:
        size += 1
        rest >>= 1
    if size >= _DC_SIZES or codes[size] == 0:
        return False
    _put(out, writer, np.uint64(codes[size] >> 5), np.uint64(codes[size] & 31))
    # Negative ones are written less 1, so that their first bit is 0.
    low = difference
    if difference < 0:
        low += (1 << size) - 1
    _put(out, writer, np.uint64(low), np.uint64(size))
    return True


@compiled
def _copy_rest(words, reader, out, writer, table):
    """The other 63 coefficients of a block, as they are."""
    k = 1
    while k < 64:
        entry = np.int64(table[reader[1] >> _PEEK])
        if entry == 0:
            return False
        run = entry >> 9
        size = entry >> 5 & 15
        n = np.uint64((entry & 31) + size)
        _put(out, writer, _take(words, reader, n), n)
        if size == 0 and run != 15:
            return True
        k += run + 1
    return k == 64


@compiled
def _rewrite(words, mcus, interval, component, tables, dc_codes, out):
    """Fills ``out``. Gives the number of bytes written and of bits read; -1 and 0 where it can't go on."""
    reader = np.zeros(3, np.uint64)
    writer = np.zeros(3, np.uint64)
    _take(words, reader, np.uint64(0))
    _take(words, reader, np.uint64(0))
    # Of each component the last value of a first code: as it was read, and as it was written.
    read = np.zeros(3, np.int64)
    written = np.zeros(3, np.int64)
    for mcu in range(mcus):
        if mcu and mcu % interval == 0:
            _end_stretch(out, writer, 0xD0 + (mcu // interval - 1) % 8)
            written[:] = 0
        for c in component:
            difference = _first_code(words, reader, tables[c, 0])
            if difference == _NONE or np.int64(reader[0]) >= words.size - 1 - _LARGEST_BLOCK:
                return -1, 0
            read[c] += difference
            if not _put_first_code(out, writer, read[c] - written[c], dc_codes[c]):
                return -1, 0
            written[c] = read[c]
            if not _copy_rest(words, reader, out, writer, tables[c, 1]):
                return -1, 0
    _end_stretch(out, writer, 0xD9)
    return np.int64(writer[0]), np.int64(reader[0]) * 32 - np.int64(reader[2])
