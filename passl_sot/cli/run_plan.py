"""`--data DIR`: a recipe fitted to the number of images, as overrides; what the user sets stays."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from passl_sot.config import value_at, zh
from passl_sot.utils.environment import launcher_number

LEAST_UPDATES = 300  # of a run
_LEAST_PER_EPOCH = 8  # updates, where images suffice
_SMALLEST = 8  # images per update
_SAMPLER = "dataloader.train.sampler"
_SCHEDULE = "lr_scheduler"
_RATES = ("learning_rate", "min_lr", "warmup_lr")
# Their step doesn't grow with the gradient: the rate follows the square root of the batch (Malladi et al.,
# "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022), and else the batch.
_ADAPTIVE = ("AdamW", "Lamb")
_Counter = Callable[[int], int]


class RunPlan:
    """Batch, accumulation, epochs, schedule and rate of a run on few images.

    A recipe keeps its batch and length where they give `LEAST_UPDATES`, and some in each epoch. Else an
    update has fewer images, at least `_SMALLEST`, and where that isn't enough the run has more epochs. All
    images are in each epoch, whatever their number.

    Args:
        tree: The unchecked config, with the user's overrides.
        told: Those.
        count: Counts the images to train on, up to a number.
        noun: What they are.

    Attributes:
        overrides: The changes.
        lines: They in words.
    """

    def __init__(self, tree: Mapping[str, Any], told: Sequence[str], count: _Counter, noun: str = "images"):
        self.overrides: list[str] = []
        self.lines: list[str] = []
        self._noun = noun
        self._told = [text.partition("=")[0].removeprefix("+").strip() for text in told]
        epochs = tree.get("epochs")
        batch = value_at(tree, f"{_SAMPLER}.batch_size")
        schedule = tree.get(_SCHEDULE)
        # Of what is faulty the check of the whole config will tell.
        if not (_is_count(epochs) and _is_count(batch) and isinstance(schedule, Mapping)):
            return
        processes = launcher_number("PADDLE_TRAINERS_NUM", 1)
        recipe = batch * processes  # images per update
        reference = schedule.get("reference_batch") or recipe
        warmup = schedule.get("warmup_epochs", 0)
        if not (_is_count(reference) and isinstance(warmup, int | float)):
            return
        if schedule.get("batch_rule", "accumulate") == "accumulate":
            recipe *= max(1, round(reference / recipe))
        own_length = self._is_told("epochs")
        wanted = _LEAST_PER_EPOCH
        if not own_length:
            wanted = max(wanted, math.ceil(LEAST_UPDATES / epochs))
        enough = (wanted - 1) * recipe + 1
        images = count(enough)
        if not self._is_told(f"{_SAMPLER}.batch_size") or batch * processes <= images:
            self._set(f"{_SAMPLER}.drop_last", "false")
        if images >= enough:
            before = len(self.overrides)
            self._fit_schedule(schedule, epochs, epochs)
            if len(self.overrides) > before:
                self.lines.append(f"plan: the schedule fits the run's {epochs} epochs" + zh("plan_epochs"))
            return
        update = self._choose_update(images, recipe, batch * processes, processes, wanted)
        per_epoch = math.ceil(images / update)
        length = epochs
        if not own_length:
            length = max(epochs, math.ceil(LEAST_UPDATES / per_epoch))
        self._set(f"{_SAMPLER}.batch_size", str(max(1, min(batch, update // processes))))
        if value_at(tree, f"{_SAMPLER}.repeats") not in (None, 1):
            self._set(f"{_SAMPLER}.repeats", "1")  # copies of an image would fill a small batch
        self._set("epochs", str(length))
        self.lines.append(
            f"plan: {update} {noun} per update (recipe: {recipe}), {per_epoch} updates an epoch"
            + f", none of the {images} {noun} left out" * (not self._is_told(f"{_SAMPLER}.drop_last"))
            + zh("plan_batch")
        )
        warmup = self._fit_schedule(schedule, epochs, length)
        total = length * per_epoch
        source = "as you set" if own_length else f"recipe: {epochs}"
        line = f"plan: {length} epochs ({source}), {warmup:g} of them warm-up, {total} updates"
        # An average of so few updates still holds what the first ones knew.
        if value_at(tree, "checkpoint.best_by") == "ema" and self._set("checkpoint.best_by", "raw"):
            line += "; best by the raw weights, not their average"
        self.lines.append(line + zh("plan_epochs"))
        self._fit_rates(schedule, update, reference, value_at(tree, "optimizer.name"))

    def _choose_update(self, images: int, recipe: int, step: int, processes: int, wanted: int) -> int:
        """Images per update: the recipe's, halved until an epoch has as many updates as `wanted`.

        A multiple of `step`, the images of all processes' batches, or of `processes` where it is less.
        """
        if self._is_told(f"{_SCHEDULE}.reference_batch") or self._is_told(f"{_SCHEDULE}.batch_rule"):
            return recipe
        least = max(processes, min(_SMALLEST, images, recipe))
        if self._is_told(f"{_SAMPLER}.batch_size"):
            least = step
        update = recipe
        while update > least and math.ceil(images / update) < wanted:
            update = max(least, update // 2)
        if update <= step:
            step = processes
        return update // step * step

    def _fit_schedule(self, schedule: Mapping[str, Any], epochs: int, length: int) -> float:
        """Fits warm-up, steps and fall to a run of `length` epochs; the epochs of warm-up."""
        warmup = schedule.get("warmup_epochs", 0)
        fall = schedule.get("T_max")
        if _is_count(fall) and (fall > length or length != epochs):
            self._set(f"{_SCHEDULE}.T_max", "null")
        if length != epochs:
            step = schedule.get("step_size")
            if isinstance(step, int | float):
                self._set(f"{_SCHEDULE}.step_size", str(step * length / epochs))
            marks = schedule.get("milestones")
            if isinstance(marks, list) and all(isinstance(mark, int | float) for mark in marks):
                self._set(f"{_SCHEDULE}.milestones", str([mark * length / epochs for mark in marks]))
        if length == epochs and warmup <= length / 5:
            return warmup
        if not self._set(f"{_SCHEDULE}.warmup_epochs", f"{length / 10:g}"):
            return warmup
        # Of an epoch a part may be warm-up, at rates by update.
        if schedule.get("unit") != "step" and not self._is_told(f"{_SCHEDULE}.lag"):
            self._set(f"{_SCHEDULE}.unit", "step")
            self._set(f"{_SCHEDULE}.lag", "0")
        return length / 10

    def _fit_rates(self, schedule: Mapping[str, Any], update: int, reference: int, optimizer: Any) -> None:
        """Scales all rates of the schedule by the images of an update."""
        # With a reference of the user's own the run scales the rate as the config says.
        if not self._set(f"{_SCHEDULE}.reference_batch", str(update)):
            return
        if self._is_told(f"{_SCHEDULE}.learning_rate") or update == reference:
            return
        if not all(isinstance(schedule.get(key, 0), int | float) for key in _RATES):
            return
        factor = update / reference
        rule = "in proportion to the batch"
        if optimizer in _ADAPTIVE:
            factor = math.sqrt(factor)
            rule = "by the square root of the batch"
        for key in _RATES:
            if key in schedule:
                self._set(f"{_SCHEDULE}.{key}", f"{schedule[key] * factor:.3e}")
        self.lines.append(
            f"plan: learning rate {schedule['learning_rate'] * factor:.3g} (recipe: "
            f"{schedule['learning_rate']:g} for {reference} {self._noun} per update), {rule}"
            + zh("plan_rate")
        )

    def _is_told(self, path: str) -> bool:
        """Whether the user sets a value, or a section around it."""
        return any(f"{path}.".startswith(f"{told}.") for told in self._told)

    def _set(self, path: str, value: str) -> bool:
        """Changes a setting, if the user doesn't."""
        if self._is_told(path):
            return False
        self.overrides.append(f"{path}={value}")
        return True


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
