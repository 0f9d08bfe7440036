"""`tools/eval.py` and `tools/predict.py`: the outputs of a trained model."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from passl_sot.cli.command import command, guarded, make_parser, prepare, try_outputs
from passl_sot.cli.options import PRECISIONS, add_settings
from passl_sot.config import UserError, zh
from passl_sot.launch.supervisor import supervise
from passl_sot.utils.logger import get_logger

if TYPE_CHECKING:
    from passl_sot.engine.schema import Experiment


@command
def evaluate(argv: list[str] | None = None) -> int:
    """`tools/eval.py`: evaluates a checkpoint: accuracy, per-class scores, confusion matrix."""
    does = "Evaluate weights on the validation split of a config, by default the checkpoint's own."
    parser = make_parser("eval", does, required=False)
    add_settings(parser, {"--batch-size": ("dataloader.val.sampler.batch_size", "N")})
    add = parser.add_argument
    weights = "a checkpoint, .safetensors or .pdparams, or a published name (deit_small)"
    add("--weights", required=True, metavar="W", help=weights)
    add("--data", metavar="DIR", help="other images: train/ and val/, or one folder per class")
    add("--out", metavar="FILE", help="metrics.json to write; tables and pictures go beside it")
    args = parser.parse_args(argv)
    status = supervise()
    if status is not None:
        return status
    prepare(args)

    def run() -> None:
        from passl_sot.engine.distributed import start
        from passl_sot.engine.entry import evaluate_run
        from passl_sot.published.store import local_weights

        args.weights = str(local_weights(args.weights))
        experiment, lines = _experiment_of(args)
        out = Path(args.out) if args.out else None
        if out:
            try_outputs([out])
        world = start(experiment.device)
        if lines and world.is_main:
            get_logger().info("\n".join(lines))
        evaluate_run(experiment, args.weights, out, world)

    return guarded(run)


def _experiment_of(args: argparse.Namespace) -> "tuple[Experiment, list[str]]":
    """What `-c` or the checkpoint describes, on the data of `--data` or its own; lines on these."""
    from passl_sot.cli.data_folder import Source

    source = Source.of(args.config, args.weights)
    return source.experiment(args.data, args.override, ("val",), training=False)


@command
def predict(argv: list[str] | None = None) -> int:
    """`tools/predict.py`: predicts the classes of files, folders, patterns or lists."""
    parser = make_parser("predict", "Predict images with a checkpoint.", config=False)
    add = parser.add_argument
    weights = "a checkpoint, a folder that `export` wrote, or a published name (deit_small)"
    add("--weights", required=True, metavar="W", help=weights)
    paths = "image, folder, pattern, or .txt list of images; default: the validation images of the training"
    add("paths", nargs="*", metavar="PATH", help=paths)
    add("--data", metavar="DIR", help="the validation images of this folder")
    add("--out", action="append", default=[], metavar="FILE", help=".csv or .json to write; for both, twice")
    add("--top-k", type=int, default=5, help="classes per image (default 5)")
    add("--batch-size", type=int, default=32, help="images per forward pass (default 32)")
    add("--use", choices=("raw", "ema"), help="which weights; default: what chose the best")
    engines = "paddle (default), inference, onnxruntime, openvino, or auto: the fastest here"
    add("--engine", default="paddle", metavar="NAME", help=engines)
    numbers = "default: the exported folder's own; f32 of a checkpoint"
    add("--precision", choices=PRECISIONS, help=numbers)
    args = parser.parse_args(argv)
    if args.data and args.paths:
        parser.error("argument --data: not allowed with PATH")
    outputs = [Path(name) for name in args.out]
    # Before the model is built: a typing error costs no minute.
    wrong = [str(path) for path in outputs if path.suffix not in (".csv", ".json")]
    if wrong:
        parser.error(f"can't tell the format of {', '.join(wrong)}: name it .csv or .json")
    tables = [path for path in args.paths if path.endswith((".csv", ".json"))]
    if tables:
        parser.error(f"{tables[0]} is no image; each file to write has its own --out")
    if min(args.top_k, args.batch_size) < 1:
        parser.error("--top-k and --batch-size must be at least 1")
    prepare(args)

    def run() -> int:
        from passl_sot.predict import Predictor, collect_images, write_predictions
        from passl_sot.published.store import local_weights

        try_outputs(outputs)
        if not args.paths and Path(args.weights).is_dir():
            raise UserError(f"{args.weights} is an exported folder, which knows no images: name some as PATH")
        args.weights = str(local_weights(args.weights))
        files = collect_images(args.paths) if args.paths else _validation_files(args)
        predictor = Predictor(
            args.weights,
            prefer=args.use,
            batch_size=args.batch_size,
            top_k=args.top_k,
            engine=args.engine,
            precision=args.precision,
        )
        results = list(predictor.predict(files, progress=True))
        for output in outputs:
            write_predictions(results, output)
        return _show_predictions(results)

    return guarded(run)


def _validation_files(args: argparse.Namespace) -> list[str]:
    """The files that evaluation would read."""
    from passl_sot.data import DataError, build_dataset

    experiment, lines = _experiment_of(argparse.Namespace(config=None, override=[], **vars(args)))
    dataset = build_dataset(experiment.dataloader.val.dataset)
    files = [dataset.path(i) for i in range(len(dataset))]
    if not Path(files[0]).is_file():
        raise DataError(
            f"{dataset.root} is a packed copy, which holds no files: `eval --weights {args.weights} --out "
            "FILE` writes a prediction for each of its images" + zh("predict_packed")
        )
    if lines:
        get_logger().info("\n".join(lines))
    return files


def _show_predictions(results: list, most: int = 20) -> int:
    """Prints the first predictions and every unreadable file; 1 if nothing could be read."""
    for result in results[:most]:
        if result.names:
            # Names come with a model, perhaps a stranger's: none shall steer the terminal.
            name = "".join(c if c.isprintable() else "?" for c in result.names[0])
            print(f"{result.path}  {name}  {100 * result.probabilities[0]:.2f} %")
        else:
            print(f"{result.path}  unreadable")
    if len(results) > most:
        print(f"... and {len(results) - most} more")
    unreadable = [result for result in results if result.error]
    for result in unreadable:
        print(f"unreadable: {result.error}", file=sys.stderr)
    if unreadable:
        print(f"{len(unreadable)} of {len(results)} images could not be read", file=sys.stderr)
    # A few bad files among many are no failure of the command.
    return int(len(unreadable) == len(results))
