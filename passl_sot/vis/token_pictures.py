"""Pictures of tokens: an image's way through the steps and stages of a backbone, and its super tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import paddle

from passl_sot.modeling.backbones.base import Backbone, Grid
from passl_sot.utils.figure import new_figure
from passl_sot.vis.tokens import Map, SuperTokens, principal_colours, token_flow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches: a panel of the flow and its title, a panel of super tokens, what lies between.
_PANEL, _TITLE = 2.9, 0.5
_LARGE = 4.2
_GAP = 0.12
_COLUMNS = 5  # panels in a row, at most
_FINEST = 64  # cells along a side whose borders can be told apart in a panel
_SIDE = 448  # pixels of an image's longer side on which borders are drawn, at least
_WINDOWS = ("#ffdc00", "#00e6ff")
_INK = (255, 220, 0)
HOW_TO_READ = (
    "First the image, and how each grid cuts it; where tokens overlap, the windows of two neighbors. Then "
    "the tokens of each step and stage: their three principal components as red, green and blue, each "
    "stretched to the whole range. So tokens of one color are alike within a picture, not between pictures. "
    "The percentage is the part of the tokens' variance that the three components hold."
)


class Drawn(NamedTuple):
    """A picture.

    Attributes:
        name: Of its file, without suffix.
        figure: The picture, whose own titles say what it shows.
        caption: What can be read off it.
    """

    name: str
    figure: "Figure"
    caption: str


def token_pictures(backbone: Backbone, image_bchw: paddle.Tensor, shown: np.ndarray) -> list[Drawn]:
    """The flow of one image's tokens, and its super tokens at each stage that has several.

    Args:
        backbone: For images, in evaluation mode, or else a UserError.
        image_bchw: The image as the model takes it, ``[1, in_chans, H, W]``.
        shown: The same as pixels, uint8 ``[H, W, 3]``.
    """
    flow = token_flow(backbone, image_bchw)
    drawn = [Drawn("tokens", _draw_flow(flow.maps, shown), "How the image becomes tokens, step by step.")]
    for number, stage in enumerate(flow.super_tokens, 1):
        drawn.append(Drawn(f"super-tokens-{number}", _draw_super_tokens(stage, shown), _caption(stage)))
    return drawn


class _Canvas:
    """Pictures under their titles, placed in inches from above left."""

    # All on one pair of axes: of each, matplotlib makes labels and ticks, which takes it a tenth of a second.
    def __init__(self, width: float, height: float) -> None:
        self.figure = new_figure(width, height)
        self.axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0.0, width), ylim=(height, 0.0), autoscale_on=False)

    def show(self, left: float, top: float, wide: float, picture: np.ndarray, title: str) -> None:
        high = wide * picture.shape[0] / picture.shape[1]
        self.axes.imshow(picture, extent=(left, left + wide, top + high, top), aspect="auto")
        self.axes.text(left + wide / 2, top - 0.06, title, ha="center", va="bottom", fontsize=8.5)

    def draw_lines(self, left: float, top: float, wide: float, picture: np.ndarray, step: int) -> None:
        """Borders of cells of so many pixels over a picture that is shown there; the last may be cut."""
        height, width = picture.shape[:2]
        pixel = wide / width
        style: dict[str, Any] = {"colors": "white", "linewidth": 0.4, "alpha": 0.8}
        self.axes.hlines(top + np.arange(step, height, step) * pixel, left, left + wide, **style)
        self.axes.vlines(left + np.arange(step, width, step) * pixel, top, top + height * pixel, **style)


def _size(grid: Sequence[int]) -> str:
    return f"{grid[0]}×{grid[1]}"


# -- the flow ---------------------------------------------------------------------------------------
def _draw_flow(maps: Sequence[Map], shown: np.ndarray) -> "Figure":
    # Of each grid that can be drawn, the way to it whose windows can be seen.
    cuts: dict[Grid, Map] = {}
    for found in maps:
        if max(found.grid) <= _FINEST and (found.grid not in cuts or found.window):
            cuts[found.grid] = found
    high = _PANEL * shown.shape[0] / shown.shape[1]
    columns = min(_COLUMNS, max(1 + len(cuts), len(maps)))
    first_rows = -(-(1 + len(cuts)) // columns)
    rows = first_rows - (-len(maps) // columns)
    step = high + _TITLE + _GAP
    canvas = _Canvas(columns * (_PANEL + _GAP) + _GAP, rows * step)

    def place_of(number: int) -> tuple[float, float]:
        row, column = divmod(number, columns)
        return _GAP + column * (_PANEL + _GAP), row * step + _TITLE

    canvas.show(*place_of(0), _PANEL, shown, f"the image\n{_size(shown.shape)} pixels")
    for number, found in enumerate(cuts.values(), 1):
        _show_cut(canvas, *place_of(number), shown, found)
    colours = None
    for number, found in enumerate(maps, first_rows * columns):
        colours, share = principal_colours(found.values, colours)
        facts = f"{_size(found.grid)} tokens, {len(found.values)} wide; {100 * share:.0f} % of variance"
        picture = _at_pixels(colours, found.stride, shown)
        # Patches may leave pixels out, on the right and below.
        place = (*place_of(number), _PANEL * picture.shape[1] / shown.shape[1])
        canvas.show(*place, picture, f"{found.title}\n{facts}")
        if max(found.grid) <= _FINEST // 2:
            canvas.draw_lines(*place, picture, found.stride)
    return canvas.figure


def _show_cut(canvas: _Canvas, left: float, top: float, shown: np.ndarray, found: Map) -> None:
    """An image under a grid; where tokens overlap, with the windows of two neighbors near its middle."""
    from matplotlib.patches import Rectangle

    pixel = _PANEL / shown.shape[1]
    title = f"{_size(found.grid)} tokens\nevery {found.stride} pixels"
    if found.window:
        title += f", of {_size((found.window[0],) * 2)} each"
    canvas.show(left, top, _PANEL, shown, title)
    canvas.draw_lines(left, top, _PANEL, shown, found.stride)
    if found.window:
        side, first = found.window
        row = found.grid[0] // 2
        for number, color in enumerate(_WINDOWS):
            column = max(0, found.grid[1] // 2 - 1) + number
            x, y = (n * found.stride + first for n in (column, row))
            corner = (left + x * pixel, top + y * pixel)
            size = side * pixel
            canvas.axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=color, linewidth=1.6))


# -- super tokens -----------------------------------------------------------------------------------
def _draw_super_tokens(stage: SuperTokens, shown: np.ndarray) -> "Figure":
    pixels = stage.window * stage.stride
    count = stage.grid[0] * stage.grid[1]
    panels = {
        f"plain grid\nwindows of {pixels}×{pixels} pixels": _with_borders(stage.plain, stage, shown),
        f"{_size(stage.grid)} = {count} super tokens\nborders, by the strongest of nine": _with_borders(
            stage.numbers, stage, shown
        ),
        "the same as cells\na color each": _with_cells(stage, shown),
    }
    head = 0.35 + _TITLE
    canvas = _Canvas(3 * (_LARGE + _GAP) + _GAP, head + _LARGE * shown.shape[0] / shown.shape[1] + _GAP)
    for number, (title, picture) in enumerate(panels.items()):
        canvas.show(_GAP + number * (_LARGE + _GAP), head, _LARGE, picture, title)
    title = f"{stage.title}, last block: a map of {_size(stage.numbers.shape)}"
    canvas.axes.text(_GAP, 0.1, title, va="top", fontsize=10)
    return canvas.figure


def _caption(stage: SuperTokens) -> str:
    moved = 100 * float((stage.numbers != stage.plain).mean())
    used = len(np.unique(stage.numbers))
    return (
        f"{stage.title}, last block: each place of the map belongs to that of the nine super tokens around "
        f"it which has the largest weight. {moved:.0f} % of them belong to another than that of their own "
        f"window; {used} of {stage.grid[0] * stage.grid[1]} super tokens have such places."
    )


def _enlarged(image: np.ndarray) -> tuple[np.ndarray, int]:
    """A copy with each pixel repeated so many times, and this number."""
    times = max(1, -(-_SIDE // max(image.shape[:2])))
    return image.repeat(times, axis=0).repeat(times, axis=1), times


def _at_pixels(values: np.ndarray, stride: int, picture: np.ndarray) -> np.ndarray:
    """What a map's places hold for each pixel of a picture; what was padded is cut off."""
    height, width = picture.shape[:2]
    return values.repeat(stride, axis=0).repeat(stride, axis=1)[:height, :width]


def _borders(numbers: np.ndarray) -> np.ndarray:
    """Where numbers change, two pixels wide."""
    kernel = np.ones((3, 3), np.uint8)
    return cv2.morphologyEx(numbers.astype(np.float32), cv2.MORPH_GRADIENT, kernel) > 0


def _with_borders(numbers: np.ndarray, stage: SuperTokens, shown: np.ndarray) -> np.ndarray:
    picture, times = _enlarged(shown)
    picture[_borders(_at_pixels(numbers, stage.stride * times, picture))] = _INK
    return picture


def _with_cells(stage: SuperTokens, shown: np.ndarray) -> np.ndarray:
    picture, times = _enlarged(shown)
    numbers = _at_pixels(stage.numbers, stage.stride * times, picture)
    picture = cv2.addWeighted(picture, 0.35, _colours_of(stage.grid)[numbers], 0.65, 0)
    picture[_borders(numbers)] = 0
    return picture


def _colours_of(grid: Grid) -> np.ndarray:
    """A color for each cell, unlike those of all cells up to two steps away: uint8 ``[rows·columns, 3]``."""
    from matplotlib.colors import hsv_to_rgb

    rows, columns = np.indices(grid)
    hue = (0.7549 * rows + 0.5698 * columns) % 1.0
    value = np.where((rows + columns) % 2, 0.62, 1.0)
    saturation = np.full(grid, 0.8)
    return (255 * hsv_to_rgb(np.stack([hue, saturation, value], axis=-1))).astype(np.uint8).reshape(-1, 3)
