"""Serves a model over HTTP: `python tools/serve.py best.safetensors`."""

import sys

from passl_sot.cli import serve

if __name__ == "__main__":
    sys.exit(serve())
