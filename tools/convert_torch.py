"""Converts weights: `python tools/convert_torch.py --config CFG --src x.pth --dst x.pdparams`."""

import sys

from passl_sot.cli import convert

if __name__ == "__main__":
    sys.exit(convert())
