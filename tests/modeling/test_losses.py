"""Losses as timm's recipes use them; with weights as PyTorch 2.13 computes them."""

import numpy as np
import paddle
import pytest

from passl_sot.config import ConfigError
from passl_sot.modeling.losses import (
    LOSSES,
    BinaryCrossEntropyLoss,
    CrossEntropyLoss,
    hard_distillation,
    soft_distillation,
)

LOGITS = np.random.default_rng(0).standard_normal((4, 6)) * 3
LABELS = np.array([0, 5, 2, 2])


def log_p() -> np.ndarray:
    return LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_indices(smoothing):
    nll = -log_p()[np.arange(4), LABELS].mean()
    expected = (1 - smoothing) * nll + smoothing * (-log_p()).mean()
    loss = LOSSES.build({"name": "CrossEntropyLoss", "label_smoothing": smoothing})
    got = loss(paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS))
    assert got.shape == [] and abs(float(got) - expected) < 1e-12


def test_soft_targets_are_not_smoothed_again():
    target = np.random.default_rng(1).dirichlet(np.ones(6), size=4)
    loss = CrossEntropyLoss(label_smoothing=0.1)
    got = float(loss(paddle.to_tensor(LOGITS), paddle.to_tensor(target)))
    assert abs(got + (target * log_p()).sum(axis=1).mean()) < 1e-12


def test_parts_are_added():
    loss = CrossEntropyLoss(label_smoothing=0.1)
    one, two = paddle.to_tensor(LOGITS), paddle.to_tensor(LOGITS[::-1].copy())
    labels = paddle.to_tensor(LABELS)
    assert abs(float(loss((one, two), labels)) - float(loss(one, labels)) - float(loss(two, labels))) < 1e-12


def test_distillation_by_deits_formulas():
    """Hard: cross entropy with the teacher's class. Soft: tau squared KL, over batch times classes."""
    teacher = np.random.default_rng(2).standard_normal((4, 6)) * 2
    student = paddle.to_tensor(LOGITS)
    hard = -log_p()[np.arange(4), teacher.argmax(axis=1)].mean()
    assert abs(float(hard_distillation(student, paddle.to_tensor(teacher))) - hard) < 1e-12
    for tau in (1.0, 3.0):
        p, q = (np.exp(x / tau) / np.exp(x / tau).sum(axis=1, keepdims=True) for x in (teacher, LOGITS))
        soft = (p * np.log(p / q)).sum() * tau**2 / (4 * 6)
        assert abs(float(soft_distillation(student, paddle.to_tensor(teacher), tau)) - soft) < 1e-12


def test_large_logits():
    logits = paddle.to_tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], stop_gradient=False)
    for target in ([2, 1], [[0.0, 0.0, 1.0], [0.2, 0.3, 0.5]]):
        loss = CrossEntropyLoss(label_smoothing=0.1)(logits, paddle.to_tensor(target))
        loss.backward()
        assert np.isfinite(float(loss)) and np.isfinite(logits.grad.numpy()).all()
    assert (
        str(CrossEntropyLoss()(logits.astype("float16"), paddle.to_tensor([0, 1])).dtype) == "paddle.float32"
    )


def test_wrong_targets():
    loss = CrossEntropyLoss()
    logits = paddle.to_tensor(LOGITS)
    with pytest.raises(ValueError, match="soft targets"):
        loss(logits, paddle.rand([4, 5]))
    with pytest.raises(ValueError, match="class indices"):
        loss(logits, paddle.to_tensor(LABELS).unsqueeze(1))
    with pytest.raises(IndexError):
        loss(logits, paddle.to_tensor([0, 1, 2, 6]))
    with pytest.raises(ValueError, match="label_smoothing"):
        LOSSES.build({"name": "CrossEntropyLoss", "label_smoothing": 1.0})


SOFT = np.random.default_rng(1).dirichlet(np.ones(6), size=4)
WEIGHTS = [0.5, 1.0, 2.0, 0.25, 3.0, 1.5]


@pytest.mark.parametrize(
    ("section", "target", "expected"),
    [
        ({"name": "CrossEntropyLoss", "class_weights": WEIGHTS}, LABELS, 4.15758515774),
        (
            {"name": "CrossEntropyLoss", "class_weights": WEIGHTS, "label_smoothing": 0.1},
            LABELS,
            4.073553635909,
        ),
        ({"name": "CrossEntropyLoss", "class_weights": WEIGHTS}, SOFT, 5.379661389606),
        ({"name": "BinaryCrossEntropyLoss"}, SOFT, 1.160001981448),
        ({"name": "BinaryCrossEntropyLoss", "target_threshold": 0.2}, SOFT, 1.533766072821),
        (
            {"name": "BinaryCrossEntropyLoss", "target_threshold": 0.0, "class_weights": WEIGHTS},
            SOFT,
            2.027453899679,
        ),
    ],
)
def test_pytorchs_numbers(section, target, expected):
    got = LOSSES.build(section)(paddle.to_tensor(LOGITS), paddle.to_tensor(target))
    assert abs(float(got) - expected) < 1e-6


def sigmoid_loss(target: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-LOGITS)) * target + np.log1p(np.exp(LOGITS)) * (1 - target)


def test_binary_loss_of_class_indices():
    """timm's: an index becomes 1-ε+ε/K for its class and ε/K for the others."""
    target = np.full((4, 6), 0.1 / 6)
    target[np.arange(4), LABELS] += 0.9
    logits, labels = paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS)
    mean, total = (BinaryCrossEntropyLoss(label_smoothing=0.1, sum_classes=s) for s in (False, True))
    assert float(mean(logits, labels)) == pytest.approx(sigmoid_loss(target).mean(), rel=1e-9)
    assert float(total(logits, labels)) == pytest.approx(sigmoid_loss(target).sum(axis=1).mean(), rel=1e-9)
    # A threshold takes smoothing away again where it lies above it.
    sharp = BinaryCrossEntropyLoss(label_smoothing=0.1, target_threshold=0.2)
    assert float(sharp(logits, labels)) == pytest.approx(sigmoid_loss((target > 0.2) * 1.0).mean(), rel=1e-9)


def test_mixtures_in_deit_iii_count_both_classes():
    mixed = np.zeros((4, 6), np.float64)
    mixed[np.arange(4), LABELS], mixed[np.arange(4), LABELS - 1] = 0.9, 0.1
    got = BinaryCrossEntropyLoss(target_threshold=0.0)(paddle.to_tensor(LOGITS), paddle.to_tensor(mixed))
    assert float(got) == pytest.approx(sigmoid_loss((mixed > 0) * 1.0).mean(), rel=1e-9)


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "BinaryCrossEntropyLoss"])
def test_automatic_weights(name):
    """Each class counts alike: N / (K n), so the weighted number of images stays N."""
    counts = [10, 40, 1, 9, 20, 40]
    loss = LOSSES.build({"name": name, "class_weights": "auto"})
    with pytest.raises(ValueError, match="use_class_counts"):
        loss(paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS))
    loss.use_class_counts(counts)
    np.testing.assert_allclose(loss.weights.numpy(), 120 / (6 * np.array(counts)), rtol=1e-6)
    given = LOSSES.build({"name": name, "class_weights": loss.weights.tolist()})
    given.use_class_counts(counts)
    pair = paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS)
    assert float(loss(*pair)) == float(given(*pair))
    with pytest.raises(ValueError, match="has 6 entries for 5 classes"):
        given.use_class_counts(counts[:5])


def test_binary_loss_takes_16_bits_and_tuples():
    logits = paddle.to_tensor(LOGITS.astype("float16"))
    loss = BinaryCrossEntropyLoss()
    one = loss(logits, paddle.to_tensor(SOFT.astype("float32")))
    assert one.dtype == paddle.float32
    both = loss((logits, logits), paddle.to_tensor(SOFT.astype("float32")))
    assert float(both) == pytest.approx(2 * float(one))
    with pytest.raises(ValueError, match="soft targets"):
        loss(logits, paddle.rand([4, 5]))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            {"class_weights": "balanced"},
            "class_weights: expected a list of",
        ),
        ({"class_weights": [1, -1]}, "class_weights.1: must be at least 0"),
        ({"target_threshold": 0.2}, "CrossEntropyLoss has no argument 'target_threshold'"),
        ({"name": "BinaryCrossEntropyLoss", "target_threshold": 1.0}, "target_threshold: must lie in"),
    ],
)
def test_what_is_refused(section, words):
    with pytest.raises(ConfigError, match=words):
        LOSSES.build({"name": "CrossEntropyLoss", **section})
