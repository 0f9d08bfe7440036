"""The command line: `passl-sot train|eval|predict|convert|...`, and the functions behind tools/.

Paddle is imported only after the arguments are read and the environment is tuned.
"""

import sys

from passl_sot.cli.command import USAGE_ERROR
from passl_sot.cli.conversion import convert
from passl_sot.cli.dense import dense
from passl_sot.cli.doctor import doctor
from passl_sot.cli.exporting import export
from passl_sot.cli.inspection import benchmark, list_command, print_config
from passl_sot.cli.looking import compare, preview
from passl_sot.cli.packing import make_cache
from passl_sot.cli.probing import features, probe
from passl_sot.cli.results import evaluate, predict
from passl_sot.cli.serving import serve
from passl_sot.cli.training import train
from passl_sot.cli.visualize import visualize
from passl_sot.config import did_you_mean, nearest
from passl_sot.version import __version__

COMMANDS = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "visualize": visualize,
    "features": features,
    "probe": probe,
    "export": export,
    "dense": dense,
    "serve": serve,
    "benchmark": benchmark,
    "preview": preview,
    "compare": compare,
    "convert": convert,
    "make-cache": make_cache,
    "print-config": print_config,
    "list": list_command,
    "doctor": doctor,
}


# What other projects call them.
_SYNONYMS = {"validate": "eval", "test": "eval", "infer": "predict", "inference": "predict"}


def main() -> int:
    """The console command `passl-sot`, also `python -m passl_sot`."""
    if len(sys.argv) < 2:
        print(_help(), file=sys.stderr)
        return USAGE_ERROR
    name, *words = sys.argv[1:]
    if name in COMMANDS:
        return COMMANDS[name](words)
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"passl_sot {__version__}")
        return 0
    near = _SYNONYMS.get(name) or nearest(name, COMMANDS)
    complaint = f"there is no command {name!r}{did_you_mean(near)}"
    if name.startswith("-"):
        complaint = "the command comes first: passl-sot train -c sot_small"
    print(f"error: {complaint}\nsee: passl-sot --help", file=sys.stderr)
    return USAGE_ERROR


def _help() -> str:
    """The commands with a line each, by their docstrings, which begin with a way to call them."""
    lines = ["usage: passl-sot COMMAND ...   (each command has --help)", ""]
    for name, run in COMMANDS.items():
        first = (run.__doc__ or "").partition("\n")[0]
        lines.append(f"  {name:12}  {first.partition(': ')[2].rstrip('.')}")
    return "\n".join([*lines, "", "passl-sot --version: the version"])
