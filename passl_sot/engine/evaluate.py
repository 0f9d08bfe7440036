"""Evaluation that counts every image exactly once, at any number of processes."""

from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F

from passl_sot.engine.distributed import World
from passl_sot.metrics import ClassificationMeter, MultiLabelMeter
from passl_sot.nn.precision import at_least_float32


class EvaluationStopped(Exception):  # no error: what was asked for
    """The processes were told to stop and have left an evaluation before its end."""


@paddle.no_grad()
def evaluate(
    model: paddle.nn.Layer,
    loader,
    num_classes: int,
    world: World,
    *,
    description: str = "eval",
    on_batch: Callable[[np.ndarray, np.ndarray, np.ndarray], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> ClassificationMeter | MultiLabelMeter:
    """Runs `model` over `loader` and adds the counts of all processes.

    Args:
        model: Left in the training mode it came in.
        loader: Gives each process its share, without repeats.
        num_classes: Number of classes K.
        world: The processes.
        description: Title of the progress bar.
        on_batch: Called with (index [B], label [B] or [B, K], logits [B, K]) of each batch of this process.
        stop: Whether this process was told to stop. All then stop after their current batch.

    Raises:
        EvaluationStopped: `stop` said so on one of the processes.
        RuntimeError: The images counted are not the images of the dataset.
    """
    dataset = loader.dataset
    meter: ClassificationMeter | MultiLabelMeter = ClassificationMeter(num_classes)
    if dataset.multi_hot is not None:
        meter = MultiLabelMeter(num_classes, len(dataset))
    training, stopped = model.training, False
    model.eval()
    for batch in world.bar(iterable=loader, desc=description):
        stopped = stop is not None and world.any_rank(stop())
        if stopped:
            break
        logits = at_least_float32(model(batch["image"])).numpy()
        labels, index = batch["label"].numpy(), batch["index"].numpy()
        meter.take(index, logits, labels)
        if on_batch:
            on_batch(index, labels, logits)
    if training:
        model.train()
    # Some may have read their last batch when others were told.
    if stop is not None and world.sum(np.array([stopped], np.int64))[0]:
        raise EvaluationStopped("the evaluation was stopped before its end")
    meter.gather(world.sum)
    if meter.images != len(dataset):
        raise RuntimeError(f"evaluated {meter.images} images of {len(dataset)}")
    return meter


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [B, K] of logits [B, K]."""
    return F.softmax(paddle.to_tensor(logits), axis=-1).numpy()
