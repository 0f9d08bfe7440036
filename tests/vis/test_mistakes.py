"""`eval --mistakes N`: the most confident errors, of planted outputs and of models."""

import csv
import json
import re
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from passl_sot.config import UserError
from passl_sot.metrics import ClassificationMeter, CorrelationMeter, MultiLabelMeter
from passl_sot.tasks.labelled import RowMeter
from passl_sot.vis.mistakes import find_mistakes
from passl_sot.vis.pixels import as_picture, fitted
from passl_sot.vis.sheet import Tile, save_sheet, save_texts

NAMES = ["cat", "dog", "龟"]
TASK = SimpleNamespace(class_names=NAMES)


def logits(*rows) -> np.ndarray:
    return np.log(np.array(rows, np.float32))


def planted(several: int) -> tuple[np.ndarray, np.ndarray, list[RowMeter]]:
    """Outputs and labels of six items, and meters of so many processes that evaluated them."""
    outputs = logits(
        (0.7, 0.2, 0.1),
        (0.1, 0.8, 0.1),
        (0.2, 0.2, 0.6),
        (0.9, 0.05, 0.05),
        (0.1, 0.3, 0.6),
        (0.05, 0.9, 0.05),
    )
    labels = np.array([1, 1, 0, 2, 2, 0])
    meters = [RowMeter(ClassificationMeter(3), 6) for _ in range(several)]
    for rank, meter in enumerate(meters):
        part = np.arange(rank, 6, several)
        meter.take(part, outputs[part], labels[part])
    return outputs, labels, meters


@pytest.mark.parametrize("processes", [1, 2])
def test_of_one_class_at_any_number_of_processes(processes):
    *_, meters = planted(processes)
    # As `World.sum` does: each process gives its own arrays, in one order, and gets the sums of all.
    given = [[] for _ in meters]
    for meter, arrays in zip(meters, given, strict=True):
        meter.gather(lambda array, arrays=arrays: arrays.append(array) or array)
    sums = (sum(parts) for parts in zip(*given, strict=True))
    meters[0].gather(lambda array: next(sums))
    found = find_mistakes(TASK, meters[0], 3)
    # Of equal probability the first.
    assert (found.indices, found.total, found.heads) == ([3, 5, 0], 4, ("true", "predicted"))
    assert found.said == [
        ("龟 (5.0 %)", "cat (90.0 %)"),
        ("cat (5.0 %)", "dog (90.0 %)"),
        ("dog (20.0 %)", "cat (70.0 %)"),
    ]


def test_of_several_classes_each_wrong_decision_counts():
    meter = MultiLabelMeter(3, 4)
    probabilities = np.array([(0.9, 0.2, 0.4), (0.6, 0.05, 0.9), (0.1, 0.2, 0.1), (0.8, 0.7, 0.99)])
    labels = np.array([(1, 0, 0), (0, 1, 1), (0, 0, 1), (0, 0, 0)])
    meter.take(np.arange(4), np.log(probabilities / (1 - probabilities)), labels)
    found = find_mistakes(TASK, meter, 10)
    assert (found.indices, found.total) == ([3, 1, 2], 3)
    assert found.said == [
        ("none", "龟 (99.0 %), cat (80.0 %), dog (70.0 %)"),
        ("dog (5.0 %)", "cat (60.0 %)"),
        ("龟 (10.0 %)", "none"),
    ]
    assert "above 50 % that it hasn't" in found.meaning


def test_of_numbers_the_distance_counts():
    meter = CorrelationMeter(3)
    meter.take(np.arange(3), np.array([[1.0], [4.5], [2.0]]), np.array([1.0, 2.0, 3.0]))
    found = find_mistakes(TASK, meter, 2)
    assert (found.indices, found.said, found.total) == ([1, 2], [("2", "4.500"), ("3", "2.000")], 2)
    assert "no probability" in found.meaning


def test_a_task_that_keeps_no_predictions_is_refused():
    with pytest.raises(UserError, match=r"keeps no prediction of each item.*\n?.*逐条预测"):
        find_mistakes(TASK, ClassificationMeter(3), 2)


def captions(page) -> list[list[str]]:
    text = unescape(page.read_text(encoding="utf-8"))
    return [
        found.split("\n") for found in re.findall(r"<figcaption dir=\"auto\">(.*?)</figcaption>", text, re.S)
    ]


def test_files_and_packed_copies(trained, invoke, tmp_path):
    words = ["eval", "--weights", trained.checkpoint, "--mistakes", 3]
    done = invoke(*words, "--out", tmp_path / "files" / "m.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "files" / "m.json").read_text())
    assert [path.rpartition("/")[2] for path in report["files"]][-2:] == ["mistakes.png", "mistakes.html"]
    with (tmp_path / "files" / "predictions.csv").open(encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] != row["class"]]
    rows.sort(key=lambda row: -float(row["probability"]))
    found = captions(tmp_path / "files" / "mistakes.html")
    assert len(rows) > 3 and len(found) == 3
    for (true, predicted, path), row in zip(found, rows, strict=False):
        percent = f"{100 * float(row['probability']):.1f} %"
        assert predicted == f"predicted: {row['name']} ({percent})" and row["path"].endswith(f"/{path}")
        assert true.startswith(f"true: {path.partition('/')[0]} (")

    packed = tmp_path / "packed"
    root = trained.config.parent
    assert invoke("make-cache", root / "val", packed, "--raw", "--processes", 1).returncode == 0
    done = invoke(*words, "--out", tmp_path / "copy" / "m.json", "--data", packed)
    assert done.returncode == 0, done.stderr
    assert captions(tmp_path / "copy" / "mistakes.html") == found
    one, other = (Image.open(tmp_path / name / "mistakes.png") for name in ("files", "copy"))
    with one, other:
        assert one.size == other.size and one.width > 3 * 160
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_texts_stand_in_a_table(trained_text, invoke, tmp_path):
    done = invoke(
        "eval", "--weights", trained_text.checkpoint, "--out", tmp_path / "m.json", "--mistakes", 50
    )
    assert done.returncode == 0, done.stderr
    page = unescape((tmp_path / "mistakes.html").read_text(encoding="utf-8"))
    with (tmp_path / "predictions.csv").open(encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] != row["class"]]
    rows.sort(key=lambda row: -float(row["probability"]))
    texts = re.findall(r'<td dir="auto">([^<]*)</td><td dir="auto">val.csv:\d+</td>', page)
    assert texts == [row["text"] for row in rows] and texts
    assert (tmp_path / "mistakes.png").stat().st_size > 2000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mistakes", 3], "--mistakes takes 1 to 500, and needs --out FILE"),
        (["--mistakes", 0, "--out", "m"], "--mistakes takes 1 to 500"),
        (["--mistakes", 3, "--out", "m", "--sizes", 32], "not allowed together with --suite or --sizes"),
        (["--mistakes", 3, "--out", "m", "--suite", "val=x"], "not allowed together with --suite or --sizes"),
    ],
)
def test_wrong_words(words, said, invoke):
    done = invoke("eval", "--weights", "none", *words)
    assert done.returncode == 2 and said in done.stderr


def test_any_number_of_channels_can_be_looked_at():
    for channels in (1, 2, 5):
        pixels = np.arange(4 * 6 * channels, dtype=np.uint8).reshape(4, 6, channels)
        seen = as_picture(pixels)
        np.testing.assert_array_equal(seen[..., 1], np.rint(pixels.mean(axis=2)))
        assert seen.shape == (4, 6, 3) and seen.dtype == np.uint8
    # Tiny ones are enlarged by whole pixels, large ones reduced.
    np.testing.assert_array_equal(fitted(seen, 13)[::2, ::2], seen)
    assert fitted(np.zeros((300, 100, 3), np.uint8), 60).shape == (60, 20, 3)


def test_sheets_of_long_names_and_odd_sizes(tmp_path, recwarn):
    """Captions end where their picture does, however long; rows are as high as they need."""
    wide, tall = np.full((40, 176, 3), 200, np.uint8), np.full((176, 30, 3), 100, np.uint8)
    lines = ["W" * 300, "很长的名字" * 30, "一/\udc80\t$x$"]
    save_sheet(tmp_path / "new" / "sheet.png", "T\nsecond", [Tile(wide, lines), Tile(tall, lines)] * 5)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape[1] == 12 + 8 * 188
    inked = (pixels < 90).any(axis=(0, 2))
    # Between the columns nothing is written.
    assert not any(inked[12 + 188 * place - 10 : 12 + 188 * place].any() for place in range(1, 9))
    for left, shade in ((12, 200), (12 + 188, 100)):
        first = pixels[:, left : left + 30]
        assert (first == shade).all(axis=(1, 2)).sum() >= (40 if shade == 200 else 176)
    save_texts(tmp_path / "texts.png", "T", [["字" * 500, "word " * 200], ["short"]])
    with Image.open(tmp_path / "texts.png") as sheet:
        assert sheet.width <= 1400 and sheet.height > 5 * 16
        assert (np.asarray(sheet.convert("RGB"))[:, -4:] == 255).all()
    save_sheet(tmp_path / "none.png", "no errors", [])
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]
