"""Charts of insertion and deletion."""

import io

import numpy as np
from PIL import Image

from passl_sot.utils.figure import drawable
from passl_sot.vis.curves import HIGH, WIDE, as_png, charts_of, mean_charts
from passl_sot.vis.faithfulness import Faithfulness

HIGHER, LOWER = np.linspace(0.5, 0.9, 11), np.linspace(0.5, 0.2, 11)


def green_and_red(pixels: np.ndarray) -> list[tuple[int, int]]:
    """Pixels of either colour in the left half, of insertion, and in the right one."""
    counts = []
    for half in np.array_split(pixels.astype(int), 2, axis=1):
        red, green = half[..., 0], half[..., 1]
        counts.append((int((green > red + 30).sum()), int((red > green + 30).sum())))
    return counts


def test_green_is_better_than_a_random_map():
    good = charts_of(Faithfulness(HIGHER, LOWER, LOWER, HIGHER))
    assert good.shape == (2 * HIGH, 2 * WIDE, 3)
    (green, red), (also_green, also_red) = green_and_red(good)
    assert min(green, also_green) > 1000 and red == also_red == 0
    bad = charts_of(Faithfulness(LOWER, HIGHER, HIGHER, LOWER))
    assert [(green, red > 1000) for green, red in green_and_red(bad)] == [(0, True), (0, True)]
    # Where curves cross, both; an equal one has neither.
    mixed = charts_of(Faithfulness(HIGHER, HIGHER, HIGHER, HIGHER[::-1]))
    equal, crossed = green_and_red(mixed)
    assert equal == (0, 0) and min(crossed) > 300
    data = as_png(good)
    small = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert len(data) < 8000 and np.abs(small - good).mean() < 3


def test_means_of_several_views_have_a_legend():
    curves = Faithfulness(HIGHER, LOWER, LOWER, HIGHER)
    figure = mean_charts({"ClassT": curves, "$x$ 猫": curves._replace(insertion=LOWER)})
    (legend,) = figure.legends
    wanted, _ = drawable(["ClassT", "$x$ 猫", "random maps"])  # with "?" where no font has Chinese characters
    assert [text.get_text() for text in legend.get_texts()] == wanted
    figure.canvas.draw()
    box = legend.get_window_extent()
    axes = figure.axes[0]
    assert box.y0 >= 0 and box.y1 <= axes.xaxis.label.get_window_extent().y0
    assert [axes.get_title() for axes in figure.axes] == ["insertion", "deletion"]
    drawn = [line.get_ydata().tolist() for line in axes.lines]
    assert drawn == [LOWER.tolist(), HIGHER.tolist(), LOWER.tolist(), LOWER.tolist()]
