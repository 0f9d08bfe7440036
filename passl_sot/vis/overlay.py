"""Maps of relevance over the images they are of, alone and side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from passl_sot.utils.figure import drawable, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = "turbo"  # the look of jet, without its false edges; matplotlib and OpenCV have the same
_SMALLEST, _LARGEST = 224, 448  # pixels of a shown picture's longer side
_STRENGTH = 0.5  # of the colours over the image
# Inches: a picture's longer side, what lies between, a line of words.
_SIDE = 2.6
_GAP = 0.15
_LINE = 0.19


def scaled(values: np.ndarray) -> np.ndarray:
    """Relevances of any shape brought to 0 to 1, from the least to the greatest; equal ones to 0."""
    low = values.min()
    spread = values.max() - low
    if not spread > 0:
        return np.zeros(values.shape, np.float32)
    return ((values - low) / spread).astype(np.float32)


def fitted(picture: np.ndarray) -> np.ndarray:
    """A picture uint8 [H, W, 3] in a size to look at: tiny ones are enlarged by whole pixels."""
    height, width = picture.shape[:2]
    longer = max(height, width)
    if longer > _LARGEST:
        size = (max(1, width * _LARGEST // longer), max(1, height * _LARGEST // longer))
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    times = -(-_SMALLEST // longer)
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def overlay(picture: np.ndarray, map_hw: np.ndarray) -> np.ndarray:
    """A picture with a map in colours over it: blue where it is least, red where it is greatest.

    Args:
        picture: uint8 [H, W, 3], RGB.
        map_hw: Values in 0 to 1, [H, W]; see `scaled`.
    """
    levels = np.rint(255 * map_hw).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(picture, 1 - _STRENGTH, colors, _STRENGTH, 0)


def jpeg(picture: np.ndarray) -> bytes:
    """A picture uint8 [H, W, 3] as a JPEG file's bytes, a fifth of a PNG's where it is a photograph."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


@dataclass(frozen=True)
class Caption:
    """The words of a picture, or of a text.

    Attributes:
        name: Of what shows it.
        verdict: What is predicted.
        right: Whether that is right; None where nobody knows.
        note: Further lines.
    """

    name: str
    verdict: str = ""
    right: bool | None = None
    note: str = ""

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
    """Rows of pictures under their headings, each with its words, and the bar of the colours."""
    captions = [panel.caption for row in rows.values() for panel in row]
    lines = 1 + max(caption.note.count("\n") for caption in captions)
    across = max(map(len, rows.values()))
    tall = [_SIDE * max(p.picture.shape[0] / max(p.picture.shape[:2]) for p in row) for row in rows.values()]
    head = 0.2 + 0.23 * (title.count("\n") + 1)
    above = 3 * _LINE + 0.2
    step = above + lines * _LINE + 0.15
    width = across * (_SIDE + _GAP) + _GAP + 0.55
    height = head + sum(tall) + len(rows) * step
    figure = new_figure(width, height)
    texts = [title, *rows, *(text for c in captions for text in (c.name, c.marked[0]))]
    words, fonts = drawable(texts)
    known = dict(zip(texts, words, strict=True))

    def write(left: float, top: float, text: str, size: float, **more: Any) -> None:
        style: dict[str, Any] = {"va": "top", "family": fonts, "parse_math": False, **more}
        figure.text(left / width, 1 - top / height, known.get(text, text), fontsize=size, **style)

    def axes_at(left: float, top: float, wide: float, high: float) -> Any:
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    write(_GAP, 0.12, title, 11)
    top = head
    for (heading, row), high in zip(rows.items(), tall, strict=True):
        write(_GAP, top, heading, 10)
        for place, panel in enumerate(row):
            left = _GAP + place * (_SIDE + _GAP)
            verdict, ink = panel.caption.marked
            write(left, top + above - 2 * _LINE - 0.05, panel.caption.name, 9)
            write(left, top + above - _LINE - 0.05, verdict, 9, color=ink)
            axes = axes_at(left, top + above, _SIDE, high)
            axes.imshow(panel.picture, interpolation="nearest")
            axes.set_anchor("NW")
            axes.set_axis_off()
            write(left, top + above + 0.05 + high, panel.caption.note, 8)
        top += high + step
    bar = axes_at(width - 0.5, head + above, 0.1, tall[0])
    bar.imshow(np.linspace(1, 0, 256)[:, None], cmap=_COLORS, aspect="auto")
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.set_yticks([0, 255], ["most", "least"], fontsize=7)
    return figure
