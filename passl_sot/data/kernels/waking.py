"""Getting all loops ready before they are needed."""

import numpy as np

from passl_sot.data.kernels import (  # noqa: F401
    affine,
    blur,
    colour,
    markers,
    noise,
    planes,
    resize,
    streams,
)


def wake() -> None:
    """Runs a small loop, beside importing all: what takes the first call of any loop its second."""
    planes.mirror(np.zeros((1, 3), np.uint8), np.empty((1, 3), np.uint8))
