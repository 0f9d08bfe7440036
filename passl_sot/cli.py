"""The command line: `passl-sot train|eval|predict|convert|...`, and what the scripts in tools/ call.

Paddle is imported only after the arguments are read and the environment is tuned.
"""

import argparse
import errno
import functools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from passl_sot.utils.logger import get_logger
from passl_sot.utils.supervisor import (
    SupervisionError,
    end_with_parent,
    generation,
    report_failure,
    should_supervise,
    supervise,
)
from passl_sot.utils.tuning import tune

if TYPE_CHECKING:
    from passl_sot.utils.config import Config, ConfigError

USAGE_ERROR = 2
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
# What a path given by the user can be wrong in, and what to do then. Other OSErrors are ours: a traceback.
_PATH_FAULTS = {
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a file stands where a folder is needed; name another place",
    errno.EEXIST: "a file stands where a folder is needed; name another place",
    errno.EACCES: "choose a place that you may use, or change its permissions",
    errno.EPERM: "choose a place that you may use, or change its permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some space or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def _command(run: Callable[[list[str] | None], int]) -> Callable[[list[str] | None], int]:
    """Makes Ctrl-C end a command with one word and its usual status."""

    @functools.wraps(run)
    def interruptible(argv: list[str] | None = None) -> int:
        try:
            return run(argv)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED

    return interruptible


@contextmanager
def _importing() -> Iterator[None]:
    """Makes Ctrl-C end the process at once: inside Paddle's core, Python's own way becomes an ImportError."""

    def leave(number: int, frame: object) -> None:
        os.write(2, b"interrupted\n")
        os._exit(INTERRUPTED)

    ours = threading.current_thread() is threading.main_thread()
    # A process that was started to ignore Ctrl-C, or handles it already, goes on doing so.
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _guarded(run: Callable[[], int]) -> int:
    """Runs a command. What the user can mend becomes one message and status 2; anything else a traceback."""
    from passl_sot.utils.require import MissingPaddleError, require_paddle

    try:
        require_paddle()
    except MissingPaddleError as error:
        return _fail(error)
    with _importing():
        from passl_sot.data.errors import DataError
        from passl_sot.engine.benchmark import PeerError
        from passl_sot.engine.checkpoint import CheckpointError
        from passl_sot.engine.diagnose import NonFiniteError
        from passl_sot.engine.experiment import load_config  # noqa: F401  # for what it imports
        from passl_sot.engine.joining import JoinError
        from passl_sot.utils.config import ConfigError
        from passl_sot.utils.registry import RegistryError

    try:
        return run()
    except (ConfigError, RegistryError, DataError, CheckpointError, PeerError, JoinError) as error:
        return _fail(error)
    except NonFiniteError as error:
        return _fail(error, status=1)
    except OSError as error:
        if error.errno not in _PATH_FAULTS:
            report_failure(traceback.format_exc(), final=False)
            raise
        return _fail(_explain(error))
    except Exception:
        report_failure(traceback.format_exc(), final=False)
        raise


def _explain(error: OSError) -> str:
    """One line: the path, where the system named one, what is wrong with it, and what to do."""
    return ": ".join(
        str(part)
        for part in (error.filename, error.strerror, _PATH_FAULTS.get(error.errno or 0))
        if part is not None
    )


def _try_outputs(paths: Sequence[Path]) -> None:
    """Finds out before any work is done whether its results can be written; leaves no file behind.

    Raises:
        OSError: They can't; names the output.
    """
    import tempfile

    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path.open("ab").close()
            else:
                tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def _parser(name: str, description: str, config: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=description)
    if config:
        parser.add_argument("-c", "--config", required=True, metavar="CFG", help="YAML file or model name")
        parser.add_argument(
            "-o",
            "--override",
            nargs="+",
            action="extend",
            default=[],
            metavar="KEY=VALUE",
            help="a.b.0.c=value, value as in YAML; +a.b=value adds a key whose section isn't there yet",
        )
    parser.add_argument("--no-tune", action="store_true", help="leave Paddle's CPU settings alone")
    return parser


def _fail(error: BaseException | str, status: int = USAGE_ERROR) -> int:
    report_failure(f"error: {error}", final=True)
    print(f"error: {error}", file=sys.stderr)
    return status


def _supervised(restarts: int) -> int | None:
    """The whole run in children of this process, where it is to be supervised; else None: go on and work."""
    if generation() is not None:
        end_with_parent(signal.SIGKILL)
        return None
    try:
        return supervise(restarts) if should_supervise(restarts) else None
    except SupervisionError as error:
        return _fail(error)


@_command
def train(argv: list[str] | None = None) -> int:
    """`tools/train.py`: trains, resumes, or checks a run."""
    parser = _parser("train", "Train from a YAML config, on one device or under paddle.distributed.launch.")
    parser.add_argument("--data", metavar="DIR", help="your folder: train/ and val/, or one folder per class")
    parser.add_argument("--resume", metavar="auto|PATH", help="go on with a run exactly where it stopped")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--init-from", metavar="PATH", help="begin a new run from these weights of this model")
    fitted = "begin from weights of other classes, sizes or channels, which are fitted; the head may be new"
    start.add_argument("--pretrained", metavar="W", help=fitted)
    parser.add_argument("--dry-run", action="store_true", help="check everything, estimate, and stop")
    parser.add_argument("--evaluate-only", action="store_true", help="evaluate the weights given and stop")
    parser.add_argument("--check-all-files", action="store_true", help="decode every image first")
    restarts = "start the processes again, from the last checkpoint, up to N times after one died"
    parser.add_argument("--max-restarts", type=int, default=0, metavar="N", help=restarts)
    args = parser.parse_args(argv)
    if args.max_restarts < 0:
        parser.error("--max-restarts must be 0 or more")
    if args.resume and args.init_from:
        parser.error("argument --init-from: not allowed with argument --resume")
    if args.evaluate_only and not (args.resume or args.init_from):
        parser.error("--evaluate-only needs weights: --resume auto, --resume PATH or --init-from PATH")
    status = None if args.dry_run else _supervised(args.max_restarts)
    if status is not None:
        return status
    note = tune(not args.no_tune)

    def run() -> int:
        from passl_sot.engine.experiment import load_config
        from passl_sot.engine.own_data import overrides_for
        from passl_sot.zoo import find_config, load_weights

        path, notes = find_config(args.config), [note]
        if args.data:
            added, said = overrides_for(path, args.data, args.override)
            args.override, notes = [*added, *args.override], [note, *said]
        cfg = load_config(path, args.override)
        from passl_sot.engine.runs import check_run, train_run

        # What it is is known here alone: the engine doesn't know the zoo.
        load = functools.partial(load_weights, weights=args.pretrained, new_head=True)
        chosen = load if args.pretrained else None
        if args.dry_run:
            check_run(cfg, path, args, note="\n".join(notes), pretrained=chosen)
        else:
            train_run(cfg, path, args, note="\n".join(notes), pretrained=chosen)
        return 0

    return _guarded(run)


@_command
def evaluate(argv: list[str] | None = None) -> int:
    """`tools/eval.py`: accuracy, per-class scores and confusion matrix of a checkpoint."""
    parser = _parser("eval", "Evaluate weights on the validation split of a config.")
    parser.add_argument(
        "--weights", required=True, metavar="W", help="a checkpoint, .safetensors or .pdparams"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="metrics.json to write; tables and pictures go beside it"
    )
    args = parser.parse_args(argv)
    status = _supervised(0)
    if status is not None:
        return status
    note = tune(not args.no_tune)

    def run() -> int:
        from passl_sot.engine.experiment import load_config
        from passl_sot.engine.runs import evaluate_run
        from passl_sot.zoo import find_config

        cfg = load_config(find_config(args.config), args.override)
        out = Path(args.out) if args.out else None
        _try_outputs([out] if out else [])
        evaluate_run(cfg, args.weights, out, note=note)
        return 0

    return _guarded(run)


@_command
def predict(argv: list[str] | None = None) -> int:
    """`tools/predict.py`: class names and probabilities of files, folders, patterns or lists."""
    parser = _parser("predict", "Predict images with a checkpoint.", config=False)
    parser.add_argument("--weights", required=True, metavar="W", help="a checkpoint that training wrote")
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="image, folder, pattern, or .txt list of images"
    )
    parser.add_argument("--out", nargs="+", default=[], metavar="FILE", help=".csv and/or .json to write")
    parser.add_argument("--top-k", type=int, default=5, help="classes per image (default 5)")
    parser.add_argument("--batch-size", type=int, default=32, help="images per forward pass (default 32)")
    parser.add_argument("--use", choices=("raw", "ema"), help="which weights; default: what chose the best")
    args = parser.parse_args(argv)
    outputs = [Path(name) for name in args.out]
    wrong = [str(path) for path in outputs if path.suffix not in (".csv", ".json")]
    if wrong:
        parser.error(f"can't tell the format of {', '.join(wrong)}: name it .csv or .json")
    if min(args.top_k, args.batch_size) < 1:
        parser.error("--top-k and --batch-size must be at least 1")
    note = tune(not args.no_tune)

    def run() -> int:
        from passl_sot.engine.predict import Predictor, collect_images, write_predictions

        get_logger().info(note)
        _try_outputs(outputs)
        files = collect_images(args.paths)
        predictor = Predictor(args.weights, prefer=args.use, batch_size=args.batch_size, top_k=args.top_k)
        results = list(predictor.predict(files, progress=True))
        for output in outputs:
            write_predictions(results, output)
        return _show_predictions(results)

    return _guarded(run)


def _show_predictions(results: list, most: int = 20) -> int:
    """Prints the first predictions and every unreadable file; 1 if nothing could be read."""
    for result in results[:most]:
        shown = f"{result.names[0]}  {100 * result.probabilities[0]:.2f} %" if result.names else "unreadable"
        print(f"{result.path}  {shown}")
    if len(results) > most:
        print(f"... and {len(results) - most} more")
    unreadable = [result for result in results if result.error]
    for result in unreadable:
        print(f"unreadable: {result.error}", file=sys.stderr)
    if unreadable:
        print(f"{len(unreadable)} of {len(results)} images could not be read", file=sys.stderr)
    return 1 if len(unreadable) == len(results) else 0


def _convert_parser() -> argparse.ArgumentParser:
    parser = _parser("convert", "Convert weights between PyTorch and this project; PyTorch is not needed.")
    add = parser.add_argument
    add("--src", required=True, metavar="FILE", help=".pth, .pth.tar, .safetensors, .npz or .pdparams")
    add("--dst", required=True, metavar="FILE", help=".pdparams to write; a card (.json) goes beside it")
    add("--key", help="which state dict of the file: model, state_dict, state_dict_ema ...")
    add(
        "--num-classes",
        type=int,
        metavar="N",
        help="classes; the last layers are new if the file has others",
    )
    add("--verify", metavar="NPZ", help="file with input and the logits that the result must give for it")
    add("--tolerance", type=float, help="of --verify, times max(1, std); default 1e-5 (1e-8 for logits_f64)")
    add("--license", default="not stated", metavar="TEXT", help="licence of the weights, for the card")
    add("--to-torch", action="store_true", help="from .pdparams to official names in .safetensors")
    return parser


@_command
def convert(argv: list[str] | None = None) -> int:
    """`tools/convert_torch.py`: weights from PyTorch to Paddle, or back."""
    parser = _convert_parser()
    args = parser.parse_args(argv)
    wanted = ".safetensors" if args.to_torch else ".pdparams"
    if Path(args.dst).suffix != wanted:
        parser.error(f"--dst must end in {wanted}, got {args.dst}")
    overrides = list(args.override)
    if args.num_classes is not None:
        if args.num_classes < 1:
            parser.error("--num-classes must be at least 1")
        overrides.append(f"model.head.num_classes={args.num_classes}")
    tune(not args.no_tune)

    def run() -> int:
        from passl_sot.zoo import find_config, model_config

        path = find_config(args.config)
        cfg = model_config(path, tuple(overrides))
        from passl_sot.interop.convert import ConversionError
        from passl_sot.interop.tool import Conversion, convert_file

        request = Conversion(
            src=args.src,
            dst=args.dst,
            key=args.key,
            verify=args.verify,
            tolerance=args.tolerance,
            license=args.license,
            new_head=args.num_classes is not None and not args.to_torch,
            to_torch=args.to_torch,
        )
        try:
            convert_file(request, path.stem, cfg.model)
        except ConversionError as error:
            return _fail(error, status=1)
        return 0

    return _guarded(run)


@_command
def print_config(argv: list[str] | None = None) -> int:
    """`tools/print_config.py`: the resolved config, with the origin of every value, or a difference."""
    parser = _parser("print-config", "Show a resolved config and where each value comes from.")
    parser.add_argument("--diff", metavar="OTHER", help="show how OTHER (a file or name) differs from CFG")
    args = parser.parse_args(argv)
    tune(enabled=False)  # no speed is needed, only quiet imports
    from passl_sot.utils.config import ConfigError, diff, format_tree

    try:
        cfg, faults = _resolve(args.config, args.override)
        other, more = _resolve(args.diff, ()) if args.diff else (None, None)
    except ConfigError as error:
        return _fail(error)
    _show(format_tree(cfg) if other is None else diff(cfg, other))
    for found in (faults, more):
        if found is not None:
            _fail(found)
    return USAGE_ERROR if faults or more else 0


def _resolve(name: str, overrides: Sequence[str]) -> "tuple[Config, ConfigError | None]":
    """A resolved file, and what training would refuse in it.

    A file with a `model:` section alone, which `Model` reads, isn't checked so; neither is one in a folder
    such as `_base_`, a part to build files on.
    """
    from passl_sot.utils.config import ConfigError, get_config
    from passl_sot.utils.require import MissingPaddleError, require_paddle
    from passl_sot.zoo import find_config

    path = find_config(name)
    if path.resolve().parent.name.startswith("_") or set(get_config(path)) <= {"model"}:
        return get_config(path, overrides), None
    try:
        require_paddle()
    except MissingPaddleError as error:
        print(f"not checked: {error}", file=sys.stderr)
        return get_config(path, overrides), None
    with _importing():
        from passl_sot.engine.experiment import load_config

    try:
        return load_config(path, overrides), None
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


@_command
def benchmark(argv: list[str] | None = None) -> int:
    """`tools/benchmark.py`: speed and memory of a model, beside another program's in the same run."""
    parser = _parser("benchmark", "Time a model on this device.")
    parser.add_argument("--mode", choices=("infer", "train"), default="infer")
    parser.add_argument("--batch", type=int, default=8, help="images per batch (default 8)")
    parser.add_argument("--repeats", type=int, default=10, help="batches that count (default 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    compare = (
        "a program that prints `ready` and, for each line on stdin, runs one batch and prints its seconds"
    )
    parser.add_argument("--compare", metavar="COMMAND", help=compare)
    args = parser.parse_args(argv)
    if min(args.batch, args.repeats) < 1:
        parser.error("--batch and --repeats must be at least 1")
    note = tune(not args.no_tune)

    def run() -> int:
        from passl_sot.engine.benchmark import measure
        from passl_sot.engine.distributed import start
        from passl_sot.engine.experiment import load_config
        from passl_sot.zoo import find_config

        cfg = load_config(find_config(args.config), args.override)
        start(cfg.get("device", "auto"))
        result = measure(
            cfg, mode=args.mode, batch=args.batch, repeats=args.repeats, compare=args.compare
        ).as_dict()
        if args.json:
            print(json.dumps({"config": args.config, **result}))
        else:
            get_logger().info(note)
            for name, value in result.items():
                if value is not None:
                    print(f"{name:14} {value:.4g}" if isinstance(value, float) else f"{name:14} {value}")
        return 0

    return _guarded(run)


@_command
def list_command(argv: list[str] | None = None) -> int:
    """`passl-sot list [PATTERN]`: the models that `create_model` knows."""
    from passl_sot.zoo import list_models

    parser = argparse.ArgumentParser(prog="list", description="List models by name.")
    parser.add_argument("pattern", nargs="?", default="*")
    _show("\n".join(list_models(parser.parse_args(argv).pattern)))
    return 0


COMMANDS = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "benchmark": benchmark,
    "convert": convert,
    "print-config": print_config,
    "list": list_command,
}


def main() -> int:
    """The console command `passl-sot`."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: passl-sot {{{','.join(COMMANDS)}}} ...   (each has --help)", file=sys.stderr)
        return USAGE_ERROR
    return COMMANDS[sys.argv[1]](sys.argv[2:])
