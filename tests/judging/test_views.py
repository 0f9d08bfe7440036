"""Test-time augmentation: means of probabilities by hand; the same rows from evaluation and prediction."""

import csv

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl_sot import Predictor
from passl_sot.tasks.base import load_trained, task_of
from passl_sot.tasks.classification import ClassificationTask
from passl_sot.tasks.views import Views


def test_the_answer_is_the_mean_of_the_views(small):
    model, meta = load_trained(small.checkpoint)
    task = task_of(meta)
    images = paddle.to_tensor(np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32))

    def probabilities(*views):
        return sum(F.softmax(model(view)).numpy() for view in views) / len(views)

    def shown(names):
        return F.softmax(Views(names, task)(model, images)).numpy()

    mirrored = images[:, :, :, ::-1]
    flipped = probabilities(images, mirrored)
    np.testing.assert_allclose(shown(["flip"]), flipped, rtol=1e-5)
    assert abs(flipped - probabilities(images)).max() > 1e-3
    parts = [images[:, :, t : t + 28, left : left + 28] for t in (0, 4) for left in (0, 4)]
    parts.append(images[:, :, 2:30, 2:30])
    crops = [images, *(F.interpolate(part, [32, 32], mode="bilinear") for part in parts)]
    np.testing.assert_allclose(shown(["crops"]), probabilities(*crops), rtol=1e-5)
    both = probabilities(*crops, *(crop[:, :, :, ::-1] for crop in crops))
    assert len(crops) == 6 and abs(both - flipped).max() > 1e-4
    # A mirrored corner is the other corner of the mirrored image.
    np.testing.assert_allclose(shown(["flip", "crops"]), both, rtol=1e-4)
    task.several = True
    logits = Views(["flip"], task)(model, images)
    wanted = (F.sigmoid(model(images)) + F.sigmoid(model(mirrored))) / 2
    np.testing.assert_allclose(F.sigmoid(logits).numpy(), wanted.numpy(), rtol=1e-5)


def test_probabilities_near_0_do_not_vanish():
    task = ClassificationTask()
    given = paddle.to_tensor([[0.0, 200.0, -200.0]])
    logits = Views(["flip"], task)(lambda x: given, paddle.zeros([1, 3, 4, 4]))
    np.testing.assert_allclose(logits.numpy(), [[-200, 0, -400]])
    task.several = True
    logits = Views(["flip"], task)(lambda x: given, paddle.zeros([1, 3, 4, 4]))
    np.testing.assert_allclose(logits.numpy(), given.numpy(), atol=1e-6)


def test_evaluation_and_prediction_give_the_same_rows(small, invoke, tmp_path):
    out = tmp_path / "metrics.json"
    done = invoke("eval", "--weights", small.checkpoint, "--tta", "flip,crops", "--out", out)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "predictions.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    found = Predictor(small.checkpoint, tta=["flip", "crops"])([row["path"] for row in rows])
    assert [f"{p.probabilities[0]:.6f}" for p in found] == [row["probability"] for row in rows]
    plain = Predictor(small.checkpoint)([row["path"] for row in rows])
    assert [p.probabilities for p in plain] != [p.probabilities for p in found]
    path = rows[0]["path"]
    done = invoke("predict", "--weights", small.checkpoint, "--tta", "flip,crops", path)
    assert f"{100 * found[0].probabilities[0]:.2f} %" in done.stdout


@pytest.mark.parametrize(
    ("names", "words"), [("flop", "no view 'flop'"), ("flip,twist", "choose among flip, crops")]
)
def test_other_views_are_refused(small, invoke, names, words):
    for command in (["eval"], ["predict", small.val[0][0]]):
        done = invoke(*command, "--weights", small.checkpoint, "--tta", names)
        assert done.returncode == 2 and words in done.stderr


def test_texts_have_no_views(small_text, invoke):
    for command in (["eval"], ["predict", "--text", "a cat"]):
        done = invoke(*command, "--weights", small_text.checkpoint, "--tta", "flip")
        assert done.returncode == 2 and "of images, not of sentences" in done.stderr
