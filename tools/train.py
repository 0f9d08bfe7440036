"""Trains a model: `python tools/train.py -c CFG`, or the same under `python -m paddle.distributed.launch`."""

import sys

from passl_sot.cli import train

if __name__ == "__main__":
    sys.exit(train())
