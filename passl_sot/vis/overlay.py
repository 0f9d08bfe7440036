"""Maps of relevance over the images they are of, alone and side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from passl_sot.utils.figure import drawable
from passl_sot.vis.canvas import Canvas
from passl_sot.vis.curves import HIGH
from passl_sot.vis.pixels import fitted
from passl_sot.vis.relevance import upsample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = "turbo"  # the look of jet, without its false edges; matplotlib and OpenCV have the same
# Its ends are nearly black, and would be mistaken for each other over a dark image.
_FROM, _TO = 0.08, 0.88
_STRENGTH = 0.6  # of the colours over the image
# Pixels: a picture's longer side on a sheet, what lies between, a line of words.
_SIDE = 260
_GAP = 15
_LINE = 19


def scaled(values: np.ndarray) -> np.ndarray:
    """Relevances of any shape brought to 0 to 1, from the least to the greatest; equal ones to 0."""
    low = values.min()
    spread = values.max() - low
    if not spread > 0:
        return np.zeros(values.shape, np.float32)
    return ((values - low) / spread).astype(np.float32)


def overlay(picture: np.ndarray, map_hw: np.ndarray) -> np.ndarray:
    """A picture with a map in colours over it: blue where it is least, red where it is greatest.

    Args:
        picture: uint8 [H, W, 3], RGB.
        map_hw: Values in 0 to 1, [H, W]; see `scaled`.
    """
    levels = np.rint(255 * (_FROM + (_TO - _FROM) * map_hw)).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(picture, 1 - _STRENGTH, colors, _STRENGTH, 0)


def shaded(pixels: np.ndarray, map_hw: np.ndarray) -> np.ndarray:
    """An image in a size to look at, with a map of any size and scale over it.

    Args:
        pixels: uint8 [H, W, C].
        map_hw: Relevances, float32 on a grid of tokens.
    """
    picture = fitted(pixels)
    return overlay(picture, scaled(upsample(map_hw[np.newaxis], picture.shape[:2])[0]))


def jpeg(picture: np.ndarray) -> bytes:
    """A picture uint8 [H, W, 3] as a JPEG file's bytes, a fifth of a PNG's where it is a photograph."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def halved(chart: np.ndarray) -> np.ndarray:
    """A picture of half the height and width."""
    return cv2.resize(chart, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class Caption:
    """The words of a picture, or of a text.

    Attributes:
        name: Of what shows it.
        verdict: What is predicted.
        right: Whether that is right; None where nobody knows.
        note: Further lines.
        chart: Drawn below in half its size, uint8 [2 * HIGH, 2 * WIDE, 3]; see `curves.charts_of`.
    """

    name: str
    verdict: str = ""
    right: bool | None = None
    note: str = ""
    chart: np.ndarray | None = None

    @property
    def marked(self) -> tuple[str, str]:
        """The verdict with a tick or a cross, and its colour."""
        if self.right is None:
            return self.verdict, "black"
        if self.right:
            return f"✓ {self.verdict}", "#17743a"
        return f"✗ {self.verdict}", "#a3211b"


@dataclass(frozen=True)
class Panel:
    """A picture of a sheet.

    Attributes:
        picture: uint8 [h, w, 3], as it is shown.
        caption: Its words.
    """

    picture: np.ndarray
    caption: Caption


def sheet(title: str, rows: Mapping[str, Sequence[Panel]]) -> "Figure":
    """Rows of pictures under their headings, each with its words and curves, and the bar of the colours."""
    captions = [panel.caption for row in rows.values() for panel in row]
    words, fonts = drawable([title, *rows, *(text for c in captions for text in (c.name, c.marked[0]))])
    texts = iter(words)
    tall = [_SIDE * max(p.picture.shape[0] / max(p.picture.shape[:2]) for p in row) for row in rows.values()]
    head = 20 + 23 * (title.count("\n") + 1)
    above = 3 * _LINE + 20
    below = 30 + _LINE * (1 + max(caption.note.count("\n") for caption in captions))
    if any(caption.chart is not None for caption in captions):
        below += HIGH
    width = max(map(len, rows.values())) * (_SIDE + _GAP) + _GAP + 55
    canvas = Canvas(width, head + sum(tall) + len(rows) * (above + below), fonts)
    canvas.write(_GAP, 12, next(texts), width - _GAP, 11)
    headings = [next(texts) for _ in rows]
    top = head
    for heading, row, high in zip(headings, rows.values(), tall, strict=True):
        canvas.write(_GAP, top, heading, width - _GAP, 10)
        top += above
        for place, panel in enumerate(row):
            left = _GAP + place * (_SIDE + _GAP)
            canvas.write(left, top - 2 * _LINE - 5, next(texts), _SIDE, 9)
            canvas.write(left, top - _LINE - 5, next(texts), _SIDE, 9, color=panel.caption.marked[1])
            axes = canvas.axes(left, top, _SIDE, high)
            axes.imshow(panel.picture, interpolation="nearest")
            axes.set_anchor("NW")
            axes.set_axis_off()
            canvas.write(left, top + high + 5, panel.caption.note)
            if panel.caption.chart is not None:
                canvas.show(left, top + high + below - HIGH - 25, halved(panel.caption.chart))
        top += high + below
    bar = canvas.axes(width - 50, head + above, 10, tall[0])
    bar.imshow(np.linspace(_TO, _FROM, 256)[:, None], cmap=_COLORS, vmin=0, vmax=1, aspect="auto")
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.set_yticks([0, 255], ["most", "least"], fontsize=7)
    return canvas.figure
