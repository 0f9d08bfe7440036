"""`tools/print_config.py`, `tools/benchmark.py` and `passl-sot list`: configs, models and their speed."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from passl_sot.cli.command import command, fail, guarded, importing, make_parser
from passl_sot.launch.cpu_env import tune
from passl_sot.utils.logger import get_logger

if TYPE_CHECKING:
    from passl_sot.config import Config, ConfigError


@command
def print_config(argv: list[str] | None = None) -> int:
    """`tools/print_config.py`: the resolved config, with the origin of every value, or a difference."""
    parser = make_parser("print-config", "Show a resolved config and where each value comes from.")
    parser.add_argument("--diff", metavar="OTHER", help="show how OTHER (a file or name) differs from CFG")
    args = parser.parse_args(argv)
    tune(enabled=False)  # no speed is needed, only quiet imports
    from passl_sot.config import ConfigError, diff, format_tree

    other_fault = None
    try:
        tree, fault = _resolve(args.config, args.override)
        if args.diff:
            other, other_fault = _resolve(args.diff, ())
            text = diff(tree, other)
        else:
            text = format_tree(tree)
    except ConfigError as error:
        return fail(error)
    # A faulty file is shown all the same: where its values come from helps to mend it.
    _show(text)
    return max(fail(found) if found else 0 for found in (fault, other_fault))


def _resolve(name: str, overrides: Sequence[str]) -> "tuple[Config, ConfigError | None]":
    """A resolved file, and the faults for which training would refuse it.

    A file with a `model:` section alone, which `Model` reads, isn't checked so; neither is one in a folder
    such as `_base_`, a part to build files on.
    """
    from passl_sot.config import ConfigError, get_config
    from passl_sot.utils.require import MissingPaddleError, require_paddle
    from passl_sot.zoo import find_config

    path = find_config(name)
    if path.resolve().parent.name.startswith("_") or set(get_config(path)) <= {"model"}:
        return get_config(path, overrides), None
    try:
        require_paddle()
        with importing():
            from passl_sot.engine.schema import load_config
        load_config(path, overrides)
        return get_config(path, overrides, free=True), None
    except MissingPaddleError as error:
        print(f"not checked: {error}", file=sys.stderr)
        return get_config(path, overrides), None
    except ConfigError as error:
        try:
            return get_config(path, overrides), error
        except ConfigError:
            raise error from None  # it lists these faults too


def _show(text: str) -> None:
    """Prints; a reader such as `head` that has gone is no fault."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@command
def benchmark(argv: list[str] | None = None) -> int:
    """`tools/benchmark.py`: speed and memory of a model, beside another program's in the same run."""
    parser = make_parser("benchmark", "Time a model on this device.")
    parser.add_argument("--mode", choices=("infer", "train", "data", "processes"), default="infer")
    several = "in mode processes: train with so many, beside one at the same global batch (default 2)"
    parser.add_argument("--nproc", type=int, default=2, help=several)
    parser.add_argument("--batch", type=int, default=8, help="images per batch (default 8)")
    parser.add_argument("--repeats", type=int, default=10, help="batches that count (default 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    compare = (
        "a program that prints `ready` and, for each line on stdin, runs one batch and prints its seconds"
    )
    compare += "; in data mode also timm, torchvision or dali, run by --peer-python"
    parser.add_argument("--compare", metavar="COMMAND", help=compare)
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="default: this one")
    args = parser.parse_args(argv)
    if min(args.batch, args.repeats) < 1:
        parser.error("--batch and --repeats must be at least 1")
    if args.mode == "processes" and (args.nproc < 1 or args.batch % args.nproc):
        parser.error("--batch must be a multiple of --nproc")
    note = tune(not args.no_tune)

    def run() -> None:
        from passl_sot.bench.data import measure_data
        from passl_sot.bench.model import measure
        from passl_sot.bench.processes import measure_processes
        from passl_sot.engine.distributed import start
        from passl_sot.engine.schema import load_config
        from passl_sot.zoo import find_config

        experiment = load_config(find_config(args.config), args.override)
        start(experiment.device)
        options = {"batch": args.batch, "repeats": args.repeats, "compare": args.compare}
        if args.mode == "data":
            result = measure_data(experiment, **options, peer_python=args.peer_python)
        elif args.mode == "processes":
            del options["compare"]
            result = measure_processes(experiment, processes=args.nproc, **options)
        else:
            result = measure(experiment, mode=args.mode, **options)
        if args.json:
            print(json.dumps({"config": args.config, **result}))
        else:
            get_logger().info(note)
            width = max(map(len, result))
            for name, value in result.items():
                shown = f"{value:.4g}" if isinstance(value, float) else value
                if value is not None:
                    print(f"{name:{width}} {shown}")

    return guarded(run)


@command
def list_command(argv: list[str] | None = None) -> int:
    """`passl-sot list [PATTERN]`: the models that `create_model` knows."""
    from passl_sot.zoo import list_models

    parser = argparse.ArgumentParser(prog="list", description="List models by name.")
    parser.add_argument("pattern", nargs="?", default="*")
    _show("\n".join(list_models(parser.parse_args(argv).pattern)))
    return 0
