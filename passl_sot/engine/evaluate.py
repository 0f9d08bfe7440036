"""Evaluation that counts every item exactly once, at any number of processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from passl_sot.data import build_dataloader
from passl_sot.engine.distributed import World
from passl_sot.engine.schema import Experiment
from passl_sot.engine.train_state import StopRequest
from passl_sot.modeling.classifier import Classifier
from passl_sot.tasks.base import Meter, Task, build_task
from passl_sot.tasks.views import ViewedModel, Views


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


class Evaluation:
    """A model on the validation split of a config, for one set of weights after the other.

    Args:
        experiment: It brings the data.
        model: It may have any weights yet.
        card: Of a checkpoint, whose preprocessing and class names count; {} for the config's.
        tta: Views of `tasks.views`, whose mean probabilities are scored.

    Attributes:
        model: The one given.
        asked: What answers: the model, or with `tta` the mean of its views.
        task: What the run means.
        val: The dataset.

    Raises:
        CheckpointError: Model and data don't fit each other.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: Classifier,
        card: Mapping[str, Any],
        world: World,
        *,
        tta: Sequence[str] = (),
    ):
        self.model = model
        self.task = build_task(experiment.task, experiment.loss)
        split = experiment.dataloader.val
        self.val = self.task.prepare_evaluation(model, split.dataset, card)
        place = {"rank": world.rank, "world_size": world.size}
        self._loader = build_dataloader(split, mode="val", seed=0, dataset=self.val, **place)
        self.asked: Any = ViewedModel(model, Views(tta, self.task)) if tta else model
        self._world = world

    def run(self, description: str) -> Meter:
        """The meter, with rows, of the model as it is now; `description` is shown beside the bar."""
        asked = (self.asked, self._loader, self.task, self._world)
        return evaluate(*asked, description=description, rows=True)  # type: ignore[return-value]
