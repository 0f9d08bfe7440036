"""How the loops of this folder are compiled."""

import functools
import importlib.util
from collections.abc import Callable, Collection
from typing import Any

import numpy as np


@functools.cache
def available() -> bool:
    """Whether numba is installed. Looks without importing it, which takes half a second."""
    return importlib.util.find_spec("numba") is not None


def compiled(function: Callable, *, fastmath: Collection[str] = ()) -> Any:
    """``function`` compiled at its first call and kept on disk: once on a machine, not in each process.

    In IEEE arithmetic, no step fused, but for the flags in ``fastmath``.
    """
    import numba

    from passl_sot.imageio.kernels.cache import share

    dispatcher = numba.njit(error_model="numpy", fastmath=set(fastmath))(function)
    share(dispatcher)
    return dispatcher


def laid_out(image: np.ndarray) -> np.ndarray:
    """The image, or a copy that is contiguous and writable: for other arrays loops would be compiled anew."""
    return np.require(image, requirements=("C", "W"))
