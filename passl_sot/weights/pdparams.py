"""Paddle's `.pdparams`, read without running them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.weights import CheckpointError
from passl_sot.weights.budget import Budget
from passl_sot.weights.safe_pickle import load_pickle, plain

# Paddle's own entries beside the parameters: a table of internal names, and the plan of parameters over 1 GB
# that pickle protocols 2 and 3 had to slice.
_NAME_TABLE = "StructuredToParameterName@@"
_SLICED = "UnpackBigParamInfor@@"


def read_pdparams(path: Path, budget: Budget) -> dict[str, np.ndarray]:
    """The arrays of a flat `.pdparams`, or a CheckpointError: damaged, or not of arrays alone."""
    content = load_paddle_pickle(path, budget)
    if not isinstance(content, dict):
        raise CheckpointError(f"it holds a {type(content).__name__}, not a state dict")
    arrays = {}
    for name, value in content.items():
        array = as_array(value)
        if array is None:
            raise CheckpointError(f"entry {name!r} is a {type(value).__name__}, not an array")
        if not isinstance(name, str):
            raise CheckpointError(f"entry {name!r} has a {type(name).__name__} for its name, not text")
        arrays[name] = array
    return arrays


def load_paddle_pickle(path: Path, budget: Budget) -> Any:
    """The content of a file of `paddle.save`, without Paddle's own entries; errors as of `load_pickle`."""
    try:
        with path.open("rb") as file:
            return _tidy(load_pickle(file, budget=budget), budget)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError("it is damaged: the table of its sliced parameters is wrong") from error


def _tidy(content: Any, budget: Budget, depth: int = 2) -> Any:
    """Removes the table of internal names and joins sliced parameters."""
    if not isinstance(content, dict):
        return content
    budget.take(sys.getsizeof(content))  # one dictionary may stand in many places
    tidy = {name: value for name, value in content.items() if name not in (_NAME_TABLE, _SLICED)}
    for name, info in content.get(_SLICED, {}).items():
        parts = [plain(tidy.pop(part)) for part in info["slices"]]
        budget.take(sum(part.nbytes for part in parts))  # all may be one array
        tidy[name] = np.concatenate(parts).reshape(info["OriginShape"])
    if depth == 0:
        return tidy
    return {name: _tidy(value, budget, depth - 1) for name, value in tidy.items()}


def as_array(value: Any) -> np.ndarray | None:
    """The array of an entry, which may be (internal name, array); None where it is none."""
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    array = plain(value)
    return array if isinstance(array, np.ndarray) and array.dtype.kind in "biufc" else None
