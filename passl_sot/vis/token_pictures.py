"""Pictures of tokens: an image's way through the steps and stages of a backbone, and its super tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import paddle

from passl_sot.modeling.backbones.base import Backbone, Grid
from passl_sot.utils.figure import new_figure
from passl_sot.vis.drawn import Drawn
from passl_sot.vis.tokens import Map, SuperTokens, principal_colours, token_flow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 448  # pixels of an image's longer side on which borders are drawn, at least
_PANEL = 2.9  # inches
_COLUMNS = 5  # panels in a row, at most
_FINEST = 64  # cells along a side whose borders can be told apart in a panel
_WINDOWS = ("#ffdc00", "#00e6ff")
_INK = (255, 220, 0)


def token_pictures(backbone: Backbone, image_bchw: paddle.Tensor, shown: np.ndarray) -> list[Drawn]:
    """The flow of one image's tokens, and its super tokens at each stage that has several.

    Args:
        backbone: For images, in evaluation mode, or else a UserError.
        image_bchw: The image as the model takes it, ``[1, in_chans, H, W]``.
        shown: The same as pixels, uint8 ``[H, W, 3]``.
    """
    flow = token_flow(backbone, image_bchw)
    drawn = [Drawn("tokens", _draw_flow(flow.maps, shown), _FLOW)]
    for number, stage in enumerate(flow.super_tokens, 1):
        drawn.append(Drawn(f"super-tokens-{number}", _draw_super_tokens(stage, shown), _caption(stage)))
    return drawn


# -- the flow ---------------------------------------------------------------------------------------
_FLOW = (
    "First the image, and how each grid cuts it; where tokens overlap, the windows of two neighbors. Then the "
    "tokens of each step: their three principal components as red, green and blue, each stretched to the whole "
    "range, so that tokens of one color are alike within a picture, not between pictures. The percentage is "
    "the part of the tokens' variance that the three components hold."
)


def _draw_flow(maps: Sequence[Map], shown: np.ndarray) -> "Figure":
    grids: dict[Grid, Map] = {}
    for found in maps:
        if max(found.grid) <= _FINEST and (found.grid not in grids or found.window):
            grids[found.grid] = found
    height, width = shown.shape[:2]
    panels = 1 + len(grids), len(maps)
    columns = min(_COLUMNS, max(panels))
    rows = [-(-count // columns) for count in panels]
    tall = _PANEL * height / width + 0.62
    figure = new_figure(_PANEL * columns + 0.2, tall * sum(rows) + 0.2)
    axes = figure.subplots(sum(rows), columns, squeeze=False)
    for place in axes.ravel():
        place.set_axis_off()
    cuts = axes[: rows[0]].ravel()
    _show(cuts[0], shown, f"the image\n{height}×{width} pixels")
    for place, found in zip(cuts[1:], grids.values(), strict=False):
        _show_cut(place, shown, found)
    colours = None
    for place, found in zip(axes[rows[0] :].ravel(), maps, strict=False):
        colours, share = principal_colours(found.values, colours)
        facts = f"{_size(found.grid)} tokens, {len(found.values)} wide; {100 * share:.0f} % of variance"
        _show(place, colours, f"{found.title}\n{facts}")
        if max(found.grid) <= _FINEST // 2:
            _draw_lines(place, colours, 1, "black")
    figure.set_layout_engine("constrained")
    return figure


def _show(place: "Axes", picture: np.ndarray, title: str) -> None:
    place.imshow(picture)
    place.set_title(title, fontsize=8.5)


def _size(grid: Sequence[int]) -> str:
    return f"{grid[0]}×{grid[1]}"


def _draw_lines(place: "Axes", picture: np.ndarray, step: int, color: str) -> None:
    """Borders of cells of so many pixels, over a picture."""
    height, width = picture.shape[:2]
    style = {"colors": color, "linewidth": 0.4}
    place.hlines(np.arange(step, height, step) - 0.5, -0.5, width - 0.5, **style)
    place.vlines(np.arange(step, width, step) - 0.5, -0.5, height - 0.5, **style)


def _show_cut(place: "Axes", shown: np.ndarray, found: Map) -> None:
    """An image under a grid; where tokens overlap, with the windows of two neighbors near its middle."""
    from matplotlib.patches import Rectangle

    title = f"{_size(found.grid)} tokens\nevery {found.stride} pixels"
    _draw_lines(place, shown, found.stride, "white")
    if found.window:
        side, first = found.window
        title += f", of {side}×{side} each"
        row = found.grid[0] // 2
        for number, color in enumerate(_WINDOWS):
            column = max(0, found.grid[1] // 2 - 1) + number
            corner = (column * found.stride + first - 0.5, row * found.stride + first - 0.5)
            place.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=color, linewidth=1.6))
    _show(place, shown, title)


# -- super tokens -----------------------------------------------------------------------------------
def _draw_super_tokens(stage: SuperTokens, shown: np.ndarray) -> "Figure":
    height, width = shown.shape[:2]
    panel = 4.2
    figure = new_figure(3 * panel + 0.2, panel * height / width + 0.75)
    plain, sampled, cells = figure.subplots(1, 3)
    for place in (plain, sampled, cells):
        place.set_axis_off()
    pixels = stage.window * stage.stride
    count = stage.grid[0] * stage.grid[1]
    _show(plain, _with_borders(stage.plain, stage, shown), f"plain grid\nwindows of {pixels}×{pixels} pixels")
    title = f"{_size(stage.grid)} = {count} super tokens"
    _show(sampled, _with_borders(stage.numbers, stage, shown), f"{title}\nborders by the strongest of 9")
    _show(cells, _with_cells(stage, shown), "the same as cells\none color each")
    figure.suptitle(f"{stage.title}, last block: a map of {_size(stage.numbers.shape)}", fontsize=10)
    figure.set_layout_engine("constrained")
    return figure


def _caption(stage: SuperTokens) -> str:
    moved = 100 * float((stage.numbers != stage.plain).mean())
    used = len(np.unique(stage.numbers))
    return (
        f"{stage.title}, last block: each place of the map belongs to that of the nine super tokens around it "
        f"which has the largest weight. {moved:.0f} % of them belong to another than that of their own window; "
        f"{used} of {stage.grid[0] * stage.grid[1]} super tokens are the largest anywhere."
    )


def _at_pixels(numbers: np.ndarray, stage: SuperTokens, shown: np.ndarray, times: int) -> np.ndarray:
    """Numbers of a map's places for each pixel of the enlarged image; what was padded is cut off."""
    full = numbers.repeat(stage.stride * times, axis=0).repeat(stage.stride * times, axis=1)
    return full[: shown.shape[0] * times, : shown.shape[1] * times]


def _borders(numbers: np.ndarray) -> np.ndarray:
    """Where numbers change, two pixels wide."""
    import cv2

    kernel = np.ones((3, 3), np.uint8)
    return cv2.morphologyEx(numbers.astype(np.float32), cv2.MORPH_GRADIENT, kernel) > 0


def _enlarged(image: np.ndarray) -> tuple[np.ndarray, int]:
    """A copy with each pixel repeated so many times, and this number."""
    times = max(1, -(-_SIDE // max(image.shape[:2])))
    return image.repeat(times, axis=0).repeat(times, axis=1), times


def _with_borders(numbers: np.ndarray, stage: SuperTokens, shown: np.ndarray) -> np.ndarray:
    picture, times = _enlarged(shown)
    picture[_borders(_at_pixels(numbers, stage, shown, times))] = _INK
    return picture


def _with_cells(stage: SuperTokens, shown: np.ndarray) -> np.ndarray:
    import cv2

    picture, times = _enlarged(shown)
    numbers = _at_pixels(stage.numbers, stage, shown, times)
    picture = cv2.addWeighted(picture, 0.35, _colours_of(stage.grid)[numbers], 0.65, 0)
    picture[_borders(numbers)] = 0
    return picture


def _colours_of(grid: Grid) -> np.ndarray:
    """A color for each cell, far from those of all cells up to two steps away: uint8 ``[rows·columns, 3]``."""
    from matplotlib.colors import hsv_to_rgb

    rows, columns = np.indices(grid)
    hue = (0.7549 * rows + 0.5698 * columns) % 1.0
    value = np.where((rows + columns) % 2, 0.62, 1.0)
    saturation = np.full(grid, 0.8)
    return (255 * hsv_to_rgb(np.stack([hue, saturation, value], axis=-1))).astype(np.uint8).reshape(-1, 3)
