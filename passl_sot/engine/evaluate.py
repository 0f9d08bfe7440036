"""Evaluation that counts every item exactly once, at any number of processes."""

from collections.abc import Callable

import numpy as np
import paddle

from passl_sot.engine.distributed import World
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
    if training:
        model.train()
    # Some may have read their last batch when others were told.
    if stop is not None and world.sum(np.array([stopped], np.int64))[0]:
        raise EvaluationStopped("the evaluation was stopped before its end")
    meter.gather(world.sum)
    if meter.items != len(loader.dataset):
        raise RuntimeError(f"evaluated {meter.items} {task.words.items} of {len(loader.dataset)}")
    return meter
