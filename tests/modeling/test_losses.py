"""Cross entropy as timm's recipes use it."""

import numpy as np
import paddle
import pytest

from passl_sot.modeling.losses import LOSSES, CrossEntropyLoss, hard_distillation, soft_distillation

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
        CrossEntropyLoss(label_smoothing=1.0)
