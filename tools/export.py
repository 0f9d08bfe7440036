"""Exports a model: `python tools/export.py --weights W --out DIR`."""

import sys

from passl_sot.cli import export

if __name__ == "__main__":
    sys.exit(export())
