"""Counts against scikit-learn's, and the files read back."""

import csv
import math

import numpy as np
from sklearn import metrics as reference

from passl_sot.metrics import ClassificationMeter, write_report


def make(num_classes=7, images=211, k=5):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, num_classes, images)
    logits = rng.normal(size=(images, num_classes)).astype(np.float32)
    logits[np.arange(images), labels] += 1.0
    meter = ClassificationMeter(num_classes, k)
    for start in range(0, images, 50):
        meter.take(np.arange(50), logits[start : start + 50], labels[start : start + 50])
    return meter, logits, labels


def test_same_numbers_as_scikit_learn():
    meter, logits, labels = make()
    predicted = logits.argmax(1)
    result = meter.result()
    assert result["images"] == 211
    assert math.isclose(result["top1"], 100 * reference.accuracy_score(labels, predicted))
    assert math.isclose(result["top5"], 100 * reference.top_k_accuracy_score(labels, logits, k=5))
    p = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(1, keepdims=True)
    assert math.isclose(result["loss"], reference.log_loss(labels, p), rel_tol=1e-9)
    assert math.isclose(result["macro_f1"], reference.f1_score(labels, predicted, average="macro"))
    np.testing.assert_array_equal(meter.confusion, reference.confusion_matrix(labels, predicted))
    expected = reference.precision_recall_fscore_support(labels, predicted)
    for key, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        np.testing.assert_allclose([row[key] for row in meter.per_class()], values)


def test_top_k_is_clamped_to_the_class_count():
    meter, _, _ = make(num_classes=2)
    assert set(meter.result()) == {"top1", "top2", "loss", "macro_f1", "images"}
    assert meter.result()["top2"] == 100
    assert "top1" in ClassificationMeter(1).result()


def test_nothing_counted_is_not_an_accuracy():
    assert math.isnan(ClassificationMeter(3).result()["top1"])


def test_report_files(tmp_path):
    meter, _, _ = make()
    names = ["a b", "猫", "c", "d", "e", "f,g", "h"]
    files = write_report(meter, names, tmp_path / "new")
    per_class, confusion = files
    with per_class.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == names
    assert [int(row["images"]) for row in rows] == meter.confusion.sum(1).tolist()
    with confusion.open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.reader(file))
    assert table[0][1:] == names
    assert [[int(cell) for cell in row[1:]] for row in table[1:]] == meter.confusion.tolist()
