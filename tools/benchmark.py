"""Times a model: `python tools/benchmark.py -c CFG --mode train --batch 8 [--compare 'COMMAND']`."""

import sys

from passl_sot.cli import benchmark

if __name__ == "__main__":
    sys.exit(benchmark())
