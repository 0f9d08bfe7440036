"""`tools/eval.py` and `tools/predict.py`: the outputs of a trained model."""

import argparse
import functools
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passl_sot.cli.command import command, guarded, make_parser, prepare, try_outputs
from passl_sot.cli.options import PRECISIONS, add_settings, numbers, words
from passl_sot.cli.suites import judge
from passl_sot.config import UserError, zh
from passl_sot.launch.supervisor import supervise
from passl_sot.utils.logger import get_logger

if TYPE_CHECKING:
    from passl_sot.engine.schema import Experiment
    from passl_sot.tasks.base import Task

_MOST_MISTAKES = 500  # that a sheet can hold
_TTA = "test-time augmentation, the mean of views of each image: flip, crops, or flip,crops"


@command
def evaluate(argv: list[str] | None = None) -> int:
    """`tools/eval.py`: evaluates a checkpoint: accuracy, per-class scores, confusion matrix."""
    args = _parse_evaluate(argv)
    status = supervise()
    if status is not None:
        return status
    prepare(args)
    if args.suite:
        return guarded(functools.partial(judge, args))

    def run() -> None:
        from passl_sot.engine.distributed import start
        from passl_sot.engine.entry import evaluate_run
        from passl_sot.judging.sizes import resolution_curve
        from passl_sot.judging.soup import make_soup
        from passl_sot.published.store import local_weights

        given = [str(local_weights(name)) for name in args.weights]
        experiment, lines = _experiment_of(args, given[0])
        out = Path(args.out) if args.out else None
        if out:
            try_outputs([out])
        world = start(experiment.device)
        if lines and world.is_main:
            get_logger().info("\n".join(lines))
        weights: Any = given[0]
        if args.average:
            folder = out.parent if out else None
            weights = make_soup(given, args.average, experiment, world, folder, tta=args.tta)
        if args.sizes:
            resolution_curve(experiment, weights, args.sizes, out, world, tta=args.tta)
        else:
            also = functools.partial(_save_mistakes, args.mistakes) if args.mistakes else None
            evaluate_run(experiment, weights, out, world, tta=args.tta, also=also)

    return guarded(run)


def _parse_evaluate(argv: list[str] | None) -> argparse.Namespace:
    does = "Evaluate weights on the validation split of a config, by default the checkpoint's own."
    parser = make_parser("eval", does, required=False)
    add_settings(parser, {"--batch-size": ("dataloader.val.sampler.batch_size", "N")})
    add = parser.add_argument
    weights = (
        "a checkpoint, .safetensors or .pdparams, or a published name (deit_small); with --suite or "
        "--average several"
    )
    add("--weights", nargs="+", required=True, metavar="W", help=weights)
    add("--data", metavar="DIR", help="other images: train/ and val/, or one folder per class")
    add("--out", metavar="FILE", help="metrics.json to write; tables and pictures go beside it")
    sets = "sets of ImageNet-1K's classes: val, real, v2, sketch, a, r, c, c-val (docs/judging.md)"
    add("--suite", nargs="+", action="extend", metavar="NAME=DIR", help=sets)
    partial = "with --suite: score sets of which a part is missing, and say so"
    add("--partial", action="store_true", help=partial)
    mean = (
        "evaluate the mean of several checkpoints: of all (uniform), or of those that make it better on the "
    )
    mean += "validation data (greedy); beside --out it is average.safetensors"
    add("--average", nargs="?", choices=("uniform", "greedy"), const="uniform", help=mean)
    add("--tta", type=words, default=[], metavar="VIEWS", help=_TTA)
    sizes = "evaluate the shown weights at images of these sides instead, as 160,192,224"
    add("--sizes", type=numbers, metavar="N,...", help=sizes)
    worst = "with --out: the N most confident errors beside it, mistakes.png and mistakes.html"
    add("--mistakes", type=int, metavar="N", help=worst)
    args = parser.parse_args(argv)
    if args.suite and (args.data or args.average or args.sizes):
        parser.error("--suite: not allowed together with --data, --average or --sizes")
    if args.partial and not args.suite:
        parser.error("--partial goes with --suite")
    if args.average and len(args.weights) < 2:
        parser.error("--average takes several checkpoints: --weights A B")
    if len(args.weights) > 1 and not (args.average or args.suite):
        parser.error("several --weights go with --average or --suite")
    if args.sizes and min(args.sizes) < 1:
        parser.error("--sizes must be at least 1")
    if args.mistakes is not None and (args.suite or args.sizes):
        parser.error("--mistakes: not allowed together with --suite or --sizes")
    if args.mistakes is not None and not (args.out and 1 <= args.mistakes <= _MOST_MISTAKES):
        parser.error(f"--mistakes takes 1 to {_MOST_MISTAKES}, and needs --out FILE to write them beside")
    return args


def _save_mistakes(most: int, task: "Task", meter: Any, val: Any, folder: Path) -> list[Path]:
    from passl_sot.vis.mistakes import save_mistakes  # not before it is needed: it draws

    return save_mistakes(task, meter, val, folder, most)


def _experiment_of(args: argparse.Namespace, weights: str) -> "tuple[Experiment, list[str]]":
    """What `-c` or the checkpoint describes, on the data of `--data` or its own; lines on these."""
    from passl_sot.cli.data_folder import Source

    source = Source.of(args.config, weights)
    return source.experiment(args.data, args.override, ("val",), training=False)


@command
def predict(argv: list[str] | None = None) -> int:
    """`tools/predict.py`: predicts the classes of files, folders, patterns or lists, or of texts."""
    args = _parse_predict(argv)
    outputs = [Path(name) for name in args.out]
    prepare(args)

    def run() -> int:
        from passl_sot.predict import Predictor, task_for, write_predictions
        from passl_sot.published.store import local_weights

        try_outputs(outputs)
        given = args.paths or args.text
        if not given and Path(args.weights).is_dir():
            raise UserError(f"{args.weights} is an exported folder, which has no data: name some as PATH")
        args.weights = str(local_weights(args.weights))
        task, meta = task_for(args.weights)
        items = items_of(args, task) if given else _validation_items(args, task, meta)
        predictor = Predictor(
            args.weights,
            prefer=args.use,
            batch_size=args.batch_size,
            top_k=args.top_k,
            engine=args.engine,
            precision=args.precision,
            tta=args.tta,
        )
        results = list(predictor.predict(items, progress=True))
        for output in outputs:
            write_predictions(results, output)
        return _show_predictions(results, task.words.items)

    return guarded(run)


def _parse_predict(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser("predict", "Predict images or texts with a checkpoint.", config=False)
    add = parser.add_argument
    weights = "a checkpoint, a folder that `export` wrote, or a published name (deit_small)"
    add("--weights", required=True, metavar="W", help=weights)
    paths = "image, folder, pattern, or .txt list of images; .txt (a text a line), .csv, .tsv or .jsonl of "
    paths += "texts, or - for lines of standard input; default: the validation data of the training"
    add("paths", nargs="*", metavar="PATH", help=paths)
    add("--text", nargs="+", action="append", default=[], metavar="TEXT", help="a text, or two of a pair")
    add("--columns", metavar="A[,B]", help="columns of the texts in a table; default: their usual names")
    add("--data", metavar="DIR", help="the validation images of this folder")
    files = ".csv, .json, or GLUE's .tsv (texts alone) to write; for several, several times"
    add("--out", action="append", default=[], metavar="FILE", help=files)
    add("--top-k", type=int, default=5, help="classes per item (default 5)")
    add("--batch-size", type=int, default=32, help="items per forward pass (default 32)")
    add("--use", choices=("raw", "ema"), help="which weights; default: what chose the best")
    engines = "paddle (default), inference, onnxruntime, openvino, or auto: the fastest here"
    add("--engine", default="paddle", metavar="NAME", help=engines)
    arithmetic = "default: the exported folder's own; f32 of a checkpoint"
    add("--precision", choices=PRECISIONS, help=arithmetic)
    add("--tta", type=words, default=[], metavar="VIEWS", help=_TTA)
    args = parser.parse_args(argv)
    if bool(args.data) + bool(args.paths) + bool(args.text) > 1:
        parser.error("PATH, --text and --data: not allowed together")
    if any(len(texts) > 2 for texts in args.text):
        parser.error("--text takes a text, or two of a pair; write --text once for each")
    # Before the model is built: a typing error costs no minute.
    wrong = [name for name in args.out if Path(name).suffix not in (".csv", ".json", ".tsv")]
    if wrong:
        parser.error(f"can't tell the format of {', '.join(wrong)}: name it .csv, .json or .tsv")
    if min(args.top_k, args.batch_size) < 1:
        parser.error("--top-k and --batch-size must be at least 1")
    return args


def items_of(args: argparse.Namespace, task: "Task") -> list:
    """What PATH or --text names for prediction."""
    if not task.takes_texts and (args.text or args.columns):
        raise UserError(f"{args.weights} is for {task.words.items}: --text and --columns are for texts")
    if args.text:
        return [tuple(texts) if len(texts) == 2 else texts[0] for texts in args.text]
    tables = [path for path in args.paths if path.endswith((".csv", ".json"))]
    if tables and not task.takes_texts:
        raise UserError(f"{tables[0]} is no image; each file to write has its own --out")
    columns = args.columns.split(",") if args.columns else []
    if len(columns) > 2:
        raise UserError(f"--columns {args.columns}: name the column of the texts, or the two of pairs")
    return task.collect(args.paths, columns)


def _validation_items(args: argparse.Namespace, task: "Task", meta: dict) -> list:
    """What evaluation would read."""
    from passl_sot.data import DataError

    experiment, lines = _experiment_of(
        argparse.Namespace(config=None, override=[], **vars(args)), args.weights
    )
    node = experiment.dataloader.val.dataset
    items = task.items_of(node, meta)
    if isinstance(items[0], str) and not Path(items[0]).is_file():
        raise DataError(
            f"{node['dataroot']} is a packed copy, which holds no files: `eval --weights {args.weights} "
            "--out FILE` writes a prediction for each of its images" + zh("predict_packed")
        )
    if lines:
        get_logger().info("\n".join(lines))
    return items


def _show_predictions(results: list, noun: str, most: int = 20) -> int:
    """Prints the first predictions and every unreadable item; 1 if nothing could be read."""
    for result in results[:most]:
        text = textwrap.shorten(getattr(result, "text", ""), 100, placeholder=" ...")
        shown = _printable(text or result.path)
        if result.names:
            print(f"{shown}  {_printable(result.names[0])}  {100 * result.probabilities[0]:.2f} %")
        elif result.error:
            print(f"{shown}  unreadable")
        else:
            print(f"{shown}  {result.value:.3f}")
    if len(results) > most:
        print(f"... and {len(results) - most} more")
    unreadable = [result for result in results if result.error]
    for result in unreadable:
        print(f"unreadable: {result.error}", file=sys.stderr)
    if unreadable:
        print(f"{len(unreadable)} of {len(results)} {noun} could not be read", file=sys.stderr)
    # A few bad files among many are no failure of the command.
    return int(len(unreadable) == len(results))


def _printable(text: str) -> str:
    """A text on a line; names come with a model, perhaps a stranger's, and none shall steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
