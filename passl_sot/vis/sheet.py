"""Sheets to look at: PNG files of many small pictures with words below each, or of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from passl_sot.utils.figure import drawable
from passl_sot.vis.canvas import Canvas

SIDE = 176  # pixels of a small picture's longer side
_ACROSS = 8  # pictures in a row
_GAP = 12
_LINE = 16  # pixels
_WIDTH = 1400  # of a sheet of texts
_HEAD = 11.0


@dataclass(frozen=True)
class Tile:
    """A small picture and what stands below it.

    Attributes:
        picture: uint8 [h, w, 3]; see `fitted`.
        lines: Of one that is too wide the middle is left out.
    """

    picture: np.ndarray
    lines: Sequence[str] = ()


def save_sheet(path: Path, title: str, tiles: Sequence[Tile], across: int = _ACROSS) -> None:
    """Draws small pictures in rows of `across`, pixel for pixel, with their words."""
    # All texts at once: one choice of fonts has to serve the whole sheet.
    words, fonts = drawable([title, *(line for tile in tiles for line in tile.lines)])
    across = max(1, min(across, len(tiles)))
    cell = max([SIDE, *(tile.picture.shape[1] for tile in tiles)])
    rows = [tiles[first : first + across] for first in range(0, len(tiles), across)]
    heights = [
        max(t.picture.shape[0] for t in row) + _LINE * max(len(t.lines) for t in row) + 2 * _GAP
        for row in rows
    ]
    head = 2 * _GAP + _LINE * (1 + title.count("\n"))
    # Few tiles still leave room for the title.
    width = max(_GAP + across * (cell + _GAP), _WIDTH // 2)
    canvas = Canvas(width, head + sum(heights), fonts)
    texts = iter(words)
    canvas.write(_GAP, _GAP, next(texts), width - 2 * _GAP, size=_HEAD)
    top = head
    for row, tall in zip(rows, heights, strict=True):
        for place, tile in enumerate(row):
            left = _GAP + place * (cell + _GAP)
            below = top + tile.picture.shape[0]
            canvas.show(left, top, tile.picture)
            for number, _ in enumerate(tile.lines):
                canvas.write(left, below + 4 + number * _LINE, next(texts), cell)
        top += tall
    _save(canvas, path)


def save_texts(path: Path, title: str, items: Sequence[Sequence[str]]) -> None:
    """Draws texts below each other: each item has lines, which are broken where they are too long."""
    words, fonts = drawable([title, *(line for item in items for line in item)])
    # Its height doesn't matter: only how wide words are is asked of it.
    measure = Canvas(_WIDTH, 100, fonts)
    texts = iter(words[1:])
    broken = [
        [part for _ in item for part in measure.broken(next(texts), _WIDTH - 2 * _GAP)] for item in items
    ]
    lines_of_all = [line for lines in broken for line in lines]
    width = min(_WIDTH, 2 * _GAP + max([_WIDTH // 2, *map(measure.wide, lines_of_all)]))
    head = 2 * _GAP + _LINE * (1 + title.count("\n"))
    height = head + sum(len(lines) * _LINE + _GAP for lines in broken)
    canvas = Canvas(width, height, fonts)
    canvas.write(_GAP, _GAP, words[0], width - 2 * _GAP, size=_HEAD)
    top = head
    for lines in broken:
        for line in lines:
            canvas.write(_GAP, top, line, width)
            top += _LINE
        top += _GAP
    _save(canvas, path)


def _save(canvas: Canvas, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.figure.savefig(path)
