"""Learning-rate schedules as pure functions of the time in epochs: nothing to save, nothing to restore."""

import math
from dataclasses import dataclass
from typing import Literal

from passl_sot.optim import SCHEDULERS
from passl_sot.utils.ranges import Count, NonNegative, Positive


@SCHEDULERS.register()
class CosineSchedule:
    """Cosine decay with linear warm-up, with timm's semantics.

    For t epochs, warm-up W, cosine length T: `t < W` gives `warmup_lr + t (lr - warmup_lr) / W`;
    `W <= t < T` gives `min_lr + (lr - min_lr)(1 + cos(pi t / T)) / 2`, so the warm-up lies inside the T
    epochs; later epochs (the cool-down) run at `min_lr`.

    Args:
        learning_rate: Peak rate, for `reference_batch` images per update.
        T_max: Length T of the cosine in epochs; null takes the run's `epochs`.
        warmup_epochs: W.
        warmup_lr: Rate at t = 0.
        min_lr: Final rate.
        unit: "epoch" changes the rate between epochs only; "step" at every update.
        reference_batch: Images per update that the recipe was tuned for; null takes what the run has.
        batch_rule: How another batch is brought to it: "accumulate" gradients (what is left over scales
            the rate), or "scale_lr" linearly.
    """

    def __init__(
        self,
        *,
        learning_rate: Positive,
        T_max: Count | None = None,
        warmup_epochs: NonNegative = 0,
        warmup_lr: NonNegative = 1e-6,
        min_lr: NonNegative = 1e-5,
        unit: Literal["epoch", "step"] = "epoch",
        reference_batch: Count | None = None,
        batch_rule: Literal["accumulate", "scale_lr"] = "accumulate",
    ):
        if learning_rate <= 0:
            raise ValueError(f"lr_scheduler.learning_rate is {learning_rate}; it must be above 0")
        if reference_batch is not None and reference_batch < 1:
            raise ValueError(f"lr_scheduler.reference_batch is {reference_batch}; it must be at least 1")
        if T_max is not None and T_max < 1:
            raise ValueError(f"lr_scheduler.T_max is {T_max}; it must be at least 1 epoch")
        self.learning_rate = learning_rate
        self.T_max = T_max
        self.warmup_epochs = warmup_epochs
        self.warmup_lr = warmup_lr
        self.min_lr = min_lr
        self.unit = unit
        self.reference_batch = reference_batch
        self.batch_rule = batch_rule

    def lr(self, epoch: int, fraction: float, epochs: int) -> float:
        """The rate at `epoch + fraction` of a run of `epochs` epochs (before any scaling for the batch)."""
        t = epoch + fraction if self.unit == "step" else epoch
        length = self.T_max or epochs
        if t < self.warmup_epochs:
            return self.warmup_lr + t * (self.learning_rate - self.warmup_lr) / self.warmup_epochs
        if t >= length:
            return self.min_lr
        return self.min_lr + 0.5 * (self.learning_rate - self.min_lr) * (1 + math.cos(math.pi * t / length))


@dataclass(frozen=True)
class BatchPlan:
    """How a run's batch is brought to the recipe's.

    Attributes:
        accumulate: Batches per update and device.
        effective: Images per update over all devices.
        lr_factor: What every rate of the schedule is multiplied by.
    """

    accumulate: int
    effective: int
    lr_factor: float


def plan_batch(schedule: CosineSchedule, batch_size: int, world_size: int, num_batches: int) -> BatchPlan:
    """Accumulates towards, or scales the rate for, `schedule.reference_batch`.

    An epoch shorter than the accumulation limits it: a small folder still gets one update an epoch, at a
    rate scaled to the images it really has.

    Args:
        schedule: Says the reference batch and the rule.
        batch_size: Images per device and batch.
        world_size: Number of devices (processes).
        num_batches: Batches per epoch and device.
    """
    per_step = batch_size * world_size
    reference = schedule.reference_batch or per_step
    accumulate = 1
    if schedule.batch_rule == "accumulate":
        accumulate = max(1, min(round(reference / per_step), num_batches))
    effective = per_step * accumulate
    return BatchPlan(accumulate, effective, effective / reference)
