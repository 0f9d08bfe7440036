"""Sheets to look at: PNG files of many small pictures with words below each, or of texts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from passl_sot.utils.figure import DPI, drawable, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 176  # pixels of a small picture's longer side
_ACROSS = 8  # pictures in a row
_GAP = 12
_LINE = 16  # pixels
_WIDTH = 1400  # of a sheet of texts
_POINTS = 8.0
_HEAD = 11.0


@dataclass(frozen=True)
class Tile:
    """A small picture and what stands below it.

    Attributes:
        picture: uint8 [h, w, 3]; see `small`.
        lines: Of one that is too wide the middle is left out.
    """

    picture: np.ndarray
    lines: Sequence[str] = ()


def as_picture(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C] as something to look at, [H, W, 3]: of other channels than three the mean, as gray."""
    if pixels.shape[2] == 3:
        return pixels
    gray = pixels.mean(axis=2, keepdims=True)
    return np.rint(gray).astype(np.uint8).repeat(3, axis=2)


def small(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A picture whose longer side is at most `side`; tiny ones are enlarged by whole pixels."""
    longer = max(picture.shape[:2])
    times = side // longer
    if times > 1:
        return picture.repeat(times, axis=0).repeat(times, axis=1)
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return np.asarray(image)


def save_sheet(path: Path, title: str, tiles: Sequence[Tile], across: int = _ACROSS) -> None:
    """Draws small pictures in rows of `across`, pixel for pixel, with their words."""
    words, fonts = drawable([title, *(line for tile in tiles for line in tile.lines)])
    across = max(1, min(across, len(tiles)))
    cell = max([SIDE, *(tile.picture.shape[1] for tile in tiles)])
    rows = [tiles[first : first + across] for first in range(0, len(tiles), across)]
    heights = [
        max(t.picture.shape[0] for t in row) + _LINE * max(len(t.lines) for t in row) + 2 * _GAP
        for row in rows
    ]
    head = 2 * _GAP + _LINE * (1 + title.count("\n"))
    width = max(_GAP + across * (cell + _GAP), _WIDTH // 2)
    height = head + sum(heights)
    writer = _Writer(width, height, fonts)
    texts = iter(words)
    writer.write(_GAP, _GAP, next(texts), width - 2 * _GAP, size=_HEAD)
    top = head
    for row, tall in zip(rows, heights, strict=True):
        for place, tile in enumerate(row):
            left = _GAP + place * (cell + _GAP)
            below = top + tile.picture.shape[0]
            writer.figure.figimage(tile.picture, left, height - below, origin="upper")
            for number, _ in enumerate(tile.lines):
                writer.write(left, below + 4 + number * _LINE, next(texts), cell)
        top += tall
    writer.save(path)


def save_texts(path: Path, title: str, items: Sequence[Sequence[str]]) -> None:
    """Draws texts below each other: each item has lines, which are broken where they are too long."""
    words, fonts = drawable([title, *(line for item in items for line in item)])
    measure = _Writer(_WIDTH, 100, fonts)
    texts = iter(words[1:])
    broken = [
        [part for _ in item for part in measure.broken(next(texts), _WIDTH - 2 * _GAP)] for item in items
    ]
    lines_of_all = [line for lines in broken for line in lines]
    width = min(_WIDTH, 2 * _GAP + max([_WIDTH // 2, *map(measure.wide, lines_of_all)]))
    head = 2 * _GAP + _LINE * (1 + title.count("\n"))
    height = head + sum(len(lines) * _LINE + _GAP for lines in broken)
    writer = _Writer(width, height, fonts)
    writer.write(_GAP, _GAP, words[0], width - 2 * _GAP, size=_HEAD)
    top = head
    for lines in broken:
        for line in lines:
            writer.write(_GAP, top, line, width)
            top += _LINE
        top += _GAP
    writer.save(path)


class _Writer:
    """A figure on which places are pixels from its upper left corner."""

    def __init__(self, width: int, height: int, fonts: list[str]):
        self.figure: Figure = new_figure(width / DPI, height / DPI)
        self._size = (width, height)
        self._style: dict[str, Any] = {"family": fonts, "parse_math": False, "va": "top"}
        self._known: dict[tuple[str, int, float], str] = {}

    def write(self, left: int, top: int, text: str, width: int, size: float = _POINTS) -> None:
        """Words, whose lines are no wider than `width`."""
        lines = [self._cut(line, width, size) for line in text.split("\n")]
        x = left / self._size[0]
        self.figure.text(x, 1 - top / self._size[1], "\n".join(lines), fontsize=size, **self._style)

    def broken(self, text: str, width: int) -> list[str]:
        """A line as several that are no wider than `width`, where it can be at blanks."""
        lines: list[str] = []
        while True:
            kept = self._fitting(text, width, _POINTS)
            if kept == len(text):
                return [*lines, text]
            blank = text.rfind(" ", 1, kept + 1)
            kept = blank if blank > 0 else max(1, kept)
            lines.append(text[:kept])
            text = text[kept:].lstrip(" ")

    def save(self, path: Path) -> None:
        """Writes the PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.figure.savefig(path)

    def _cut(self, line: str, width: int, size: float) -> str:
        """A line without its middle, where it is too long: both ends of a file's name tell it from others."""
        key = (line, width, size)
        if key not in self._known:
            short = line
            kept = self._fitting(line, width, size)
            while kept < len(line) and kept > 2:
                short = f"{line[: kept // 2]}…{line[kept // 2 - kept + 1 :]}"
                if self.wide(short, size) <= width:
                    break
                kept -= 1
            self._known[key] = short
        return self._known[key]

    def _fitting(self, line: str, width: int, size: float) -> int:
        """How many characters of a line fit."""
        kept = len(line)
        while kept > 1:
            wide = self.wide(line[:kept], size)
            if wide <= width:
                break
            kept = max(1, min(kept - 1, int(kept * width / wide) + 1))
        return kept

    def wide(self, line: str, size: float = _POINTS) -> int:
        """Pixels from a line's begin to its end."""
        drawn = self.figure.text(0, 0, line, fontsize=size, **self._style)
        wide = math.ceil(drawn.get_window_extent().width)
        drawn.remove()
        return wide
