"""Evaluation that counts every image exactly once, at any number of processes."""

from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F

from passl_sot.engine.distributed import World
from passl_sot.metrics import ClassificationMeter
from passl_sot.nn.precision import at_least_float32


@paddle.no_grad()
def evaluate(
    model: paddle.nn.Layer,
    loader,
    num_classes: int,
    world: World,
    *,
    description: str = "eval",
    on_batch: Callable[[np.ndarray, np.ndarray, np.ndarray], None] | None = None,
) -> ClassificationMeter:
    """Runs `model` over `loader` and adds the counts of all processes.

    Args:
        model: Left in the training mode it came in.
        loader: Gives each process its share, without repeats.
        num_classes: Number of classes K.
        world: The processes.
        description: Title of the progress bar.
        on_batch: Called with (index [B], label [B], logits [B, K]) of each batch of this process.

    Raises:
        RuntimeError: The images counted are not the images of the dataset.
    """
    meter = ClassificationMeter(num_classes)
    training = model.training
    model.eval()
    for batch in world.bar(iterable=loader, desc=description):
        logits = at_least_float32(model(batch["image"])).numpy()
        labels, index = batch["label"].numpy(), batch["index"].numpy()
        meter.update(logits, labels)
        if on_batch:
            on_batch(index, labels, logits)
    if training:
        model.train()
    meter.confusion = world.sum(meter.confusion)
    meter.sums = world.sum(meter.sums)
    if int(meter.sums[0]) != len(loader.dataset):
        raise RuntimeError(f"evaluated {int(meter.sums[0])} images of {len(loader.dataset)}")
    return meter


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [B, K] of logits [B, K]."""
    return F.softmax(paddle.to_tensor(logits), axis=-1).numpy()
