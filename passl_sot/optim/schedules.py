"""Learning-rate schedules as pure functions of the time in epochs: nothing to save, nothing to restore."""

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from passl_sot.config import Count, Natural, NonNegative, NotEmpty, Positive, Range
from passl_sot.optim import SCHEDULERS

# Factor of the rate at a step.
_Gamma = Annotated[float, Range(above=0, max=1)]


@dataclass(kw_only=True)
class Schedule:
    """A peak rate, a linear warm-up to it, and rules for another batch, which all schedules share.

    At t epochs, with a warm-up of W: `warmup_lr + t (lr - warmup_lr) / W` for t < W, then the schedule. The
    warm-up lies inside of it, as in timm: at t = W it stands where it would without one. With
    `warmup_prefix` the schedule begins where the warm-up ends: t - W takes the place of t.

    Attributes:
        learning_rate: Peak rate, for `reference_batch` images per update.
        warmup_epochs: W.
        warmup_lr: Rate at t = 0, where W is above 0; at most `learning_rate` then, or else a ValueError.
        warmup_prefix: Whether the schedule follows the warm-up (Swin's present code) or contains it (timm's
            default, all others).
        unit: "epoch" changes the rate between epochs only; "step" at every update.
        lag: Epochs, with unit "step" updates, by which the rate is late: epoch e runs at the rate of
            t = e - lag, and the first ones at that of t = 0.
        reference_batch: Images per update that the recipe was tuned for; null takes the run's.
        batch_rule: How another batch is brought to it: "accumulate" gradients (the rest scales the rate), or
            "scale_lr" linearly.
        scaled: Rates that such a factor multiplies: "all" (Swin), or the "peak" alone, with `warmup_lr` and
            `min_lr` as they are (DeiT, PiT, STViT).
    """

    learning_rate: Annotated[float, Range(min=1e-12, max=1000)]
    warmup_epochs: NonNegative = 0
    warmup_lr: NonNegative = 1e-6
    warmup_prefix: bool = False
    unit: Literal["epoch", "step"] = "epoch"
    lag: Natural = 0
    reference_batch: Count | None = None
    batch_rule: Literal["accumulate", "scale_lr"] = "accumulate"
    scaled: Literal["all", "peak"] = "all"

    def __post_init__(self) -> None:
        if self.warmup_epochs and self.warmup_lr > self.learning_rate:
            raise ValueError(
                f"lr_scheduler.warmup_lr is {self.warmup_lr:g}, above learning_rate, {self.learning_rate:g}, "
                "so the rate would fall in the warm-up: lower warmup_lr as well"
            )

    def point(self, epoch: int, update: int, updates: int) -> tuple[int, float]:
        """Epoch and done fraction of it, for `lr`, of an update (from 0) of an epoch of so many.

        With unit "step" the lag counts here, where the number of updates is known.
        """
        if self.unit == "step":
            # Swin's script sets update u's rate after that update, a lag of 1.
            epoch, update = divmod(max(epoch * updates + update - self.lag, 0), updates)
        return epoch, update / updates

    def lr(self, epoch: int, fraction: float, epochs: int, factor: float = 1.0, peak: float = 1.0) -> float:
        """The rate at a point of the run.

        Args:
            epoch: The epoch, counted from 0.
            fraction: How much of it is done, in [0, 1); see `point`.
            epochs: Of the whole run.
            factor: Scale of the rates by the batch; see `scaled`.
            peak: Scale of the peak alone, for a group of parameters.
        """
        others = factor if self.scaled == "all" else 1.0
        top = self.learning_rate * factor * peak
        start = self.warmup_lr * others
        # DeiT's script, which PiT and STViT share, sets epoch e's rate after that epoch, a lag of 1: epochs
        # 0 and 1 both run at `warmup_lr`.
        t: float = max(epoch - self.lag, 0)
        if self.unit == "step":
            t = epoch + fraction
        if t < self.warmup_epochs:
            return start + t * (top - start) / self.warmup_epochs
        before = self.warmup_epochs * self.warmup_prefix  # 0 in timm's way
        return self._after(t - before, epochs - before, top, others)

    def _after(self, t: float, epochs: float, peak: float, others: float) -> float:
        """The rate t of `epochs` epochs after the schedule began; `others` scales all rates but the peak."""
        raise NotImplementedError


@SCHEDULERS.register()
@dataclass(kw_only=True)
class ConstantSchedule(Schedule):
    """The peak rate throughout, after the warm-up."""

    def _after(self, t: float, epochs: float, peak: float, others: float) -> float:
        return peak


@SCHEDULERS.register()
@dataclass(kw_only=True)
class StepSchedule(Schedule):
    """Every `step_size` epochs the rate is multiplied by `gamma`."""

    step_size: Positive
    gamma: _Gamma = 0.1

    def _after(self, t: float, epochs: float, peak: float, others: float) -> float:
        return peak * self.gamma ** math.floor(t / self.step_size)


@SCHEDULERS.register()
@dataclass(kw_only=True)
class MultiStepSchedule(Schedule):
    """At each of the `milestones` the rate is multiplied by `gamma`.

    They ascend, or else a ValueError; the epoch of that number (from 0) is the first at the lower rate.
    """

    milestones: Annotated[list[Positive], NotEmpty()]
    gamma: _Gamma = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(a >= b for a, b in pairwise(self.milestones)):
            raise ValueError(f"lr_scheduler.milestones must ascend, got {self.milestones}")

    def _after(self, t: float, epochs: float, peak: float, others: float) -> float:
        return peak * self.gamma ** bisect_right(self.milestones, t)


@dataclass(kw_only=True)
class FallingSchedule(Schedule):
    """A curve from the peak to `min_lr` over T epochs, and `min_lr` from there on (the cool-down).

    Attributes:
        min_lr: Final rate, at most `learning_rate`, or else a ValueError.
        T_max: T; null takes the run's `epochs` (less the warm-up with `warmup_prefix`).
    """

    min_lr: NonNegative = 1e-5
    T_max: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_lr > self.learning_rate:
            raise ValueError(
                f"lr_scheduler.min_lr is {self.min_lr:g}, above learning_rate, {self.learning_rate:g}, so "
                "the rate would rise: lower min_lr as well"
            )

    def _after(self, t: float, epochs: float, peak: float, others: float) -> float:
        end = self.min_lr * others
        length = self.T_max or epochs
        if t >= length:
            return end  # the cool-down
        return end + (peak - end) * self._left(t / length)

    def _left(self, done: float) -> float:
        """How much of the way down is left, 1 to 0, when a fraction `done` of T, in [0, 1), has passed."""
        raise NotImplementedError


@SCHEDULERS.register()
@dataclass(kw_only=True)
class CosineSchedule(FallingSchedule):
    """Half a cosine from the peak to `min_lr` (Loshchilov & Hutter, 2017), as timm has it."""

    def _left(self, done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * done))


@SCHEDULERS.register()
@dataclass(kw_only=True)
class LinearSchedule(FallingSchedule):
    """A straight line from the peak to `min_lr`."""

    def _left(self, done: float) -> float:
        return 1 - done


@SCHEDULERS.register()
@dataclass(kw_only=True)
class PolySchedule(FallingSchedule):
    """`(1 - t / T)` to a power, from the peak to `min_lr`; a `power` of 1 is `LinearSchedule`."""

    power: Positive = 0.9

    def _left(self, done: float) -> float:
        return (1 - done) ** self.power


@dataclass(frozen=True)
class BatchPlan:
    """How a run's batch is brought to the recipe's."""

    accumulate: int  # batches per update and device
    effective: int  # images per update over all devices
    lr_factor: float  # scale of the schedule's rates


def plan_batch(schedule: Schedule, batch_size: int, world_size: int, num_batches: int) -> BatchPlan:
    """Accumulates towards, or scales the rate for, `schedule.reference_batch`.

    `batch_size` is of one device's batch, and `num_batches` are one device's in an epoch.
    """
    per_step = batch_size * world_size
    reference = schedule.reference_batch or per_step
    accumulate = 1
    # An epoch may be shorter than that, of a small folder: it still gets one update.
    if schedule.batch_rule == "accumulate":
        accumulate = max(1, min(round(reference / per_step), num_batches))
    effective = per_step * accumulate
    return BatchPlan(accumulate, effective, effective / reference)
