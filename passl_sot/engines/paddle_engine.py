"""Paddle itself: of a model in memory, or of an exported graph."""

import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.base import core

from passl_sot.engines.base import FILES, STEM, Engine, Precision, inputs_of
from passl_sot.engines.program import read_program

# Of graphs: nothing is cleared while one computes. The thread that computes may be the one that clears.
_GRAPHS = threading.RLock()


def make(folder: Path, precision: Precision, threads: int, batch: int | None) -> Engine:
    """See `open_engine`."""
    read_program(folder / FILES["paddle"][0])
    layer = paddle.jit.load(str(folder / STEM))
    layer.eval()
    core.set_num_threads(threads)
    run = _runner(layer)

    def compute(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        with _GRAPHS:
            return run(inputs)

    engine = Engine("paddle", compute, inputs_of(layer._input_spec()))
    # Paddle keeps what it made to run a graph, weights too, when nobody has the graph any longer.
    weakref.finalize(engine, _clear).atexit = False
    return engine


def _clear() -> None:
    with _GRAPHS:
        core.clear_executor_cache()


def eager(model: nn.Layer, threads: int | None = None) -> Engine:
    """A model in evaluation mode as it is; `threads` None leaves Paddle's number."""
    if threads:
        core.set_num_threads(threads)
    return Engine("paddle", _runner(model))


def _runner(model: nn.Layer):
    @paddle.no_grad()
    def run(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        outputs = model(*map(paddle.to_tensor, inputs))
        if not isinstance(outputs, list | tuple):
            outputs = [outputs]
        return [output.numpy() for output in outputs]

    return run
