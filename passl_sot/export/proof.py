"""Proof that exported graphs compute what the model does: each engine beside Paddle's eager mode."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from passl_sot.engines.base import open_engine
from passl_sot.engines.paddle_engine import eager
from passl_sot.export.card import ExportError
from passl_sot.tasks.base import Task
from passl_sot.utils.silence import silenced

LIMIT = 1e-4  # of a logit, times their standard deviation where that is above 1
BATCHES = (1, 3, 7)
_RUNS = 3
_NOISE = 1e30
# All inputs of a model's call, such as images `[B, C, H, W]`.
Inputs = Sequence[np.ndarray]
# These, and the right outputs: probabilities and logits `[B, K]`.
Pair = tuple[Inputs, tuple[np.ndarray, np.ndarray]]


def compare(folder: Path, name: str, pairs: Sequence[Pair]) -> float:
    """The greatest difference of an engine from outputs that are known.

    Args:
        folder: The export.
        name: The engine.
        pairs: Each is computed several times.

    Returns:
        The difference of a logit over `max(1, std of the logits)`, or of a probability; NaN or infinite where
        the engine's result is.
    """
    engine = open_engine(name, folder)
    worst = 0.0
    for inputs, wanted in pairs:
        units = 1.0, max(1.0, float(wanted[-1].std()))
        for _ in range(_RUNS):
            _litter()
            found = engine.outputs(*inputs)
            shapes = [list(output.shape) for output in found]
            if shapes != [list(output.shape) for output in wanted]:
                raise ExportError(f"{name} gives {shapes}, and the model {list(wanted[-1].shape)} twice")
            for output, right, unit in zip(found, wanted, units, strict=True):
                difference = float(np.abs(output.astype("float64") - right).max()) / unit
                # Of two numbers `max` may keep the one that isn't NaN.
                if math.isnan(difference):
                    return math.nan
                worst = max(worst, difference)
    return worst


def _litter() -> None:
    """Leaves huge numbers in freed memory of many sizes, for engines that read what they didn't write.

    Such an engine is right as long as its memory is fresh, which the system gives as zeros.
    """
    kept: list[Any] = []
    for kilobytes in (4, 32, 256, 2048, 16384):
        kept.append(np.full(kilobytes * 256, _NOISE, "float32"))
        kept.append(paddle.full([kilobytes * 256], _NOISE, "float32"))


def prove(
    folder: Path,
    engines: Iterable[str],
    task: Task,
    cases: Sequence[tuple[nn.Layer, Sequence[Inputs]]],
) -> dict[str, float]:
    """Computes inputs by engines, and by the models themselves.

    Args:
        folder: The export, float32.
        engines: Their names.
        task: By which logits become probabilities.
        cases: Models in evaluation mode and their inputs: the one exported, or for a graph of open size one
            for each size.

    Returns:
        The greatest difference of each engine, as of `compare`.

    Raises:
        ExportError: An engine can't read its files; or a difference is above `LIMIT`.
    """
    pairs: list[Pair] = []
    for model, batches in cases:
        engine = eager(model)
        for inputs in batches:
            logits = engine(*inputs)
            pairs.append((inputs, (task.probabilities(paddle.to_tensor(logits)).numpy(), logits)))
    found: dict[str, float] = {}
    for name in engines:
        try:
            with silenced():
                found[name] = compare(folder, name, pairs)
        except ExportError:
            raise
        except Exception as error:  # of whatever kind the engine has
            raise ExportError(
                f"{name} can't compute what was exported: {error}; nothing is written"
            ) from error
    wrong = [f"{name} by {value:.1e}" for name, value in found.items() if not value <= LIMIT]
    if wrong:
        raise ExportError(
            f"the exported graph does not compute what the model does: outputs differ in {', '.join(wrong)} "
            f"(at most {LIMIT:.0e} is allowed); nothing is written"
        )
    return found
