"""Scores of several labels per image, against scikit-learn."""

import csv
import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_score, recall_score

from passl_sot.metrics import MultiLabelMeter, write_label_report


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 5)) < [0.5, 0.2, 0.1, 0.02, 0.0]).astype(np.float32)
    logits = np.round(rng.standard_normal((200, 5)) * 2 + 2 * labels, 1)  # with ties
    return logits, labels


def test_scikit_learns_numbers(data):
    logits, labels = data
    meter = MultiLabelMeter(5, 200)
    order = np.random.default_rng(1).permutation(200)
    for batch in np.split(order, [30, 90]):
        meter.take(batch, logits[batch], labels[batch])
    assert meter.items == 200
    rows, said = meter.per_class(), logits > 0
    for k in range(4):
        assert rows[k]["ap"] == pytest.approx(average_precision_score(labels[:, k], logits[:, k]))
        assert rows[k]["f1"] == pytest.approx(f1_score(labels[:, k], said[:, k]))
        assert rows[k]["precision"] == pytest.approx(precision_score(labels[:, k], said[:, k]))
        assert rows[k]["recall"] == pytest.approx(recall_score(labels[:, k], said[:, k]))
    assert rows[4] == {"images": 0, "ap": 0.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    result = meter.result()
    assert result["map"] == pytest.approx(100 * np.mean([row["ap"] for row in rows[:4]]))
    assert result["macro_f1"] == pytest.approx(100 * np.mean([row["f1"] for row in rows[:4]]))
    p = 1 / (1 + np.exp(-logits))
    assert result["loss"] == pytest.approx(log_loss(labels.ravel(), np.c_[1 - p.ravel(), p.ravel()]))


def test_processes_join(data):
    logits, labels = data
    whole, parts = MultiLabelMeter(5, 200), [MultiLabelMeter(5, 200) for _ in range(2)]
    whole.take(np.arange(200), logits, labels)
    for part, index in zip(parts, (np.arange(120), np.arange(120, 200)), strict=True):
        part.take(index, logits[index], labels[index])
    arrays = iter([(p.outputs, p.labels, p.counted) for p in parts][1])
    parts[0].gather(lambda array: array + next(arrays))
    assert parts[0].result() == whole.result()


def test_files(data, tmp_path):
    logits, labels = data
    logits[0, 0] = -900.0
    meter = MultiLabelMeter(5, 200)
    meter.take(np.arange(200), logits, labels)
    names, paths = ["a", "b, c", "猫", "d", "e"], [f"x {i}.png" for i in range(200)]
    per_class, predictions = write_label_report(meter, names, paths, tmp_path / "new")
    with per_class.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == names
    for row, expected in zip(rows, meter.per_class(), strict=True):
        for key in ("images", "ap", "precision", "recall", "f1"):
            assert float(row[key]) == pytest.approx(expected[key], abs=1e-6)
    with predictions.open(encoding="utf-8-sig", newline="") as file:
        header, *table = csv.reader(file)
    assert header == ["path", "labels", "predicted", *names]
    assert [row[0] for row in table] == paths
    for i, row in enumerate(table):
        for cell, given in ((row[1], labels[i]), (row[2], logits[i])):
            assert cell == (",".join(str(k) for k in range(5) if given[k] > 0) or "-")
        assert [float(p) for p in row[3:]] == pytest.approx(expit(logits[i]), abs=1e-6)


def test_nothing_taken_in():
    result = MultiLabelMeter(3, 4).result()
    assert result["images"] == 0 and all(math.isnan(result[key]) for key in ("map", "macro_f1", "loss"))
