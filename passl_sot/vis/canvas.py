"""A figure on which places are pixels from its upper left corner, for words that fit, pictures and charts."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from passl_sot.utils.figure import DPI, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 8.0  # of letters, unless told


class Canvas:
    """An empty figure.

    Args:
        width: In pixels.
        height: The same.
        fonts: That have the characters of its words, as of `utils.figure.drawable`.
        dpi: Of the file; places are told in pixels of the usual one all the same.

    Attributes:
        figure: The figure.
    """

    def __init__(self, width: float, height: float, fonts: Sequence[str] = (), dpi: int = DPI):
        self.figure = new_figure(width / DPI, height / DPI)
        self.figure.set_dpi(dpi)
        self._size = (width, height)
        self._fonts = list(fonts)
        self._renderer = self.figure.canvas.get_renderer()  # type: ignore[attr-defined]
        self._cuts: dict[tuple[str, float, float], str] = {}

    def write(
        self,
        left: float,
        top: float,
        text: str,
        width: float = math.inf,
        size: float = POINTS,
        **style: Any,
    ) -> None:
        """Words; a line wider than `width` loses its middle.

        Args:
            left: Where they begin.
            top: Of the first line.
            text: May have several lines.
            width: In pixels.
            size: In points.
            style: As of matplotlib's texts.
        """
        lines = [self._cut(line, width, size) for line in text.split("\n")]
        style = {"va": "top", "family": self._fonts, "parse_math": False, "fontsize": size, **style}
        self.figure.text(left / self._size[0], 1 - top / self._size[1], "\n".join(lines), **style)

    def axes(self, left: float, top: float, wide: float, high: float) -> "Axes":
        """A pair of axes at a place."""
        width, height = self._size
        return self.figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    def show(self, left: float, top: float, picture: np.ndarray) -> None:
        """A picture uint8 [h, w, 3], pixel for pixel."""
        self.figure.figimage(picture, left, self._size[1] - top - len(picture), origin="upper")

    def pixels(self) -> np.ndarray:
        """The figure drawn: uint8 [H, W, 3]."""
        canvas: Any = self.figure.canvas
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def wide(self, line: str, size: float = POINTS) -> float:
        """Pixels from a line's begin to its end."""
        from matplotlib.font_manager import FontProperties

        font = FontProperties(family=self._fonts, size=size)
        return self._renderer.get_text_width_height_descent(line, font, False)[0]

    def broken(self, text: str, width: float) -> list[str]:
        """A line as several that are no wider than `width`, where it can be at blanks."""
        lines: list[str] = []
        while True:
            kept = self._fitting(text, width, POINTS)
            if kept == len(text):
                return [*lines, text]
            blank = text.rfind(" ", 1, kept + 1)
            if blank > 0:
                kept = blank
            lines.append(text[:kept])
            text = text[kept:].lstrip(" ")

    def _cut(self, line: str, width: float, size: float) -> str:
        """A line without its middle, where it is too long: both ends of a file's name tell it from others."""
        key = (line, width, size)
        if key not in self._cuts:
            short = line
            kept = self._fitting(line, width, size)
            while kept < len(line) and kept > 2:
                short = f"{line[: kept // 2]}…{line[kept // 2 - kept + 1 :]}"
                if self.wide(short, size) <= width:
                    break
                kept -= 1
            self._cuts[key] = short
        return self._cuts[key]

    def _fitting(self, line: str, width: float, size: float) -> int:
        """How many characters of a line fit."""
        kept = len(line)
        while kept > 1:
            wide = self.wide(line[:kept], size)
            if wide <= width:
                break
            kept = max(1, min(kept - 1, int(kept * width / wide) + 1))
        return kept
