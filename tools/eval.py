"""Evaluates weights: `python tools/eval.py --weights W --out metrics.json`."""

import sys

from passl_sot.cli import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())
