"""Where a training run stands, and how fast it goes."""

import random
import time
from dataclasses import dataclass

import numpy as np
import paddle


@dataclass
class Progress:
    """Where a run stands; saved and restored as it is.

    Attributes:
        epoch: The epoch being trained (finished epochs before it).
        batches: Batches of that epoch already used by each process.
        step: Updates since the beginning.
        best: Best top-1 (%) so far, by the weights that `checkpoint.best_by` names.
        skipped: Updates left out because of a non-finite loss or gradient.
        skipped_in_a_row: Those since the last good update.
        pending_evaluation: The epoch just finished is saved but not evaluated yet.
        best_step: `step` when `best` was reached.
        loss_scale: What float16 multiplies the loss by; 0 before its first update.
        scaled_updates: Updates since that changed.
    """

    epoch: int = 0
    batches: int = 0
    step: int = 0
    best: float = -1.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    pending_evaluation: bool = False
    best_step: int = -1
    loss_scale: float = 0.0
    scaled_updates: int = 0


class Speed:
    """Images per second and the share of the time spent waiting for data, since the last reading."""

    def __init__(self, loader):
        self.loader = loader
        self.images = 0
        self.began = time.perf_counter()
        self.waited = loader.wait_seconds

    def add(self, images: int) -> None:
        """Counts images that were trained on."""
        self.images += images

    def read(self) -> tuple[float, float]:
        """Images per second, and the share of the time that was waiting; begins anew."""
        now = time.perf_counter()
        seconds = max(now - self.began, 1e-9)
        result = self.images / seconds, min(1.0, (self.loader.wait_seconds - self.waited) / seconds)
        self.images, self.began, self.waited = 0, now, self.loader.wait_seconds
        return result


def seed_all(*numbers: int) -> None:
    """Seeds the generators of Paddle, NumPy and Python, all that a model or a loss may draw from."""
    seed = numbers[0] if len(numbers) == 1 else mix_seed(*numbers)
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
