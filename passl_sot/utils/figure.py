"""Pictures by matplotlib: without its global state, and in fonts that have the characters of a text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it takes half a second to import, and most commands draw nothing
    from matplotlib.figure import Figure

DPI = 100
_DEFAULT = "DejaVu Sans"  # comes with matplotlib
_STYLES = ("-", "--", ":")
_FEW = 40  # points of a curve that are marked

Series = tuple[Sequence[float], Sequence[float]]


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def fonts_for(texts: Iterable[str]) -> list[str] | None:
    """Names of fonts that have all characters of some texts between them; None where this machine has none.

    matplotlib would draw an empty box for each character that is missing, with a warning for each.
    """
    fonts, missing = nearest_fonts(texts)
    return None if missing else fonts


def nearest_fonts(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """The default font and another that between them have the most characters of some texts; and the rest.

    The rest are characters that can't be drawn.
    """
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    wanted = {ord(character) for text in texts for character in text}
    wanted -= FT2Font(font_manager.findfont(_DEFAULT)).get_charmap().keys()
    fonts = [_DEFAULT]
    missing = wanted
    if wanted:
        for path in sorted(font_manager.findSystemFonts()):
            try:
                font = FT2Font(path)
            except (RuntimeError, OSError):  # of a kind that it can't draw
                continue
            lacking = wanted - font.get_charmap().keys()
            if len(lacking) < len(missing):
                missing = lacking
                font_manager.fontManager.addfont(path)
                fonts = [_DEFAULT, font.family_name]
            if not missing:
                break
    return fonts, set(map(chr, missing))


def drawable(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts with "?" for characters that no font of this machine has, and the fonts that have the rest."""
    fonts, missing = nearest_fonts(text.replace("\n", "") for text in texts)
    marks = str.maketrans(dict.fromkeys(missing, "?"))
    return [text.translate(marks) for text in texts], fonts


def heading(text: str) -> dict[str, Any]:
    """A heading as arguments for matplotlib; characters that no font of this machine has become "?"."""
    (text,), fonts = drawable([text])
    return {"t": text, "family": fonts, "parse_math": False}


def save_curves(path: Path, title: str, axis: str, panels: Mapping[str, Mapping[str, Series]]) -> None:
    """Draws curves into a PNG: a panel below the other, each with named curves over one axis.

    Points are marked where they are few; curves without a number are left out, and so are empty panels.
    """
    drawn = {name: _with_numbers(curves) for name, curves in panels.items()}
    drawn = {name: curves for name, curves in drawn.items() if curves}
    # A name has one style in all panels.
    names = list(dict.fromkeys(curve for curves in panels.values() for curve in curves))
    figure = new_figure(8, 0.8 + 2.2 * max(1, len(drawn)))
    figure.suptitle(**heading(title))
    axes = None
    for number, (panel, curves) in enumerate(drawn.items(), 1):
        axes = figure.add_subplot(len(drawn), 1, number, sharex=axes)
        for curve, (xs, ys) in curves.items():
            place = names.index(curve)
            style = _STYLES[place % len(_STYLES)] + ("o" if len(xs) <= _FEW else "")
            axes.plot(xs, ys, style, color=f"C{place}", label=curve, markersize=4, linewidth=1.2)
        axes.set_ylabel(panel)
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize=8)
    if axes is not None:
        axes.set_xlabel(axis)
    figure.set_layout_engine("tight")
    figure.savefig(path)


def _with_numbers(curves: Mapping[str, Series]) -> dict[str, Series]:
    return {name: series for name, series in curves.items() if not all(map(math.isnan, series[1]))}
