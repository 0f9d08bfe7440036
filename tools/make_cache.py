"""Packs a dataset: `python tools/make_cache.py DATA OUT [--short-side N --quality Q|--raw|--tile-only]`."""

import sys

from passl_sot.cli import make_cache

if __name__ == "__main__":
    sys.exit(make_cache())
