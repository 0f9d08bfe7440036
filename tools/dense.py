"""Segmenters and detectors: `python tools/dense.py train -c upernet_stvit_small_ade20k`."""

import sys

from passl_sot.cli import dense

if __name__ == "__main__":
    sys.exit(dense())
