"""Imported once by the fork server: workers then begin with the data layer loaded and its loops compiled."""

import gc

import passl_sot.data.loader.worker  # noqa: F401 (all that a worker needs)
from passl_sot.imageio.kernels import jit, warmup

if jit.available():
    warmup.wake()
gc.freeze()  # the garbage collector would otherwise touch, and so copy, the pages that workers share
