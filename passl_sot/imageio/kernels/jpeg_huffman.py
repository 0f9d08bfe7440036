"""JPEG's codes gone through and written anew with restart markers, without touching a coefficient.

A coefficient's code is a Huffman code, which says how many zeros come before it and how many bits follow, and
these bits. Only a block's first code (DC) is relative to another block: after a restart marker it is relative
to 0. So all other codes are copied as they are.
"""

from __future__ import annotations

import numpy as np

from passl_sot.imageio.kernels.jit import compiled

__all__ = ["add_restarts"]

# Numba's integers of 64 bits without a sign, which it doesn't mix with others.
_32 = np.uint64(32)
_64 = np.uint64(64)
_BYTE = np.uint64(255)
_PEEK = np.uint64(48)  # leaves 16 bits of 64
_DC_SIZES = 12
_NONE = 1 << 20  # beyond any coefficient
_LARGEST_BLOCK = 64  # words of 32 bits that hold the codes of any block


def add_restarts(
    codes: np.ndarray,
    blocks: int,
    interval: int,
    component: np.ndarray,
    tables: list[tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]],
    standard: tuple[np.ndarray, np.ndarray] | None,
) -> bytes | None:
    """The codes of a sequential file with a restart marker after every ``interval`` blocks.

    Args:
        codes: uint8, all between the scan's header and the file's end.
        blocks: Number of what is coded together.
        interval: Number of these between markers.
        component: What one of these holds: the component of each 8×8 coefficients.
        tables: For each component the Huffman tables of DC and AC: number of codes by length (16), symbols.
        standard: The table for DC to write with, if not the component's own.

    Returns:
        The codes and the file's end; None if they aren't as they should be, or the table for DC lacks one.
    """
    # With room for a block more, as damaged codes are noticed at the end of a block.
    clean = np.zeros((codes.size + 15) // 4 * 4 + 8 + 4 * _LARGEST_BLOCK, np.uint8)
    size = _unstuff(codes, clean)
    if size < 0:
        return None
    lengths = np.empty((len(tables), 2, 1 << 16), np.int32)
    dc_codes = np.zeros((len(tables), _DC_SIZES), np.int64)
    for c, (dc, ac) in enumerate(tables):
        _lengths(*dc, lengths[c, 0])
        _lengths(*ac, lengths[c, 1])
        _codes(*(standard or dc), dc_codes[c])
    # At worst every byte is 255, and each stretch has a new first code, a marker and a part of a byte.
    out = np.empty(2 * size + 24 * (blocks // interval + 1) + 64, np.uint8)
    words = clean.view(">u4").astype(np.uint32)
    written, read = _rewrite(words, blocks, interval, component, lengths, dc_codes, out)
    return out[:written].tobytes() if written > 0 and 0 <= 8 * size - read < 8 else None


# Compiled: every bit of a file passes through these loops, 50 ms an image in plain Python's place of 1.
@compiled
def _unstuff(codes, clean):
    """Removes the 0 after each 255, which tells it from a marker. Gives the size, -1 if there is a marker."""
    n = 0
    i = 0
    while i < codes.size:
        clean[n] = codes[i]
        n += 1
        if codes[i] == 255:
            i += 1
            if i >= codes.size or codes[i] != 0:
                return -1
        i += 1
    return n


@compiled
def _lengths(counts, symbols, table):
    """For each 16 bits that may come: symbol times 32 plus the length of its code; 0 where there is none."""
    code = 0
    at = 0
    table[:] = 0
    for length in range(1, 17):
        for _ in range(counts[length - 1]):
            first = code << (16 - length)
            table[first : first + (1 << (16 - length))] = symbols[at] * 32 + length
            code += 1
            at += 1
        code <<= 1


@compiled
def _codes(counts, symbols, table):
    """For each symbol its code times 32 plus the code's length; 0 where there is none."""
    code = 0
    at = 0
    for length in range(1, 17):
        for _ in range(counts[length - 1]):
            if symbols[at] < table.size:
                table[symbols[at]] = code * 32 + length
            code += 1
            at += 1
        code <<= 1


@compiled
def _take(words, reader, n):
    """The next ``n`` bits, at most 32. ``reader``: next word, bits in hand (from the top), how many."""
    value = reader[1] >> (_64 - n) if n else np.uint64(0)  # shifting by 64 is not defined
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
    low = difference if difference >= 0 else difference + (1 << size) - 1
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
def _rewrite(words, blocks, interval, component, tables, dc_codes, out):
    """Fills ``out``. Gives the number of bytes written and of bits read; -1 and 0 where it can't go on."""
    reader = np.zeros(3, np.uint64)
    writer = np.zeros(3, np.uint64)
    _take(words, reader, np.uint64(0))
    _take(words, reader, np.uint64(0))
    # Of each component the last value of a first code: as it was read, and as it was written.
    read = np.zeros(3, np.int64)
    written = np.zeros(3, np.int64)
    for block in range(blocks):
        if block and block % interval == 0:
            _end_stretch(out, writer, 0xD0 + (block // interval - 1) % 8)
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
