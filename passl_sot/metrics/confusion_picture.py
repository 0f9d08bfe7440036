"""The picture of a confusion matrix, to be read at 2 to 200 classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from passl_sot.utils.figure import fonts_for, heading, new_figure
from passl_sot.utils.logger import get_logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 200  # classes whose names and counts can be read
_LONGEST = 28  # characters of a name
_NO_FONT = "(by number: no font here has all characters of the names)"


def save_confusion(
    path: Path, confusion: np.ndarray, class_names: Sequence[str], title: str = "", noun: str = "images"
) -> None:
    """Draws `confusion_figure` into a PNG. A line of the log tells where names can't be drawn."""
    figure, named = confusion_figure(confusion, class_names, title, noun)
    if not named:
        get_logger().info(
            "%s numbers the classes, as no font of this machine has all characters of their names: install "
            "one, such as fonts-noto-cjk",
            path.name,
        )
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)


def confusion_figure(
    confusion: np.ndarray, class_names: Sequence[str], title: str = "", noun: str = "images"
) -> "tuple[Figure, bool]":
    """A confusion matrix (rows: true classes; columns: predicted) with names, counts and accuracies.

    Each row is shaded by its fractions. Above 200 classes there are neither names nor counts.

    Returns:
        The figure, and whether its classes are named rather than numbered.
    """
    count = len(confusion)
    readable = count <= _MOST
    cell = 12 / count  # inches
    if readable:
        cell = min(0.6, max(0.17, 4 / count))
    side = cell * count
    figure = new_figure(side, side)
    axes = figure.add_axes((0, 0, 1, 1))
    totals = confusion.sum(axis=1)
    # The square root lets rare confusions show.
    shades = np.sqrt(confusion / np.maximum(totals[:, None], 1))
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    lines = [_total(confusion, noun)]
    if title:
        lines.insert(0, title)
    named = True
    if readable:
        names = [_shown(name) for name in class_names]
        fonts = fonts_for(names)
        if fonts is None:
            named = False
            lines.append(_NO_FONT)
            names = [str(number) for number in range(count)]
            fonts = fonts_for(names)
        size = min(11.0, 72 * cell * 0.72)
        text: dict[str, Any] = {"fontsize": size, "family": fonts, "parse_math": False}
        rotation = 90
        if count <= 6 and max(map(len, names)) <= 6:
            rotation = 0
        axes.set_xticks(range(count), names, rotation=rotation, **text)
        axes.set_yticks(range(count), names, **text)
        _write_accuracies(axes, confusion, size)
        _write_counts(axes, confusion, shades, cell)
    title_words = heading("\n".join(lines))
    axes.set_title(title_words.pop("t"), **title_words, fontsize=max(11, 0.7 * side), pad=10)
    return figure, named


def _total(confusion: np.ndarray, noun: str) -> str:
    items = int(confusion.sum())
    right = 100 * float(np.trace(confusion)) / max(items, 1)
    return f"top-1 {right:.2f} % of {items:,} {noun}, {len(confusion)} classes"


def _write_accuracies(axes, confusion: np.ndarray, size: float) -> None:
    """At the right of each row: the fraction of its items that is right, and their number."""
    texts = []
    for hits, total in zip(np.diag(confusion), confusion.sum(axis=1), strict=True):
        text = "none"
        if total:
            text = f"{100 * hits / total:.0f} % of {total}"
        texts.append(text)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(texts)), texts, fontsize=size)
    right.tick_params(length=0)


def _write_counts(axes, confusion: np.ndarray, shades: np.ndarray, cell: float) -> None:
    digits = len(str(confusion.max()))
    size = min(10.0, 72 * cell * 0.72, 72 * cell * 0.95 / (0.64 * digits))
    for row, column in np.argwhere(confusion):
        ink = "black"
        if shades[row, column] > 0.6:
            ink = "white"
        text = str(confusion[row, column])
        drawn = axes.text(column, row, text, ha="center", va="center_baseline", color=ink, fontsize=size)
        drawn.set_in_layout(False)  # thousands of them would be measured, and none sticks out


def _shown(name: str) -> str:
    """A class's name on one line: without control characters or halves of characters, and not too long."""
    clean = "".join(c if c.isprintable() else "?" for c in name)
    if len(clean) > _LONGEST:
        return f"{clean[: _LONGEST - 1]}…"
    return clean
