"""Paddle itself: of a model in memory, or of an exported graph."""

from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from passl_sot.engines.base import STEM, Engine, Precision


def make(folder: Path, precision: Precision, threads: int | None) -> Engine:
    """See `open_engine`."""
    layer = paddle.jit.load(str(folder / STEM))
    layer.eval()
    return eager(layer)


def eager(model: nn.Layer) -> Engine:
    """A model in evaluation mode as it is."""

    @paddle.no_grad()
    def run(*inputs: np.ndarray) -> np.ndarray:
        outputs = model(*map(paddle.to_tensor, inputs))
        # An exported graph also gives probabilities, before the logits.
        if isinstance(outputs, list | tuple):
            outputs = outputs[-1]
        return outputs.numpy()

    return run
