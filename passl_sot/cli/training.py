"""`tools/train.py`."""

import functools

from passl_sot.cli.command import command, guarded, make_parser
from passl_sot.launch.cpu_env import tune
from passl_sot.launch.supervisor import supervise


@command
def train(argv: list[str] | None = None) -> int:
    """`tools/train.py`: trains, resumes, or checks a run."""
    parser = make_parser(
        "train", "Train from a YAML config, on one device or under paddle.distributed.launch."
    )
    parser.add_argument("--data", metavar="DIR", help="your folder: train/ and val/, or one folder per class")
    parser.add_argument("--resume", metavar="auto|PATH", help="go on with a run exactly where it stopped")
    changed = "settings (a.b.c, or a whole section) that may differ from the checkpoint's"
    parser.add_argument(
        "--resume-override", nargs="+", action="extend", default=[], metavar="KEY", help=changed
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--init-from", metavar="PATH", help="begin a new run from these weights of this model")
    fitted = "begin from weights of other classes, sizes or channels, which are fitted; the head may be new"
    start.add_argument("--pretrained", metavar="W", help=fitted)
    parser.add_argument("--dry-run", action="store_true", help="check everything, estimate, and stop")
    parser.add_argument("--evaluate-only", action="store_true", help="evaluate the weights given and stop")
    parser.add_argument("--check-all-files", action="store_true", help="decode every image first")
    args = parser.parse_args(argv)
    if args.resume and args.init_from:
        parser.error("argument --init-from: not allowed with argument --resume")
    if args.resume_override and not args.resume:
        parser.error("--resume-override goes with --resume")
    if args.evaluate_only and not (args.resume or args.init_from):
        parser.error("--evaluate-only needs weights: --resume auto, --resume PATH or --init-from PATH")
    status = None if args.dry_run else supervise()
    if status is not None:
        return status
    note = tune(not args.no_tune)

    def work() -> int:
        from passl_sot.cli.data_folder import overrides_for
        from passl_sot.engine.schema import load_config
        from passl_sot.zoo import find_config, load_weights

        path, notes = find_config(args.config), [note]
        if args.data:
            added, said = overrides_for(path, args.data, args.override)
            args.override, notes = [*added, *args.override], [note, *said]
        experiment = load_config(path, args.override)
        from passl_sot.engine.entry import check_run, run_folder, train_run

        # The engine doesn't know the zoo, so it gets a function that does.
        load = functools.partial(load_weights, weights=args.pretrained, new_head=True)
        run = check_run if args.dry_run else train_run
        run(
            experiment,
            run_folder(experiment, path),
            args,
            note="\n".join(notes),
            pretrained=load if args.pretrained else None,
        )
        return 0

    return guarded(work)
