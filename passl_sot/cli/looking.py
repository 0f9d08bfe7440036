"""`passl-sot preview` and `passl-sot compare`: what a run reads, and how runs went."""

from pathlib import Path

from passl_sot.cli.command import command, guarded, make_parser, prepare, try_outputs
from passl_sot.cli.options import Parser, add_settings
from passl_sot.cli.visualize import PAGE, pictures_in
from passl_sot.utils.logger import RESULT, get_logger


@command
def preview(argv: list[str] | None = None) -> int:
    """`passl-sot preview`: draws batches as training sees them, and what validation sees."""
    does = (
        "Draw augmented and mixed batches as training sees them, and validation's view, as a page and PNGs."
    )
    parser = make_parser("preview", does, computes=False)
    add_settings(parser)
    add = parser.add_argument
    add("--data", metavar="DIR", help="your folder, as for `train`")
    add(
        "--out",
        default="preview",
        metavar="DIR",
        help="a folder for index.html and pictures (default preview)",
    )
    add("--batches", type=int, default=1, metavar="N", help="so many of the epoch (default 1)")
    add("--epoch", type=int, default=1, metavar="E", help="counted from 1, as in the log (default 1)")
    args = parser.parse_args(argv)
    if min(args.batches, args.epoch) < 1:
        parser.error("--batches and --epoch must be at least 1")
    prepare(args)

    def run() -> None:
        from passl_sot.cli.data_folder import Source
        from passl_sot.vis.preview import save_preview

        out = Path(args.out)
        source = Source.of(args.config, None)
        experiment, lines = source.experiment(args.data, args.override, ("train", "val"), training=True)
        try_outputs([out / PAGE])
        if lines:
            get_logger().info("\n".join(lines))
        place = {"seed": experiment.seed, "epoch": args.epoch - 1, "count": args.batches}
        with pictures_in(out) as folder:
            save_preview(experiment.dataloader, folder / PAGE, **place)
        get_logger().log(RESULT, "see %s", out / PAGE)

    return guarded(run)


@command
def compare(argv: list[str] | None = None) -> int:
    """`passl-sot compare`: draws the curves of runs beside each other, and lists the settings that differ."""
    parser = Parser(
        prog="passl-sot compare", description="Compare runs: curves, figures, differing settings."
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, as output/sot_small; it may still be training",
    )
    add(
        "--out",
        default="compare",
        metavar="DIR",
        help="a folder for index.html, picture and tables (default compare)",
    )
    add("-q", "--quiet", action="store_true", help="only warnings and errors")
    args = parser.parse_args(argv)
    args.verbose = False
    prepare(args)

    def run() -> None:
        from passl_sot.vis.runs import save_comparison

        out = Path(args.out)
        try_outputs([out / PAGE])
        with pictures_in(out) as folder:
            save_comparison([Path(name) for name in args.runs], folder / PAGE)
        get_logger().log(RESULT, "see %s", out / PAGE)

    return guarded(run)
