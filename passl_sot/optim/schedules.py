"""Learning-rate schedules as pure functions of the time in epochs: nothing to save, nothing to restore."""

import math
from dataclasses import dataclass
from typing import Literal

from passl_sot.optim import SCHEDULERS
from passl_sot.utils.ranges import Count, Natural, NonNegative, Positive


@SCHEDULERS.register()
class CosineSchedule:
    """Cosine decay with linear warm-up, with timm's semantics.

    For t epochs, warm-up W, cosine length T: `t < W` gives `warmup_lr + t (lr - warmup_lr) / W`;
    `W <= t < T` gives `min_lr + (lr - min_lr)(1 + cos(pi t / T)) / 2`, so the warm-up lies inside the T
    epochs; later epochs (the cool-down) run at `min_lr`. With `warmup_prefix` the cosine begins anew where
    the warm-up ends: t - W takes the place of t in the second formula.

    Args:
        learning_rate: Peak rate, for `reference_batch` images per update.
        T_max: Length T of the cosine in epochs; null takes the run's `epochs` (less W with `warmup_prefix`).
        warmup_epochs: W.
        warmup_lr: Rate at t = 0.
        warmup_prefix: Whether the cosine follows the warm-up (Swin's present code) or contains it (timm's
            default, all others).
        min_lr: Final rate.
        unit: "epoch" changes the rate between epochs only; "step" at every update.
        lag: Epochs by which the rate is late, with unit "epoch": epoch e runs at the rate of t = e - lag,
            and the first ones at that of t = 0. DeiT's training script, which PiT and STViT share, sets
            epoch e's rate after that epoch, a lag of 1: epochs 0 and 1 both run at `warmup_lr`.
        reference_batch: Images per update that the recipe was tuned for; null takes what the run has.
        batch_rule: How another batch is brought to it: "accumulate" gradients (what is left over scales
            the rate), or "scale_lr" linearly.
        scaled: What such a factor multiplies: "all" rates (Swin), or the "peak" alone, with `warmup_lr` and
            `min_lr` as they are (DeiT, PiT, STViT).

    Raises:
        ValueError: A lag with unit "step".
    """

    def __init__(
        self,
        *,
        learning_rate: Positive,
        T_max: Count | None = None,
        warmup_epochs: NonNegative = 0,
        warmup_lr: NonNegative = 1e-6,
        warmup_prefix: bool = False,
        min_lr: NonNegative = 1e-5,
        unit: Literal["epoch", "step"] = "epoch",
        lag: Natural = 0,
        reference_batch: Count | None = None,
        batch_rule: Literal["accumulate", "scale_lr"] = "accumulate",
        scaled: Literal["all", "peak"] = "all",
    ):
        if learning_rate <= 0:
            raise ValueError(f"lr_scheduler.learning_rate is {learning_rate}; it must be above 0")
        if reference_batch is not None and reference_batch < 1:
            raise ValueError(f"lr_scheduler.reference_batch is {reference_batch}; it must be at least 1")
        if T_max is not None and T_max < 1:
            raise ValueError(f"lr_scheduler.T_max is {T_max}; it must be at least 1 epoch")
        if lag and unit == "step":
            raise ValueError(f"lr_scheduler.lag is {lag}, and it counts epochs: with unit: step write lag: 0")
        self.learning_rate = learning_rate
        self.T_max = T_max
        self.warmup_epochs = warmup_epochs
        self.warmup_lr = warmup_lr
        self.warmup_prefix = warmup_prefix
        self.min_lr = min_lr
        self.unit = unit
        self.lag = lag
        self.reference_batch = reference_batch
        self.batch_rule = batch_rule
        self.scaled = scaled

    def lr(self, epoch: int, fraction: float, epochs: int, factor: float = 1.0) -> float:
        """The rate at a point of the run.

        Args:
            epoch: The epoch, counted from 0.
            fraction: How much of it is done, in [0, 1).
            epochs: Epochs of the whole run.
            factor: What the batch scales the rate by; see `scaled`.
        """
        others = factor if self.scaled == "all" else 1.0
        peak, start, end = self.learning_rate * factor, self.warmup_lr * others, self.min_lr * others
        t = epoch + fraction if self.unit == "step" else max(epoch - self.lag, 0)
        if t < self.warmup_epochs:
            return start + t * (peak - start) / self.warmup_epochs
        before = self.warmup_epochs if self.warmup_prefix else 0
        length = self.T_max or epochs - before
        if t - before >= length:
            return end
        return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * (t - before) / length))


@dataclass(frozen=True)
class BatchPlan:
    """How a run's batch is brought to the recipe's.

    Attributes:
        accumulate: Batches per update and device.
        effective: Images per update over all devices.
        lr_factor: What the batch scales the schedule's rates by.
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
