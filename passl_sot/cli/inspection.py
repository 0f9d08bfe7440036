"""`tools/print_config.py`, `tools/benchmark.py` and `passl-sot list`: configs, models and their speed."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passl_sot.cli.command import command, fail, guarded, importing, make_parser, prepare
from passl_sot.cli.options import Parser, add_settings, numbers, words
from passl_sot.config import UserError, did_you_mean, list_models, nearest, read_card
from passl_sot.published.cards import cards, find_card
from passl_sot.utils.logger import get_logger

if TYPE_CHECKING:
    from passl_sot.config import Config, ConfigError


@command
def print_config(argv: list[str] | None = None) -> int:
    """`tools/print_config.py`: shows a resolved config and where each value comes from, or a difference."""
    parser = make_parser(
        "print-config", "Show a resolved config and where each value comes from.", computes=False
    )
    add_settings(parser)
    parser.add_argument("--diff", metavar="OTHER", help="show how OTHER (a file or name) differs from CFG")
    args = parser.parse_args(argv)
    prepare(args)
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
    status = 0
    for found in (fault, other_fault):
        if found:
            status = fail(found)
    return status


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
            from passl_sot.engine.schema import Experiment, load_config
        load_config(path, overrides)
        return get_config(path, overrides, schema=Experiment), None
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
    """`tools/benchmark.py`: times a model, beside another program in the same run."""
    parser = make_parser("benchmark", "Time a model on this device.", required=False)
    weights = "a checkpoint, in place of -c: its config counts; with --engine also an exported folder"
    parser.add_argument("--weights", metavar="W", help=weights)
    parser.add_argument("--data", metavar="DIR", help="with --mode data: your folder, or a packed copy")
    parser.add_argument("--mode", choices=("infer", "train", "data", "processes"), default="infer")
    several = "in mode processes: train with so many, beside one at the same global batch (default 2)"
    parser.add_argument("--nproc", type=int, default=2, metavar="N", help=several)
    batch = "images per batch (default 8); with --engine also several, as 1,8,64"
    parser.add_argument("--batch", "--batch-size", type=numbers, default=[8], metavar="N", help=batch)
    engine = "a table of engines: all, or some of eager, paddle, inference, onnxruntime, openvino, as a,b"
    parser.add_argument("--engine", type=words, metavar="NAMES", help=engine)
    precision = "with --engine: f32, bf16, int8, or several as f32,bf16; default: the folder's own, or f32"
    parser.add_argument("--precision", type=words, metavar="NAMES", help=precision)
    parser.add_argument("--repeats", type=int, default=10, help="batches that count (default 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    compare = (
        "a program that prints `ready` and, for each line on stdin, runs one batch and prints its seconds"
    )
    compare += "; in data mode also timm, torchvision or dali, run by --peer-python"
    parser.add_argument("--compare", metavar="COMMAND", help=compare)
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="default: this one")
    args = parser.parse_args(argv)
    if min(*args.batch, args.repeats) < 1:
        parser.error("--batch and --repeats must be at least 1")
    if args.engine:
        _check_engines(parser, args)
    elif len(args.batch) > 1 or args.precision:
        parser.error("several --batch, and --precision, go with --engine")
    if not args.config and not args.weights:
        parser.error("name a config with -c, or a checkpoint with --weights")
    if args.data and args.mode != "data":
        parser.error("argument --data: goes with --mode data; the other modes take random images")
    if args.mode == "processes" and (args.nproc < 1 or args.batch[0] % args.nproc):
        parser.error("--batch must be a multiple of --nproc")
    prepare(args)

    def run() -> None:
        if args.json:
            # Warnings about config and data are no part of the JSON.
            with redirect_stdout(sys.stderr):
                result, _ = _measure(args)
            print(json.dumps({"config": args.config or args.weights, **result}))
            return
        result, lines = _measure(args)
        if lines:
            get_logger().info("\n".join(lines))
        if args.engine:
            _show_engines(result)
            return
        width = max(map(len, result))
        for name, value in result.items():
            if isinstance(value, float):
                print(f"{name:{width}} {value:.4g}")
            elif value is not None:
                print(f"{name:{width}} {value}")

    return guarded(run)


def _check_engines(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses what `--engine` doesn't go with, and completes it."""
    from passl_sot.engines.base import ENGINES, PRECISIONS

    engines = ("eager", *ENGINES)
    if args.engine == ["all"]:
        args.engine = list(engines)
    for option, names, known in (
        ("--engine", args.engine, engines),
        ("--precision", args.precision or [], PRECISIONS),
    ):
        wrong = [name for name in names if name not in known]
        if wrong:
            parser.error(f"argument {option}: there is no {wrong[0]!r}: choose among {', '.join(known)}")
    if args.mode != "infer":
        parser.error("argument --engine: goes with --mode infer")
    if args.compare and len(args.batch) > 1:
        parser.error("argument --compare: goes with one --batch, that of the other program")


def _show_engines(result: dict[str, Any]) -> None:
    from passl_sot.bench.engines import table

    peaks = [f"{speed:.0f} GFLOP/s in {name}" for name, speed in result["peak_gflops_per_s"].items()]
    print(f"threads: {result['threads']}; a matrix product: {', '.join(peaks) or 'not measured'}")
    print("\n".join(table(result)))
    for name, reason in result["refused"].items():
        print(f"{name}: {reason}")


def _measure_engines(args: argparse.Namespace) -> dict[str, Any]:
    from passl_sot.bench.engines import measure_engines
    from passl_sot.cli.data_folder import Source
    from passl_sot.export.card import precision_of

    source: Any = Path(args.weights) if args.weights else None
    precisions = args.precision or ["f32"]
    exported = source is not None and source.is_dir()
    if exported:
        precisions = [precision_of(source, asked) for asked in args.precision or [None]]
    if args.config or not exported:
        source, _ = Source.of(args.config, args.weights).experiment(None, args.override, (), training=True)
    return measure_engines(
        source,
        engines=args.engine,
        precisions=precisions,
        batches=args.batch,
        repeats=args.repeats,
        weights=args.weights,
        compare=args.compare,
    )


def _measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The figures of `benchmark`, and lines on its data."""
    if args.engine:
        return _measure_engines(args), []
    from passl_sot.bench.data import measure_data
    from passl_sot.bench.model import measure
    from passl_sot.bench.processes import measure_processes
    from passl_sot.cli.data_folder import Source
    from passl_sot.engine.distributed import start

    needed: tuple[str, ...] = ()  # other modes take random images
    if args.mode == "data":
        needed = ("train",)
    elif args.mode == "processes":
        needed = ("train", "val")
    source = Source.of(args.config, args.weights)
    experiment, lines = source.experiment(args.data, args.override, needed, training=True)
    start(experiment.device)
    options: dict[str, Any] = {"batch": args.batch[0], "repeats": args.repeats}
    if args.mode == "processes":
        return measure_processes(experiment, processes=args.nproc, **options), lines
    options["compare"] = args.compare
    if args.mode == "data":
        return measure_data(experiment, **options, peer_python=args.peer_python), lines
    return measure(experiment, mode=args.mode, **options), lines


@command
def list_command(argv: list[str] | None = None) -> int:
    """`passl-sot list [PATTERN ...]`: lists the models, their sizes and published accuracies."""
    parser = Parser(prog="passl-sot list", description="List models, sizes and published accuracies.")
    help_text = "such as 'sot*' or swin; all models by default"
    parser.add_argument("pattern", nargs="*", default=["*"], metavar="PATTERN", help=help_text)
    parser.add_argument("--json", action="store_true", help="print a JSON list of objects and nothing else")
    args = parser.parse_args(argv)

    def run() -> None:
        line = "{:23} {:>14} {:>7} {:>14}  {}".format
        published = cards()
        rows: list[dict[str, Any]] = []
        for name in _matching(args.pattern):
            meta = read_card(name)
            keys = ("params_m", "gmacs", "published_top1", "published_score", "score")
            row = {key: meta.get(key) for key in keys}
            card = find_card(name, published)
            rows.append({"name": name, **row, "weights": card and card.access})
        if args.json:
            _show(json.dumps(rows))
            return
        lines = [line("model", "parameters (M)", "GMACs", "published (%)", "weights")]
        for row in rows:
            published_score = row["published_top1"] or row["published_score"]
            cells = (row["name"], row["params_m"], row["gmacs"], published_score, row["weights"])
            lines.append(line(*("-" if cell is None else cell for cell in cells)))
        _show("\n".join(lines))

    return guarded(run, paddle=False)


def _matching(patterns: Sequence[str]) -> list[str]:
    """The models that match a pattern; one without wildcards matches all names that hold it."""
    found: set[str] = set()
    for pattern in patterns:
        models = list_models(pattern)
        if not set(pattern) & set("*?["):
            models = list_models(f"*{pattern}*")
        if not models:
            near = did_you_mean(nearest(pattern, list_models()))
            raise UserError(f"no model matches {pattern!r}{near or '; `passl-sot list` names all'}")
        found.update(models)
    return sorted(found)
