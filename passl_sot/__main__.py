"""`python -m passl_sot`: the console command `passl-sot`."""

import sys

from passl_sot.cli import main

if __name__ == "__main__":
    sys.exit(main())
