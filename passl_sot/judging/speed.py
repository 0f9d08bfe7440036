"""How fast a model computes here: calls are timed as they happen, or made to be timed."""

import time
from typing import Any

import numpy as np
import paddle

from passl_sot.engine.distributed import World
from passl_sot.engine.run_dir import hardware

_BATCH = 8
_PASSES = 6  # the first of which doesn't count


class Stopwatch:
    """Times the calls of a model in a `with` block.

    Args:
        model: It takes a batch and gives one tensor, a row for each of its items.
    """

    def __init__(self, model: Any):
        self._model = model
        self._calls: list[tuple[int, float]] = []
        self._began = 0.0
        self._hooks: list[Any] = []

    def __enter__(self) -> "Stopwatch":
        self._hooks.append(self._model.register_forward_pre_hook(self._begin))
        self._hooks.append(self._model.register_forward_post_hook(self._end))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, model: Any, inputs: Any) -> None:
        self._began = time.perf_counter()

    def _end(self, model: Any, inputs: Any, outputs: paddle.Tensor) -> None:
        outputs.numpy()  # a GPU is waited for
        self._calls.append((len(outputs), time.perf_counter() - self._began))

    def rate(self, world: World) -> float:
        """Items per second of one process."""
        # The first call also prepares what later ones find; of a small set it is all there is.
        counted = self._calls[1:] or self._calls
        items, seconds = world.sum(np.array(counted, np.float64).reshape(-1, 2).sum(axis=0))
        return float(items / max(seconds, 1e-9))


@paddle.no_grad()
def throughput(model: paddle.nn.Layer, image: tuple[int, ...], world: World) -> float:
    """Images per second of one process, in batches of 8, reading not counted.

    Args:
        model: In evaluation mode; images [B, C, H, W] to a tensor.
        image: [C, H, W].
    """
    images = paddle.randn([_BATCH, *image])
    with Stopwatch(model) as watch:
        for _ in range(_PASSES):
            model(images)
    return watch.rate(world)


def machine() -> str:
    """What `throughput` was measured on, for people: processor or GPU, cores, threads."""
    found = hardware()
    words = [found["processor"]]
    for noun in ("core", "thread"):
        count = found[f"{noun}s"]
        words.append(f"{count} {noun}" + "s" * (count != 1))
    return found.get("gpu") or ", ".join(words)
