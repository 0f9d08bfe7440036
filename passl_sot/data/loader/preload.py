"""Imported once by the fork server: workers then begin with the data layer loaded and its loops compiled."""

import atexit
import gc
import os
import shutil

import numpy as np

from passl_sot.data.loader.worker import SERVER_FOLDER
from passl_sot.imageio.kernels import jit

if jit.available():
    from passl_sot.imageio.kernels import affine, blur, color, jpeg_splice, layout, resize  # noqa: F401

    layout.mirror(np.zeros((1, 3), np.uint8), np.empty((1, 3), np.uint8))  # numba's first call takes a second
# The training process removes the folder itself, unless it was killed; workers don't come here, as they leave
# by os._exit.
atexit.register(shutil.rmtree, os.environ[SERVER_FOLDER], ignore_errors=True)
gc.freeze()  # the garbage collector would otherwise touch, and so copy, the pages that workers share
