"""Predicts images: `python tools/predict.py --weights W PATH... --out out.csv`."""

import sys

from passl_sot.cli import predict

if __name__ == "__main__":
    sys.exit(predict())
