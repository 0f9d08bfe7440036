"""Calibration against scikit-learn's and a plain restatement; planted predictions; parts of processes."""

import math
import struct

import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from passl_sot.metrics import CalibrationMeter, save_reliability


def make(items=213, classes=7, scale=2.0, batch=50):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, classes, items)
    logits = (scale * rng.normal(size=(items, classes))).astype(np.float32)
    logits[np.arange(items), labels] += 1.5
    meter = CalibrationMeter(items)
    for start in range(0, items, batch):
        index = np.arange(start, min(start + batch, items))
        meter.take(index, logits[index], labels[index])
    exps = np.exp(logits.astype(np.float64))
    return meter, logits, labels, exps / exps.sum(1, keepdims=True)


def plain_error(confidence, right, groups):
    """Sum over groups of |B|/N |accuracy(B) - confidence(B)|, as the papers write it."""
    total = 0.0
    for low, high in groups:
        inside = [i for i, c in enumerate(confidence) if low < c <= high]
        if inside:
            total += abs(sum(right[i] for i in inside) - sum(confidence[i] for i in inside))
    return 100 * total / len(confidence)


def test_errors_are_those_of_the_papers():
    meter, _, labels, p = make()
    confidence, right = p.max(1), p.argmax(1) == labels
    assert meter.items == 213
    widths = [(i / 15, (i + 1) / 15) for i in range(15)]
    assert meter.result()["ece"] == pytest.approx(plain_error(confidence, right, widths))
    counts = meter.bins(equal=True).counts
    assert len(counts) == 15 and np.ptp(counts) == 1
    assert meter.result()["ece"] > 3


@pytest.mark.parametrize(("strategy", "equal"), [("uniform", False), ("quantile", True)])
def test_groups_and_brier_score_are_those_of_scikit_learn(strategy, equal):
    meter, _, labels, p = make()
    right = p.argmax(1) == labels
    accuracy, confidence = calibration_curve(right, p.max(1), n_bins=15, strategy=strategy)
    bins = meter.bins(equal=equal)
    np.testing.assert_allclose(bins.accuracy, accuracy)
    np.testing.assert_allclose(bins.confidence, confidence)
    assert bins.counts.sum() == 213
    brier = reference.brier_score_loss(np.eye(7)[labels], p, scale_by_half=False)
    assert meter.result()["brier"] == pytest.approx(brier)


def certain(confidence: float, right: int, items: int) -> CalibrationMeter:
    """So many of the items right, all at one confidence, of two classes."""
    logits = np.zeros((items, 2))
    logits[:, 0] = math.log(confidence / (1 - confidence))
    meter = CalibrationMeter(items)
    meter.take(np.arange(items), logits, (np.arange(items) >= right).astype(int))
    return meter


def test_planted_calibration_and_overconfidence():
    calibrated = certain(0.8, 80, 100).result()
    # Equal confidences stay in one group, whatever the order of right and wrong ones.
    assert calibrated["ece"] == pytest.approx(0, abs=1e-9)
    assert calibrated["adaptive_ece"] == pytest.approx(0, abs=1e-9)
    assert calibrated["brier"] == pytest.approx(2 * 0.8 * 0.2)
    overconfident = certain(0.95, 60, 100).result()
    assert overconfident["ece"] == pytest.approx(35) == overconfident["adaptive_ece"]
    # (1 - 0.95)^2 twice where it is right, 0.95^2 twice where it isn't.
    assert overconfident["brier"] == pytest.approx(2 * (0.6 * 0.05**2 + 0.4 * 0.95**2))
    assert certain(0.9999999, 100, 100).result()["ece"] < 1e-3


def test_a_bound_belongs_to_the_group_below():
    meter = CalibrationMeter(2)
    logits = np.log([[0.6, 0.2, 0.2], [0.8, 0.1, 0.1]])
    meter.take(np.arange(2), logits, np.zeros(2, int))
    assert [row["to"] for row in meter.groups("images")] == pytest.approx([9 / 15, 12 / 15])


def test_processes_with_parts_give_the_whole():
    whole, logits, labels, _ = make()
    parts = [CalibrationMeter(213) for _ in range(3)]
    for rank, meter in enumerate(parts):
        for start in range(rank * 20, 213, 60):
            index = np.arange(start, min(start + 20, 213))
            meter.take(index, logits[index], labels[index])
    arrays = [[m.outputs for m in parts], [m.labels for m in parts], [m.counted for m in parts]]
    sums = iter([np.sum(group, axis=0) for group in arrays])
    parts[0].gather(lambda array: next(sums))
    assert parts[0].result() == whole.result()
    assert math.isnan(CalibrationMeter(4).result()["ece"]) and math.isnan(
        CalibrationMeter(4).result()["brier"]
    )


def test_the_picture(tmp_path):
    meter = make()[0]
    save_reliability(tmp_path / "a.png", meter, "run/猫: ema weights", "images")
    data = (tmp_path / "a.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == (500, 600)
    save_reliability(tmp_path / "none.png", CalibrationMeter(3), "", "images")
    assert (tmp_path / "none.png").stat().st_size > 5000
