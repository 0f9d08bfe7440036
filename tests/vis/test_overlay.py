"""Pictures of maps: colours, sizes, and the image as the model sees it."""

from types import SimpleNamespace

import numpy as np
import pytest

from passl_sot.data import build_transforms
from passl_sot.utils.figure import drawable
from passl_sot.vis.curves import HIGH, WIDE
from passl_sot.vis.overlay import Caption, Panel, jpeg, overlay, scaled, sheet
from passl_sot.vis.pixels import fitted
from passl_sot.vis.subject import Subject

RNG = np.random.default_rng(0)
NODES = [{"name": "Resize", "size": 20}, {"name": "CenterCrop", "size": 16}, {"name": "Normalize"}]


def test_maps_are_scaled_and_equal_ones_are_empty():
    assert scaled(np.array([[1.0, 2.0], [5.0, 3.0]])).tolist() == [[0, 0.25], [1, 0.5]]
    for same in (0.0, 3.0, np.nan):
        assert not scaled(np.full((2, 2), same)).any()


def test_the_least_is_blue_and_the_most_is_red():
    gray = np.full((8, 300, 3), 128, np.uint8)
    row = overlay(gray, np.tile(np.linspace(0, 1, 300), (8, 1)))[0].astype(int)
    low, high = row[20], row[-20]
    assert low.argmax() == 2 and high.argmax() == 0
    assert row[150].argmax() == 1
    # The image shows through.
    black = overlay(np.zeros_like(gray), np.zeros((8, 300)))
    assert (overlay(gray, np.zeros((8, 300))).astype(int) - black).min() > 50


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((28, 28), (224, 224)),
        ((32, 20), (224, 140)),
        ((1, 1), (240, 240)),
        ((224, 224), (224, 224)),
        ((1, 2000), (1, 240)),
        ((900, 600), (240, 160)),
    ],
)
def test_pictures_get_a_size_to_look_at(size, wanted):
    picture = RNG.integers(0, 255, (*size, 3)).astype(np.uint8)
    shown = fitted(picture)
    assert shown.shape == (*wanted, 3)
    if max(size) < 120:  # by whole pixels
        assert np.array_equal(shown[:: wanted[0] // size[0], :: wanted[0] // size[0]], picture)
    assert jpeg(shown).startswith(b"\xff\xd8")


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_picture_is_what_the_model_sees(channels):
    pixels = RNG.integers(0, 255, (30, 40, max(channels, 3))).astype(np.uint8)
    nodes = NODES
    if channels == 5:
        nodes = [*NODES[:2], {"name": "Normalize", "mean": [0.1, 0.2, 0.3, 0.4, 0.5], "std": [0.5] * 5}]
    transforms = build_transforms(nodes, channels=channels)
    sample = {"image": transforms(pixels, np.random.default_rng(0))}
    subject = Subject("m", None, SimpleNamespace(transforms=transforms), {})
    picture = subject.picture(sample)
    cropped = build_transforms(NODES[:2], channels=max(channels, 3))(pixels, np.random.default_rng(0))
    wanted = cropped.astype(int)
    if channels == 1:
        assert np.ptp(picture, axis=2).max() == 0
        weights = np.array([0.299, 0.587, 0.114])
        wanted = (cropped @ weights)[..., None]
    elif channels == 5:
        wanted = cropped.mean(axis=2, keepdims=True)
    assert picture.dtype == np.uint8 and np.abs(picture - wanted).max() <= 1


def test_a_sheet_names_what_it_shows():
    picture = fitted(RNG.integers(0, 255, (40, 20, 3)).astype(np.uint8))
    chart = np.full((2 * HIGH, 2 * WIDE, 3), 255, np.uint8)
    caption = Caption("ClassT", "猫 93.1 %", False, "a\nb", chart)
    row = [Panel(picture, Caption("image")), Panel(picture, caption)]
    rows = {"What speaks for 猫": row, "What speaks for c": row}
    figure = sheet("1. $x_1$ 猫", rows)
    said = [text.get_text() for text in figure.texts]
    (wrong, title), _ = drawable(["✗ 猫 93.1 %", "1. $x_1$ 猫"])  # "?" where no font has the cat
    assert said.count(wrong) == 2 and title in said and said.count("a\nb") == 2
    width, height = figure.get_size_inches()
    assert height > width  # two rows of tall pictures
    assert [image.get_size() for image in figure.images] == [(HIGH, WIDE)] * 2
    # Words that are too long don't run into the next picture's.
    long = Panel(picture, Caption("ClassT", f"{'tench, ' * 20}(93.1 %)"))
    figure = sheet("T", {"h": [long, long]})
    said = [text for text in figure.texts if "tench" in text.get_text()]
    assert all(text.get_text().endswith("(93.1 %)") for text in said)
    assert said[0].get_window_extent().x1 < said[1].get_window_extent().x0
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
