"""Getting all loops ready before they are needed."""

import numpy as np

from passl_sot.imageio.kernels import affine, blur, color, jpeg_splice, layout, resize  # noqa: F401


def wake() -> None:
    """Runs a small loop, beside importing all: what takes the first call of any loop its second."""
    layout.mirror(np.zeros((1, 3), np.uint8), np.empty((1, 3), np.uint8))
