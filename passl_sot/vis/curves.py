"""Charts of insertion and deletion: the curve of a map beside that of a random map."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from passl_sot.utils.figure import DPI, drawable
from passl_sot.vis.canvas import Canvas
from passl_sot.vis.faithfulness import KINDS, Faithfulness

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, HIGH = 240, 118  # pixels of the charts of one map
_GREEN, _RED = "#2ca25f", "#d7301f"
_RANDOM: dict[str, Any] = {"color": "gray", "linestyle": "--", "linewidth": 1}
_LARGE = (820, 316)  # pixels of the charts of several views, without the legend


def charts_of(curves: Faithfulness) -> np.ndarray:
    """Two small charts of one map, insertion and deletion: green where it is better than a random one.

    Args:
        curves: ``[steps + 1]`` each.

    Returns:
        uint8 ``[2 * HIGH, 2 * WIDE, 3]``, for screens of twice as many pixels.
    """
    canvas = Canvas(WIDE, HIGH, dpi=2 * DPI)
    for number, (kind, sign) in enumerate(KINDS.items()):
        axes = canvas.axes(22 + 116 * number, 16, 90, HIGH - 32)
        percent, values, random = _of_kind(curves, kind)
        better = sign * (values - random) >= 0
        for where, color in ((better, _GREEN), (~better, _RED)):
            axes.fill_between(percent, values, random, where, interpolate=True, color=color, alpha=0.3, lw=0)
        axes.plot(percent, random, **_RANDOM)
        axes.plot(percent, values, color="black", linewidth=1.2)
        _frame(axes, kind, 7)
        axes.set_xticks([0, 50, 100], ["0", "50 %", "100"], fontsize=6)
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=6)
        axes.tick_params(length=2, pad=1.5)
    return canvas.pixels()


def as_png(charts: np.ndarray) -> bytes:
    """The same as a PNG of 32 colors, a third of one of all: a page may have hundreds."""
    file = io.BytesIO()
    Image.fromarray(charts).quantize(32).save(file, "png")
    return file.getvalue()


def mean_charts(views: Mapping[str, Faithfulness]) -> "Figure":
    """The curves of several views, each in its colour, those of random maps dashed.

    Args:
        views: By their names the means over all items, ``[steps + 1]`` each.
    """
    from matplotlib.lines import Line2D

    names, fonts = drawable([*views, "random maps"])
    width, height = _LARGE
    canvas = Canvas(width, height + 20 * len(names), fonts)
    lines = []
    for number, kind in enumerate(KINDS):
        axes = canvas.axes(60 + number * width / 2, 26, width / 2 - 80, height - 84)
        for place, curves in enumerate(views.values()):
            percent, values, random = _of_kind(curves, kind)
            axes.plot(percent, random, **{**_RANDOM, "color": f"C{place}"})
            lines += axes.plot(percent, values, color=f"C{place}", linewidth=2)
        _frame(axes, kind, 10)
        axes.grid(alpha=0.3)
        axes.set_ylabel("probability of the class")
        axes.set_xlabel({"insertion": "% put back", "deletion": "% taken away"}[kind])
    lines = [*lines[: len(views)], Line2D([], [], **_RANDOM)]
    fonts_of: Any = {"family": fonts, "size": 9}
    legend = canvas.figure.legend(lines, names, loc="lower left", prop=fonts_of, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return canvas.figure


def _of_kind(curves: Faithfulness, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per cent of the item, the map's curve, the random map's."""
    values = getattr(curves, kind)
    return np.linspace(0, 100, len(values)), values, getattr(curves, f"random_{kind}")


def _frame(axes: "Axes", title: str, size: float) -> None:
    axes.set(xlim=(0, 100), ylim=(0, 1.02))
    axes.set_title(title, fontsize=size, pad=3)
