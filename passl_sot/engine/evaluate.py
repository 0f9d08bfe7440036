"""Evaluation that counts every item exactly once, at any number of processes."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import paddle

from passl_sot.engine.build import Parts
from passl_sot.engine.distributed import World
from passl_sot.optim.ema import ModelEMA
from passl_sot.tasks.base import Meter, Task


class EvaluationStopped(Exception):  # no error: it was asked for
    """The processes were told to stop and have left an evaluation before its end."""


@paddle.no_grad()
def evaluate(
    model: paddle.nn.Layer,
    loader,
    task: Task,
    world: World,
    *,
    description: str = "eval",
    rows: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Meter:
    """Runs `model` over `loader` and adds the counts of all processes.

    Args:
        model: Left in the training mode it came in.
        loader: Gives each process its own part of the items, without repeats.
        task: Says how outputs are measured.
        world: The processes.
        description: Title of the progress bar.
        rows: Keep each item's result in the meter.
        stop: Whether this process was told to stop. All then stop after their current batch.

    Raises:
        EvaluationStopped: `stop` said so on one of the processes.
        RuntimeError: The items counted are not the items of the dataset.
    """
    meter = task.meter(model, loader.dataset, rows=rows)
    training = model.training
    stopped = False
    model.eval()
    for batch in world.bar(iterable=loader, desc=description):
        stopped = stop is not None and world.any_rank(stop())
        if stopped:
            break
        task.measure(model, batch, meter)
    if training:  # not always: a run may train in evaluation mode
        model.train()
    # Some may have read their last batch when others were told.
    if stop is not None and world.sum(np.array([stopped], np.int64))[0]:
        raise EvaluationStopped("the evaluation was stopped before its end")
    meter.gather(world.sum)
    # Repeated or lost items would shift every score without a sign.
    if meter.items != len(loader.dataset):
        raise RuntimeError(f"evaluated {meter.items} {task.words.items} of {len(loader.dataset)}")
    return meter


def evaluate_kinds(
    parts: Parts, ema: ModelEMA | None, world: World, *, stop: Callable[[], bool]
) -> dict[str, dict[str, float]]:
    """Evaluates the raw and, if kept, the averaged weights on the validation split.

    Args:
        parts: The run's parts.
        ema: The average.
        world: The processes.
        stop: As of `evaluate`.

    Returns:
        The meter's results under "raw" and "ema".

    Raises:
        EvaluationStopped: As of `evaluate`.
    """
    found = {}
    weights: dict[str, Any] = {"raw": nullcontext()}
    if ema:
        weights["ema"] = ema.applied()
    for kind, applied in weights.items():
        with applied:
            # BatchNorm's statistics are each process's own, and all must evaluate one model.
            world.broadcast_statistics(parts.model)
            with parts.precision.autocast():
                meter = evaluate(
                    parts.model, parts.val_loader, parts.task, world, description=f"eval {kind}", stop=stop
                )
        found[kind] = meter.result()
    return found
