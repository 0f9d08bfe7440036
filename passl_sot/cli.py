"""The command line: `passl-sot train|eval|predict|convert|...`, and what the scripts in tools/ call.

Paddle is imported only after the arguments are read and the environment is tuned.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from passl_sot.utils.logger import get_logger
from passl_sot.utils.tuning import tune

USAGE_ERROR = 2


def _guarded(run: Callable[[], int]) -> int:
    """Runs a command. What the user can mend becomes one message and status 2; anything else a traceback."""
    from passl_sot.utils.require import MissingPaddleError, require_paddle

    try:
        require_paddle()
    except MissingPaddleError as error:
        return _fail(error)
    from passl_sot.data.errors import DataError
    from passl_sot.engine.benchmark import PeerError
    from passl_sot.engine.checkpoint import CheckpointError
    from passl_sot.engine.diagnose import NonFiniteError
    from passl_sot.utils.config import ConfigError
    from passl_sot.utils.registry import RegistryError

    try:
        return run()
    except (ConfigError, RegistryError, DataError, CheckpointError, PeerError, FileNotFoundError) as error:
        return _fail(error)
    except NonFiniteError as error:
        return _fail(error, status=1)


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
            help="a.b.0.c=value, value as in YAML; +a.b=value adds a key that nothing asks for",
        )
    parser.add_argument("--no-tune", action="store_true", help="leave Paddle's CPU settings alone")
    return parser


def _fail(error: BaseException, status: int = USAGE_ERROR) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def train(argv: list[str] | None = None) -> int:
    """`tools/train.py`: trains, resumes, or checks a run."""
    parser = _parser("train", "Train from a YAML config, on one device or under paddle.distributed.launch.")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", metavar="auto|PATH", help="go on with a run exactly where it stopped")
    start.add_argument("--init-from", metavar="PATH", help="begin a new run from these weights")
    parser.add_argument("--dry-run", action="store_true", help="check everything, estimate, and stop")
    parser.add_argument("--evaluate-only", action="store_true", help="evaluate the weights given and stop")
    parser.add_argument("--check-all-files", action="store_true", help="decode every image first")
    args = parser.parse_args(argv)
    if args.evaluate_only and not (args.resume or args.init_from):
        parser.error("--evaluate-only needs weights: --resume auto, --resume PATH or --init-from PATH")
    note = tune(not args.no_tune)

    def run() -> int:
        from passl_sot.engine.experiment import load_config
        from passl_sot.zoo import find_config

        path = find_config(args.config)
        cfg = load_config(path, args.override)
        from passl_sot.engine.runs import check_run, train_run

        if args.dry_run:
            check_run(cfg, check_all_files=args.check_all_files, note=note)
        else:
            train_run(cfg, path, args, note=note)
        return 0

    return _guarded(run)


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
    note = tune(not args.no_tune)

    def run() -> int:
        from passl_sot.engine.experiment import load_config
        from passl_sot.engine.runs import evaluate_run
        from passl_sot.zoo import find_config

        cfg = load_config(find_config(args.config), args.override)
        evaluate_run(cfg, args.weights, Path(args.out) if args.out else None, note=note)
        return 0

    return _guarded(run)


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


def print_config(argv: list[str] | None = None) -> int:
    """`tools/print_config.py`: the resolved config, with the origin of every value, or a difference."""
    parser = _parser("print-config", "Show a resolved config and where each value comes from.")
    parser.add_argument("--diff", metavar="OTHER", help="show how OTHER (a file or name) differs from CFG")
    args = parser.parse_args(argv)
    from passl_sot.utils.config import ConfigError, diff, format_tree, get_config
    from passl_sot.zoo import find_config

    try:
        cfg = get_config(find_config(args.config), args.override)
        if args.diff:
            print(diff(cfg, get_config(find_config(args.diff))))
        else:
            print(format_tree(cfg))
    except ConfigError as error:
        return _fail(error)
    return 0


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


def list_command(argv: list[str] | None = None) -> int:
    """`passl-sot list [PATTERN]`: the models that `create_model` knows."""
    from passl_sot.zoo import list_models

    parser = argparse.ArgumentParser(prog="list", description="List models by name.")
    parser.add_argument("pattern", nargs="?", default="*")
    print("\n".join(list_models(parser.parse_args(argv).pattern)))
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
