"""A run that learns nothing says so once, with the likely causes."""

import shutil

import pytest

from passl_sot import cli
from passl_sot.engine.learning_check import LearningCheck
from passl_sot.optim.schedules import ConstantSchedule
from passl_sot.tasks.base import Task


class Guessing(Task):
    """A task whose score guessing may bring to 40."""

    def guess(self, val):
        return val


def word_after(losses, score, guess=40.0, *, fresh=True, warmup=0.0, updates=400):
    schedule = ConstantSchedule(learning_rate=1.0, warmup_epochs=warmup)
    check = LearningCheck(Guessing(), schedule, updates, fresh)
    for loss in losses:
        check.take(loss)
    results = {"raw": {"score": score}, "ema": {"score": 30.0}}
    words = [check.word(2, results, guess) for _ in range(2)]
    assert words[1] == ""  # once
    return words[0]


FALLING = [2.0 - i / 200 for i in range(200)]
FLAT = [1.1 + 0.02 * (i % 3) for i in range(200)]


def test_what_is_said():
    said = word_after(FALLING, 33.3)
    assert "the loss fell from 1.9" in said and "score is no better than guessing (up to 40.0)" in said
    said = word_after(FLAT, 33.3)
    assert "the loss does not fall (1.119 to 1.119 in 200 updates)" in said and "learning rate" in said
    assert "the loss does not fall" in word_after(FLAT, 90.0, None)  # nothing is known of guessing


@pytest.mark.parametrize(
    "case",
    [
        {"losses": FALLING, "score": 80.0},
        {"losses": FLAT, "score": 80.0},  # good from the beginning
        {"losses": FALLING, "score": 33.0, "guess": None},
        {"losses": FLAT, "score": 33.0, "guess": None, "fresh": False},  # it may have fallen before
        {"losses": FLAT, "score": 33.0, "warmup": 3.0},
        {"losses": FLAT[:100], "score": 33.0},  # of 400 updates
    ],
)
def test_what_is_not_said(case):
    assert word_after(**case) == ""


SMALL = ("log.interval=100", "ema=null", "checkpoint.best_by=raw", "lr_scheduler.unit=step")


def test_labels_that_do_not_belong_to_the_images(experiment, tmp_path, capfd):
    """The validation's classes have each other's images: the loss falls, and nothing is right."""
    val = tmp_path / "val"
    names = sorted(path.name for path in val.iterdir())
    for name in names:
        (val / name).rename(tmp_path / name)
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        shutil.move(tmp_path / name, val / other)
    more = ["epochs=20", "lr_scheduler.learning_rate=3e-3"]
    assert cli.train(["-c", str(experiment), "-o", *SMALL, *more]) == 0
    said = capfd.readouterr().out
    assert said.count("top-1 is no better than guessing (up to 49.0 %)") == 1
    assert "the classes of the two splits differ in more than their names" in said


def test_a_rate_that_moves_nothing(experiment, capfd):
    more = ["epochs=20", "eval_interval=5", "lr_scheduler.learning_rate=1e-9", "lr_scheduler.min_lr=0"]
    assert cli.train(["-c", str(experiment), "-o", *SMALL, *more]) == 0
    said = capfd.readouterr().out
    assert said.count("the loss does not fall (") == 1
    assert "likely the learning rate is far too low or too high" in said
