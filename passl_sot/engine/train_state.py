"""The state of a training run: progress, seeds and requests to stop."""

import random
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle

from passl_sot.tasks.base import check_card
from passl_sot.weights.checkpoint import is_count, require, require_kind

TrainingMode = Literal["train", "eval", "frozen_batch_norm"]


@dataclass
class Progress:
    """The position of a run; saved as it is."""

    epoch: int = 0  # being trained, so this many are finished
    batches: int = 0  # of that epoch, already used by each process
    step: int = 0  # updates since the beginning
    best: float = -1.0  # score so far, by the weights that `checkpoint.best_by` names
    skipped: int = 0  # updates left out because of a non-finite loss or gradient
    skipped_in_a_row: int = 0
    pending_evaluation: bool = False  # the epoch just finished is saved but not evaluated yet
    best_step: int = -1
    loss_scale: float = 0.0  # in float16; 0 before its first update
    scaled_updates: int = 0  # since that changed

    @classmethod
    def restored(cls, path: str | Path, meta: Mapping[str, Any]) -> "Progress":
        """The position that a checkpoint's header tells; what other versions lack keeps its default.

        Raises:
            CheckpointError: A value is of another kind; names file and key.
        """
        values = {}
        for field in fields(cls):
            value = meta["progress"].get(field.name, field.default)
            kind = type(field.default)
            least = 0
            if kind is float and is_count(value):
                value = float(value)
            if kind is int:
                least = field.default  # where counts begin
            require_kind(path, f"progress.{field.name}", value, kind, least)
            values[field.name] = value
        return cls(**values)


def check_run_card(path: str | Path, meta: Mapping[str, Any]) -> None:
    """As `check_card`, and what a run takes from a checkpoint's header to go on.

    Raises:
        CheckpointError: A key is missing or holds something else; names file and key.
    """
    check_card(path, meta)
    position = ("progress.epoch", "progress.batches", "progress.step", "ema_updates")
    order = ("sampler.epoch", "sampler.consumed", "sampler.global_batch")
    require(path, meta, {"sampler": dict, **dict.fromkeys((*position, *order), int)})
    Progress.restored(path, meta)


class StopRequest:
    """Whether this process was told to stop; noted, and carried out where nothing is lost."""

    def __init__(self) -> None:
        self.signal = 0  # its number, once there was one

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes SIGINT and SIGTERM rather than ending at once; a second Ctrl-C raises KeyboardInterrupt."""

        def note(number: int, frame: object) -> None:
            # Paddle's launcher sends SIGTERM three times within a second: no sign of impatience.
            if self.signal == number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def seed_all(*numbers: int) -> None:
    """Seeds the generators of Paddle, NumPy and Python, all that a model or a loss may draw from."""
    # A single number is taken as it is, so that a model's start is that of `paddle.seed(seed)`.
    seed = mix_seed(*numbers) if len(numbers) > 1 else numbers[0]
    paddle.seed(seed)
    np.random.seed(seed)  # a user's code may draw from it
    random.seed(seed)


def mix_seed(*numbers: int) -> int:
    """One 31-bit seed out of several numbers, different for different tuples in practice (FNV-1a)."""
    value = 0x811C9DC5
    for number in numbers:
        for byte in number.to_bytes(8, "little", signed=True):
            value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value & 0x7FFFFFFF
