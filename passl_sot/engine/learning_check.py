"""Notices a run that learns nothing: a loss that doesn't fall, or a score that guessing reaches."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from passl_sot.config import zh
from passl_sot.optim.schedules import Schedule
from passl_sot.tasks.base import Task

_WINDOW = 20  # updates whose mean loss is compared
_ENOUGH = 300  # updates after which a word is due, or half of a shorter run's
_FALLEN = 0.95  # of the first mean loss


class LearningCheck:
    """Losses since the process began to train, and one word on what they and the scores show.

    Args:
        schedule: During its warm-up nothing is said.
        updates: Of the whole run.
        fresh: Whether the run begins here, from new weights: otherwise its loss may have fallen before.
    """

    def __init__(self, task: Task, schedule: Schedule, updates: int, fresh: bool):
        self.task = task
        self.warm_after = schedule.warmup_epochs + schedule.lag
        self.enough = max(2 * _WINDOW, min(_ENOUGH, updates // 2))
        self.fresh = fresh
        self.first: list[float] = []
        self.last: deque[float] = deque(maxlen=_WINDOW)
        self.seen = 0
        self.said = False

    def take(self, loss: float) -> None:
        """The loss of an update; one that was skipped isn't finite."""
        if not math.isfinite(loss):
            return
        self.seen += 1
        self.last.append(loss)
        if len(self.first) < _WINDOW:
            self.first.append(loss)

    def word(self, epoch: int, results: Mapping[str, Mapping[str, float]], val: Any) -> str:
        """What is to be said after an evaluation; "" for nothing, and after the first word.

        Args:
            epoch: Epochs that are done.
            results: Of each kind of weights.
            val: The dataset evaluated.
        """
        if self.said or self.seen < self.enough or epoch <= self.warm_after:
            return ""
        words = self.task.words
        guess = self.task.guess(val)
        before = sum(self.first) / len(self.first)
        now = sum(self.last) / len(self.last)
        guessed = guess is not None and all(found[self.task.score] <= guess for found in results.values())
        fell = now <= _FALLEN * before if before > 0 else now < before
        losses = f"{before:.3f} to {now:.3f} in {self.seen} updates"
        text = ""
        if guessed and fell:
            text = (
                f"the loss fell from {losses}, but {words.score} is no better than guessing (up to "
                f"{guess:.1f}{words.unit}): {words.if_guessed}" + zh("score_of_guessing")
            )
        elif not fell and (guessed or (guess is None and self.fresh)):
            text = f"the loss does not fall ({losses}): {words.if_flat}" + zh("loss_does_not_fall")
        self.said = bool(text)
        return text
