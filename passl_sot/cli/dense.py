"""`tools/dense.py`: segmenters and detectors, trained and used through PaddleSeg and PaddleDetection."""

import argparse
import json
import re
from pathlib import Path

from passl_sot.cli.command import command, guarded, make_parser, prepare
from passl_sot.cli.options import Parser
from passl_sot.config import (
    dense_configs,
    did_you_mean,
    find_dense_config,
    nearest,
    read_meta,
)
from passl_sot.utils.environment import launcher_number
from passl_sot.utils.logger import RESULT, get_logger
from passl_sot.utils.table import markdown

ACTIONS = ("list", "train", "eval", "predict", "export")
# What each action needs beside a config.
_NEEDS = {"eval": ("weights",), "predict": ("weights", "images", "output"), "export": ("weights", "output")}


@command
def dense(argv: list[str] | None = None) -> int:
    """`tools/dense.py`: trains segmenters and detectors, and evaluates, predicts by and exports them."""
    does = "Train and use segmenters and detectors on our backbones, through PaddleSeg and PaddleDetection."
    parser = make_parser("dense", does, required=False)
    add = parser.add_argument
    add("action", metavar="ACTION", help=", ".join(ACTIONS))
    add("--weights", metavar="W", help="what training wrote: a .pdparams file, or the folder best_model")
    add("--output", metavar="DIR", help="folder to write; for train by default output/NAME")
    add("--resume", metavar="DIR", help="train: go on from a checkpoint of the suite, or `auto`: the newest")
    add("--seed", type=int, default=0, metavar="N", help="train: of all random numbers (default 0)")
    sizes = "train: only estimate size, compute and memory, at images of HEIGHTxWIDTH"
    add("--dry-run", nargs="*", type=_size, metavar="HxW", help=sizes)
    add("--images", nargs="+", metavar="PATH", help="predict: images, folders, lists")
    add("--size", type=_size, metavar="HxW", help="export: the only size that the graph takes; default: any")
    add("--onnx", action="store_true", help="export: also write inference.onnx")
    add("--logits", action="store_true", help="export: of a segmenter logits, rather than classes")
    add("--json", action="store_true", help="list, eval: print JSON and nothing else")
    args = parser.parse_args(argv)
    _check(parser, args)
    prepare(args)
    # Files alone are read for that; neither Paddle nor a suite need be there.
    if args.action == "list":
        return guarded(lambda: _list(args), paddle=False)
    return guarded(lambda: _run(args))


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})[xX*]([1-9]\d{0,4})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"not a height and width, such as 512x512: {text!r}")
    return int(found[1]), int(found[2])


def _check(parser: Parser, args: argparse.Namespace) -> None:
    if args.action not in ACTIONS:
        near = did_you_mean(nearest(args.action, ACTIONS))
        parser.error(f"there is no action {args.action!r}{near or '; choose among ' + ', '.join(ACTIONS)}")
    if args.action != "list" and not args.config:
        parser.error("name a config with -c; `passl-sot dense list` shows those that are shipped")
    missing = [f"--{name}" for name in _NEEDS.get(args.action, ()) if not getattr(args, name)]
    if missing:
        parser.error(f"dense {args.action} needs {' and '.join(missing)}")


def _list(args: argparse.Namespace) -> None:
    rows = [{"name": name, **read_meta(path)} for name, path in dense_configs().items()]
    if args.json:
        print(json.dumps(rows))
        return
    columns = ("name", "suite", "head", "recipe", "published")
    print("\n".join(markdown(columns, [[row.get(column, "-") for column in columns] for row in rows])))


def _run(args: argparse.Namespace) -> None:
    from passl_sot.dense.run import open_run

    config = find_dense_config(args.config)
    run = open_run(config, args.override)
    if args.action == "train":
        _train(args, run, config.stem)
    elif args.action == "eval":
        _show(args, run.evaluate(args.weights))
    elif args.action == "predict":
        from passl_sot.data.given import collect_images

        images = [Path(name) for name in collect_images(args.images)]
        files = run.predict(args.weights, images, Path(args.output))
        get_logger().log(RESULT, "%d files in %s", len(files), args.output)
    else:
        options = {name: True for name in ("onnx", "logits") if getattr(args, name)}
        folder = run.export(args.weights, Path(args.output), args.size, **options)
        get_logger().log(RESULT, "exported to %s", folder)


def _train(args: argparse.Namespace, run, name: str) -> None:
    from passl_sot.dense.run import SIZES, describe

    if args.dry_run is not None:
        for height, width in args.dry_run or [SIZES[run.suite]]:
            print("\n".join(describe(run, height, width)))
        return
    output = Path(args.output or Path("output") / name)
    metrics = run.train(output, args.resume, args.seed)
    if launcher_number("PADDLE_TRAINER_ID", 0, least=0) == 0:
        get_logger().log(RESULT, "the best weights are in %s", output)
        _show(args, metrics)


def _show(args: argparse.Namespace, metrics: dict[str, float]) -> None:
    if args.json:
        print(json.dumps(metrics))
        return
    for name, value in metrics.items():
        print(f"{name:10} {100 * value:.2f} %")
