"""What can be read in the picture of a confusion matrix, at 2 to 200 classes."""

import itertools
import logging
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from passl_sot.metrics.confusion_picture import confusion_figure, save_confusion
from passl_sot.utils.logger import get_logger


def matrix(classes: int) -> np.ndarray:
    rng = np.random.default_rng(classes)
    return np.diag(rng.integers(1, 60, classes)) + rng.binomial(1, 0.02, (classes, classes))


def bare(labels) -> list[str]:
    return [label.get_text() for label in labels]


@pytest.mark.parametrize("classes", [2, 10, 50, 200])
def test_names_counts_and_accuracies_can_be_read(classes):
    confusion = matrix(classes)
    names = [f"class $x_{i}$ of many" for i in range(classes)]  # no formulas
    figure, named = confusion_figure(confusion, names, "run: ema weights")
    figure.draw_without_rendering()
    assert named
    axes = figure.axes[0]
    right = axes.child_axes[0]
    assert bare(axes.get_yticklabels()) == bare(axes.get_xticklabels()) == names
    hits, totals = np.diag(confusion), confusion.sum(axis=1)
    wanted = [f"{100 * h / n:.0f} % of {n}" for h, n in zip(hits, totals, strict=True)]
    assert bare(right.get_yticklabels()) == wanted
    counts = {tuple(map(int, text.get_position()[::-1])): int(text.get_text()) for text in axes.texts}
    assert counts == {tuple(map(int, at)): confusion[tuple(at)] for at in np.argwhere(confusion)}
    top1 = 100 * hits.sum() / totals.sum()
    assert (
        axes.get_title()
        == f"run: ema weights\ntop-1 {top1:.2f} % of {totals.sum():,} images, {classes} classes"
    )
    # As large as on a page, and none over its neighbour.
    cell = axes.bbox.height / classes
    for labels in (axes.get_yticklabels(), right.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert min(box.height for box in boxes) > 9
        assert all(a.y0 >= b.y1 for a, b in itertools.pairwise(boxes))
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))
    sizes = [text.get_window_extent() for text in axes.texts]
    assert max(box.width for box in sizes) <= cell and min(box.height for box in sizes) > 7


def test_odd_names_and_classes_without_images(tmp_path):
    names = ["a\tb\udce9", "x" * 99, ""]
    figure, named = confusion_figure(np.array([[0, 0, 0], [0, 3, 1], [0, 0, 0]]), names)
    axes = figure.axes[0]
    assert named and bare(axes.get_yticklabels()) == ["a?b?", "x" * 27 + "…", ""]
    assert bare(axes.child_axes[0].get_yticklabels()) == ["none", "75 % of 4", "none"]
    save_confusion(tmp_path / "none.png", np.zeros((2, 2), np.int64), ["a", "b"])


def test_a_thousand_classes_have_a_picture_without_names(tmp_path, caplog):
    save_confusion(tmp_path / "c.png", np.eye(1000, dtype=np.int64), [f"猫{i}" for i in range(1000)])
    with Image.open(tmp_path / "c.png") as picture:
        assert 1000 < picture.width < 2000 and 1000 < picture.height < 2000
    assert not caplog.records


def test_chinese_names_are_drawn_or_numbered_and_never_boxes(tmp_path, monkeypatch, caplog, recwarn):
    # Once it is made, at the level that other tests may have changed.
    monkeypatch.setattr(get_logger(), "propagate", True)
    monkeypatch.setattr(get_logger(), "level", logging.INFO)
    names = ["猫", "狗"]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    save_confusion(tmp_path / "a.png", matrix(2), names, "猫")
    assert "a.png numbers the classes, as no font of this machine has all characters" in caplog.text
    figure, named = confusion_figure(matrix(2), names, "猫")
    axes = figure.axes[0]
    assert not named and bare(axes.get_yticklabels()) == ["0", "1"]
    first, *_, last = axes.get_title().splitlines()
    assert first == "?" and last == "(by number: no font here has all characters of the names)"
    assert not [str(w.message) for w in recwarn if "Glyph" in str(w.message)]


def test_a_font_of_the_system_serves(tmp_path, monkeypatch):
    """One that has a character which the default font lacks; here matplotlib's font of formulas."""
    own = Path(matplotlib.get_data_path(), "fonts", "ttf")
    broken = tmp_path / "a.ttf"
    broken.write_bytes(b"no font")
    font = shutil.copy(own / "STIXGeneral.ttf", tmp_path / "b.ttf")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(font), str(broken)])
    lacking = font_manager.get_font(str(font)).get_charmap().keys()
    lacking -= font_manager.get_font(str(own / "DejaVuSans.ttf")).get_charmap().keys()
    character = min(filter(str.isprintable, map(chr, lacking)))
    figure, named = confusion_figure(matrix(2), [character, "b"])
    (label, _) = figure.axes[0].get_yticklabels()
    assert label.get_fontfamily() == ["DejaVu Sans", "STIXGeneral"]
    assert named
