"""`tools/train.py`."""

import argparse
import functools
import json
from pathlib import Path

from passl_sot.cli.command import command, guarded, make_parser, prepare
from passl_sot.cli.options import add_settings
from passl_sot.launch.supervisor import supervise
from passl_sot.utils.logger import get_logger


def _parse(argv: list[str] | None) -> argparse.Namespace:
    does = "Train from a YAML config, on one device or under paddle.distributed.launch."
    parser = make_parser("train", does, required=False)
    add_settings(parser)
    add = parser.add_argument
    add(
        "--data",
        metavar="DIR",
        help="your folder: train/ and val/, or one folder per class; of texts also a table",
    )
    add("--resume", metavar="auto|PATH", help="go on with a run exactly where it stopped; PATH needs no -c")
    changed = "settings (a.b.c, or a section and its data) that may differ from the checkpoint's"
    add("--resume-override", nargs="+", action="extend", default=[], metavar="KEY", help=changed)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--init-from", metavar="PATH", help="begin a new run from these weights of this model")
    fitted = (
        "begin from weights of other classes, sizes or channels, which are fitted; the head may be new. A "
    )
    fitted += "name (deit_small) means the published ones, which are fetched"
    start.add_argument("--pretrained", metavar="W", help=fitted)
    add("--dry-run", action="store_true", help="check everything, estimate, and stop")
    add("--evaluate-only", action="store_true", help="evaluate the weights given and stop")
    add("--check-all-files", action="store_true", help="decode every image first")
    args = parser.parse_args(argv)
    if not args.config and not _checkpoint_of(args):
        parser.error("name a config with -c, or a checkpoint with --resume, --init-from or --pretrained")
    if args.resume and args.init_from:
        parser.error("argument --init-from: not allowed with argument --resume")
    if args.resume_override and not args.resume:
        parser.error("--resume-override goes with --resume")
    if args.evaluate_only and not (args.resume or args.init_from):
        parser.error("--evaluate-only needs weights: --resume auto, --resume PATH or --init-from PATH")
    return args


def _checkpoint_of(args: argparse.Namespace) -> str | None:
    """The checkpoint that the run is to begin with, or go on from, where it is named."""
    resumed = None if args.resume == "auto" else args.resume
    return resumed or args.init_from or args.pretrained


@command
def train(argv: list[str] | None = None) -> int:
    """`tools/train.py`: trains a model, goes on with a run, or checks one."""
    args = _parse(argv)
    # A dry run starts nothing that could be left behind.
    if not args.dry_run:
        status = supervise()
        if status is not None:
            return status
    prepare(args)

    def work() -> int | None:
        from passl_sot.cli.data_folder import Source
        from passl_sot.engine.distributed import start
        from passl_sot.engine.entry import check_run, evaluate_run, train_run, weights_to_evaluate
        from passl_sot.zoo import find_start

        pretrained = None
        tokenizer = None
        if args.pretrained:
            begin = find_start(args.config, args.pretrained)
            args.pretrained = str(begin.path)
            tokenizer = begin.tokenizer
            # The engine doesn't know the zoo, so it gets a function that does.
            pretrained = functools.partial(begin.load, new_head=True)
        source = Source.of(args.config, _checkpoint_of(args))
        resumed = source.stored is not None and args.resume
        notes: list[str] = []
        added: list[str] = []
        if args.data:
            # What was planned for the run stands in its checkpoint.
            added, lines = source.on_folder(args.data, args.override, plan=not resumed)
            notes += lines
        if tokenizer is not None:
            added += source.with_tokenizer(tokenizer)
        if resumed:
            # It goes on in its own folder, wherever the command is given.
            added.append(f"output_dir={json.dumps(str(source.path.resolve().parent.parent))}")
        args.override = [*added, *args.override]
        experiment = source.load(args.override)
        source.require_data(experiment, ("val",) if args.evaluate_only else ("train", "val"))
        folder = Path(experiment.output_dir) / source.name
        sharding = experiment.distributed.sharding
        if args.dry_run or args.evaluate_only:
            sharding = 0  # there is no optimizer to divide
        world = start(experiment.device, sharding=sharding)
        if notes and world.is_main:
            get_logger().info("\n".join(notes))
        if args.dry_run:
            check_run(experiment, folder, world, args, pretrained)
        elif args.evaluate_only:
            evaluate_run(experiment, weights_to_evaluate(folder, args), None, world)
        else:
            return train_run(experiment, folder, world, args, pretrained)
        return None

    return guarded(work)
