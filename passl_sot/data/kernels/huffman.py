"""The codes of a JPEG file written again with other restart markers, coefficients untouched.

A sequential file codes 8x8 coefficients block by block: the mean (DC) as the difference from the block before
of the same component, the others (AC) as runs and values (ITU-T T.81, F.1.2). At a restart marker the means
that differences start from are 0 again. So where markers move, the differences next to them change; all other
codes are copied as they are.
"""

from __future__ import annotations

import numpy as np

from passl_sot.data.kernels.compiling import compiled

__all__ = ["retile"]

# Places of a reader's state: what it reads next; bits that it holds, how many, and how many of these stand
# behind a marker, where there is nothing to read.
_AT, _BITS, _COUNT, _BEHIND = range(4)
# And of a writer's: where it writes next; bits that it holds, and how many.
_END, _HELD, _NUMBER = range(3)


@compiled
def retile(codes, blocks, dc_codes, ac_codes, dc_words, intervals, total, out):
    """Moves restart markers.

    Args:
        codes: The file from behind its header to its end, uint8 [N].
        blocks: Component, DC table and AC table of each block of a unit, int64 [B, 3].
        dc_codes: For 16 bits, length << 8 | category of the code that they begin with, or 0; int64
            [T, 65536].
        ac_codes: The same for AC, with zeros << 4 | category.
        dc_words: How categories are to be written, length << 16 | code, or 0; int64 [T, categories].
        intervals: Units between the markers that are there (0: none), and between those to be, int64 [2].
        total: Units of the image.
        out: Room for the result, uint8.

    Returns:
        How many bytes of `out` are written; 0 where the codes aren't as they should be, -1 - t where table t
        lacks a code for a difference.
    """
    reader, writer = np.zeros(4, np.int64), np.zeros(3, np.int64)
    means, written = np.zeros(4, np.int64), np.zeros(4, np.int64)
    for unit in range(total):
        if intervals[0] > 0 and unit > 0 and unit % intervals[0] == 0:
            if not _pass_marker(codes, reader, 0xD0 + (unit // intervals[0] - 1) % 8):
                return 0
            means[:] = 0
        if unit > 0 and unit % intervals[1] == 0:
            _mark(out, writer, 0xD0 + (unit // intervals[1] - 1) % 8)
            written[:] = 0
        if writer[_END] + 1024 * blocks.shape[0] > out.size:
            return 0
        for b in range(blocks.shape[0]):
            component, dc, ac = blocks[b, 0], blocks[b, 1], blocks[b, 2]
            _fill(codes, reader)
            code = dc_codes[dc, reader[_BITS] >> (reader[_COUNT] - 16) & 0xFFFF]
            size = code & 255
            if code == 0 or size >= dc_words.shape[1]:
                return 0
            reader[_COUNT] -= (code >> 8) + size
            value = reader[_BITS] >> reader[_COUNT] & ((1 << size) - 1)
            # Values that begin with a 0 stand for negative differences.
            if size > 0 and value >> (size - 1) == 0:
                value -= (1 << size) - 1
            means[component] += value
            difference = means[component] - written[component]
            written[component] = means[component]
            size = 0
            while abs(difference) >> size:
                size += 1
            if size >= dc_words.shape[1]:
                return 0
            if dc_words[dc, size] == 0:
                return -1 - dc
            _put(out, writer, dc_words[dc, size] & 0xFFFF, dc_words[dc, size] >> 16)
            _put(out, writer, (difference - (difference < 0)) & ((1 << size) - 1), size)
            if not _copy_ac(codes, ac_codes[ac], reader, out, writer):
                return 0
    if not _pass_marker(codes, reader, 0xD9) or reader[_AT] != codes.size:
        return 0
    _mark(out, writer, 0xD9)
    return writer[_END]


@compiled
def _copy_ac(codes, table, reader, out, writer):
    """Copies a block's coefficients but the first; whether they were as they should be."""
    place = 1
    while place < 64:
        _fill(codes, reader)
        code = table[reader[_BITS] >> (reader[_COUNT] - 16) & 0xFFFF]
        if code == 0:
            return False
        run, size = code >> 4 & 15, code & 15
        taken = (code >> 8) + size
        reader[_COUNT] -= taken
        _put(out, writer, reader[_BITS] >> reader[_COUNT] & ((1 << taken) - 1), taken)
        if size == 0 and run != 15:
            return run == 0
        place += run + 1
    return place == 64


@compiled
def _fill(codes, reader):
    """Reads ahead, so that 32 bits or more are held; zeros where a marker ends the codes."""
    at, bits, count = reader[_AT], reader[_BITS], reader[_COUNT]
    while count < 32:
        byte = np.int64(codes[at]) if at < codes.size else 0xFF
        if byte != 0xFF:
            at += 1
        elif at + 1 < codes.size and codes[at + 1] == 0:
            at += 2
        else:
            byte = 0
            reader[_BEHIND] += 8
        bits = (bits & 0xFFFFFFFF) << 8 | byte
        count += 8
    reader[_AT], reader[_BITS], reader[_COUNT] = at, bits, count


@compiled
def _pass_marker(codes, reader, kind):
    """Goes on behind a marker; whether it is there, with less than a byte before it that isn't used."""
    _fill(codes, reader)
    at = reader[_AT]
    if not 0 <= reader[_COUNT] - reader[_BEHIND] < 8 or at + 1 >= codes.size:
        return False
    if codes[at] != 0xFF or codes[at + 1] != kind:
        return False
    reader[:] = 0
    reader[_AT] = at + 2
    return True


@compiled
def _put(out, writer, value, length):
    """Writes bits, at most 31; a byte of ones is followed by a zero, so that it is no marker."""
    held, number, end = writer[_HELD] << length | value, writer[_NUMBER] + length, writer[_END]
    while number >= 8:
        number -= 8
        byte = held >> number & 0xFF
        out[end] = byte
        end += 1
        if byte == 0xFF:
            out[end] = 0
            end += 1
    writer[_HELD], writer[_NUMBER], writer[_END] = held & 0xFF, number, end


@compiled
def _mark(out, writer, kind):
    """Fills the last byte with ones and writes a marker."""
    if writer[_NUMBER] > 0:
        room = 8 - writer[_NUMBER]
        _put(out, writer, (1 << room) - 1, room)
    end = writer[_END]
    out[end], out[end + 1] = 0xFF, kind
    writer[:] = 0
    writer[_END] = end + 2
