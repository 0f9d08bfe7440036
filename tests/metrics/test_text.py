"""Scores of texts, against scikit-learn and SciPy."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from passl_sot.metrics import CorrelationMeter, SentenceMeter


def predictions(classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = rng.choice(classes, 300, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    logits = rng.normal(size=(300, classes))
    logits[np.arange(300), labels] += 0.8
    return logits, labels


@pytest.mark.parametrize("classes", [2, 3])
def test_the_formulas_are_scikit_learns(classes):
    logits, labels = predictions(classes)
    meter = SentenceMeter(classes)
    meter.take(np.arange(300), logits, labels)
    found, said = meter.result(), logits.argmax(1)
    kind = "binary" if classes == 2 else "macro"
    assert found["accuracy"] == pytest.approx(100 * reference.accuracy_score(labels, said))
    assert found["matthews"] == pytest.approx(100 * reference.matthews_corrcoef(labels, said))
    assert found["f1"] == pytest.approx(100 * reference.f1_score(labels, said, average=kind))
    assert found["macro_f1"] == pytest.approx(100 * reference.f1_score(labels, said, average="macro"))
    assert found["sentences"] == meter.items == 300
    assert meter.per_class()[0]["sentences"] == (labels == 0).sum()


def test_one_prediction_for_all_is_no_correlation():
    meter = SentenceMeter(2)
    meter.take(np.arange(4), np.array([[0.0, 1.0]] * 4), np.array([0, 1, 1, 1]))
    found = meter.result()
    assert (found["matthews"], found["accuracy"]) == (0.0, 75.0)
    assert math.isnan(SentenceMeter(2).result()["matthews"])
    numbers = CorrelationMeter(3)
    # A mean of such numbers may be another than they are, by rounding.
    numbers.take(np.arange(3), np.full((3, 1), 0.1), np.array([1.0, 2.0, 3.0]))
    assert math.isnan(numbers.result()["pearson"]) and math.isnan(numbers.result()["spearman"])


def test_correlations_of_two_processes_are_scipys():
    rng = np.random.default_rng(0)
    labels = np.round(rng.uniform(0, 5, 200), 1)  # with ties
    outputs = (labels + rng.normal(size=200)).astype(np.float32)[:, None]
    whole, parts = CorrelationMeter(200), [CorrelationMeter(200) for _ in range(2)]
    whole.take(np.arange(200), outputs, labels)
    for part, index in zip(parts, (np.arange(70), np.arange(70, 200)), strict=True):
        part.take(index, outputs[index], labels[index])
    others = iter([parts[1].outputs, parts[1].labels, parts[1].counted])
    parts[0].gather(lambda array: array + next(others))
    found = parts[0].result()
    assert found == whole.result() and parts[0].items == 200
    assert found["pearson"] == pytest.approx(100 * stats.pearsonr(outputs[:, 0], labels)[0])
    assert found["spearman"] == pytest.approx(100 * stats.spearmanr(outputs[:, 0], labels)[0])
    assert found["loss"] == pytest.approx(reference.mean_squared_error(labels, outputs[:, 0]))
