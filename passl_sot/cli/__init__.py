"""The command line: `passl-sot train|eval|predict|convert|...`, and the functions behind tools/.

Paddle is imported only after the arguments are read and the environment is tuned.
"""

import sys

from passl_sot.cli.command import USAGE_ERROR
from passl_sot.cli.conversion import convert
from passl_sot.cli.doctor import doctor
from passl_sot.cli.inspection import benchmark, list_command, print_config
from passl_sot.cli.packing import make_cache
from passl_sot.cli.results import evaluate, predict
from passl_sot.cli.training import train

COMMANDS = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "benchmark": benchmark,
    "convert": convert,
    "make-cache": make_cache,
    "print-config": print_config,
    "list": list_command,
    "doctor": doctor,
}


def main() -> int:
    """The console command `passl-sot`."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: passl-sot {{{','.join(COMMANDS)}}} ...   (each has --help)", file=sys.stderr)
        return USAGE_ERROR
    return COMMANDS[sys.argv[1]](sys.argv[2:])
