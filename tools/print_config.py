"""Shows a resolved config and the origin of each value: `python tools/print_config.py -c CFG`."""

import sys

from passl_sot.cli import print_config

if __name__ == "__main__":
    sys.exit(print_config())
