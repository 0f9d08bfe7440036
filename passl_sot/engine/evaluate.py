"""Evaluation that counts every item exactly once, at any number of processes."""

import numpy as np
import paddle

from passl_sot.engine.distributed import World
from passl_sot.engine.train_state import StopRequest
from passl_sot.tasks.base import Meter, Task


@paddle.no_grad()
def evaluate(
    model: paddle.nn.Layer,
    loader,
    task: Task,
    world: World,
    *,
    description: str = "eval",
    rows: bool = False,
    stop: StopRequest | None = None,
) -> Meter | None:
    """Runs `model` over `loader` and adds the counts of all processes.

    Args:
        model: Left in the training mode it came in.
        loader: Gives each process its own part of the items, without repeats.
        rows: Keep each item's result in the meter.
        stop: After a request to one of the processes, all stop after their current batch; there is no result.

    Raises:
        RuntimeError: The items counted are not the items of the dataset.
    """
    # BatchNorm's statistics are each process's own, and all must evaluate one model.
    world.broadcast_statistics(model)
    meter = task.meter(model, loader.dataset, rows=rows)
    training = model.training
    stopped = False
    model.eval()
    with world.bar(iterable=loader, desc=description) as batches:
        for batch in batches:
            stopped = stop is not None and world.any_rank(bool(stop.signal))
            if stopped:
                break
            task.measure(model, batch, meter)
    if training:  # not always: a run may train in evaluation mode
        model.train()
    # Some may have read their last batch when others were told.
    if stop is not None and world.sum(np.array([stopped], np.int64))[0]:
        return None
    meter.gather(world.sum)
    # Repeated or lost items would shift every score without a sign.
    if meter.items != len(loader.dataset):
        raise RuntimeError(f"evaluated {meter.items} {task.words.items} of {len(loader.dataset)}")
    return meter
