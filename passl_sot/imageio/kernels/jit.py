"""How the loops of this folder are compiled."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np


@functools.cache
def available() -> bool:
    """Whether numba is installed. Looks without importing it, which takes half a second."""
    return importlib.util.find_spec("numba") is not None


def compiled(function: Callable) -> Any:
    """``function`` compiled at its first call and kept on disk, in IEEE arithmetic, no step fused."""
    import numba

    try:
        return numba.njit(error_model="numpy", cache=True)(function)
    except RuntimeError:  # no folder to keep it in
        return numba.njit(error_model="numpy")(function)


def laid_out(image: np.ndarray) -> np.ndarray:
    """The image, or a copy that is contiguous and writable: for other arrays loops would be compiled anew."""
    return np.require(image, requirements=("C", "W"))
