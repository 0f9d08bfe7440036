"""Speed of a model on this machine, beside another program's in the same run.

Machines differ and are shared, so a figure alone says little: the ratio to a `Peer` is what to compare.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import paddle

from passl_sot.engine.run_dir import memory_gb
from passl_sot.engine.schema import Experiment
from passl_sot.engines.base import inputs_of
from passl_sot.engines.process import random_inputs
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.stats import model_stats
from passl_sot.optim import build_optimizer
from passl_sot.tasks.base import Task, build_task
from passl_sot.utils.peer import Peer


def make_step(
    experiment: Experiment, task: Task, mode: str, batch: int
) -> tuple[Callable[[], object], float]:
    """A function that runs one batch of random inputs in a mode of `measure`, and the GFLOPs of one."""
    model = experiment.model.build()
    gflops = 2 * model_stats(model).macs / 1e9
    specs = inputs_of(model.backbone.input_specs(batch))
    return step_of(experiment, task, model, random_inputs(specs, batch), mode), gflops


def step_of(
    experiment: Experiment, task: Task, model: Classifier, arrays: Sequence[np.ndarray], mode: str
) -> Callable[[], object]:
    """A function that runs one batch of given inputs of the model in a mode of `measure`."""
    inputs = [paddle.to_tensor(array) for array in arrays]
    if mode == "infer":
        model.eval()

        @paddle.no_grad()
        def infer() -> object:
            return model(*inputs).numpy()  # waits for the device

        return infer
    labels = paddle.zeros([len(arrays[0])], "int64")
    if getattr(task, "regression", False):
        labels = paddle.zeros([len(arrays[0]), 1])
    optimizer = build_optimizer(experiment.optimizer)(model)
    model.train()

    def train() -> object:
        # The model's own speed: without a teacher, even where the recipe has one.
        loss = task.loss(model(*inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)

    return train


def measure(
    experiment: Experiment, *, mode: str, batch: int, repeats: int = 10, compare: str | None = None
) -> dict[str, Any]:
    """Times `repeats` batches after two that warm up, alternating with the other program if there is one.

    Texts have 128 tokens, or as many as the model takes, and no padding.

    Args:
        mode: "infer" (forward) or "train" (forward, backward, update).
        compare: Command of a `Peer`.

    Returns:
        mode, batch; images_per_s (of images); median seconds of a batch; spread, the interquartile range over
        the median; memory_gb, the peak of this process; gflops, thousand millions of operations of one item's
        forward pass; gflops_per_s, training counted as three passes; peer_seconds, the median of the other
        program, and ratio, that over ours, or None.

    Raises:
        PeerError: The other program failed.
    """
    task = build_task(experiment.task, experiment.loss, trial=True)
    step, gflops = make_step(experiment, task, mode, batch)
    own = []
    others = []
    with Peer(compare) if compare else nullcontext() as peer:
        for _ in range(repeats + 2):
            began = time.perf_counter()
            step()
            own.append(time.perf_counter() - began)
            if peer:
                others.append(peer.run())
    median = statistics.median(own[2:])
    # One batch alone has no spread.
    quarters = statistics.quantiles(own[2:], n=4) if repeats > 1 else [median] * 3
    peer_seconds = statistics.median(others[2:]) if others else None
    passes = {"infer": 1, "train": 3}[mode]
    return {
        "mode": mode,
        "batch": batch,
        f"{task.words.items}_per_s": batch / median,
        "seconds": median,
        "spread": (quarters[2] - quarters[0]) / median,
        "memory_gb": memory_gb(),
        "gflops": gflops,
        "gflops_per_s": passes * gflops * batch / median,
        "peer_seconds": peer_seconds,
        "ratio": peer_seconds and peer_seconds / median,
    }
