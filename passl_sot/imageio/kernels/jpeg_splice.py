"""A JPEG file made of some of another's tiles: restart markers are found, what is between them is joined."""

from __future__ import annotations

import numpy as np

from passl_sot.imageio.kernels.jit import compiled

__all__ = ["join_tiles"]

_RESTART, _EOI = 0xD0, 0xD9
_CHUNK = 4096  # bytes that are looked at at once


@compiled
def join_tiles(data, header, top, bottom, left, right):
    """A file of those tiles that hold a rectangle.

    Args:
        data: uint8, the whole file.
        header: Its `jpeg.Header` as a plain tuple: code kept on disk would name the class, wherever that was.
        top: The rectangle's first row; it may reach over the image's edges.
        bottom: The row behind its last.
        left: Its first column.
        right: The column behind its last.

    Returns:
        The file, and the place (top, left) of its first pixel. Empty where restart
        markers don't divide the image into tiles, or all tiles would be needed, or the markers aren't as they
        should be.
    """
    nothing = np.empty(0, np.uint8), 0, 0
    height, width, high, wide, interval, _, _, size_at, _, codes_at = header
    blocks_x = -(-width // wide)
    if blocks_x % interval and interval % blocks_x:
        return nothing
    high *= max(1, interval // blocks_x)
    wide *= min(interval, blocks_x)
    rows, columns = -(-height // high), -(-width // wide)
    row, column = max(0, top) // high, max(0, left) // wide
    end_row, end_column = min(rows, -(-bottom // high)), min(columns, -(-right // wide))
    count, chosen = rows * columns, (end_row - row) * (end_column - column)
    if chosen == count or 2 * count > data.size - codes_at:
        return nothing
    # Where each tile begins, and where the last one ends.
    edges = np.empty(count + 1, np.int64)
    if not _find_edges(data, codes_at, edges):
        return nothing
    size = codes_at
    for r in range(row, end_row):
        size += edges[r * columns + end_column] - edges[r * columns + column]
    out = np.empty(size, np.uint8)
    _copy(data, 0, codes_at, out, 0)
    y, x = row * high, column * wide
    h, w = min(height, end_row * high) - y, min(width, end_column * wide) - x
    out[size_at], out[size_at + 1], out[size_at + 2], out[size_at + 3] = h >> 8, h & 255, w >> 8, w & 255
    at, number = codes_at, 0
    for r in range(row, end_row):
        first = r * columns
        begin, end = edges[first + column], edges[first + end_column]
        _copy(data, begin, end, out, at)
        # Markers count from 0 to 7 and again; the last one is the file's end.
        for c in range(first + column + 1, first + end_column + 1):
            out[at + edges[c] - begin - 1] = _RESTART + number % 8
            number += 1
        at += end - begin
    out[size - 1] = _EOI
    return out, y, x


@compiled
def _copy(source, begin, end, target, at):
    """What is between two places of an array to another one; an assignment would take ten times as long."""
    a, b = source[begin:end], target[at:][: end - begin]
    for i in range(a.size):
        b[i] = a[i]


@compiled
def _find_edges(data, codes_at, edges):
    """Fills ``edges``; False where the markers aren't those of as many tiles, each once and in order.

    255 is followed by 0 where it is part of the codes.
    """
    edges[0] = codes_at
    n, last = 1, data.size - 1
    words = np.empty(_CHUNK // 8, np.uint64)
    found = words.view(np.uint8)
    for start in range(codes_at, last, _CHUNK):
        here = min(_CHUNK, last - start)
        a, b = data[start:][:here], data[start + 1 :][:here]
        words[here // 8 : here // 8 + 1] = 0
        for i in range(here):
            found[i] = (a[i] == 255) & (b[i] != 0)
        for word in range((here + 7) // 8):
            if words[word]:
                for i in range(8 * word, 8 * word + 8):
                    if found[i]:
                        expected = _EOI if n == edges.size - 1 else _RESTART + (n - 1) % 8
                        if n == edges.size or b[i] != expected:
                            return False
                        edges[n] = start + i + 2
                        n += 1
    return n == edges.size
