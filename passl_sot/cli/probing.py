"""`passl-sot features` and `passl-sot probe`: what a frozen model makes of items, and what that is worth."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passl_sot.cli.command import command, guarded, make_parser, prepare, try_outputs
from passl_sot.cli.options import Parser, add_settings
from passl_sot.config import UserError
from passl_sot.utils.logger import RESULT, get_logger

if TYPE_CHECKING:
    from passl_sot.data.schema import DataSection
    from passl_sot.judging.features import FeatureBank, FeatureMaker

_OTHER = "your folder: train/ and val/, or one folder per class, of any classes; of texts also a table"


def _parser(name: str, does: str) -> Parser:
    parser = make_parser(name, does, required=False)
    add_settings(parser, {"--batch-size": ("dataloader.val.sampler.batch_size", "N")})
    add = parser.add_argument
    weights = "a checkpoint, with -c also bare weights, or a published name (deit_small)"
    add("--weights", required=True, metavar="W", help=weights)
    add("--data", metavar="DIR", help=f"{_OTHER}; default: the data of the training")
    add("--use", choices=("raw", "ema"), help="which weights; default: what chose the best")
    pool = "head: what its last layers take (default); token: the class token; words: the mean of words"
    add("--pool", choices=("head", "token", "words"), default="head", help=pool)
    return parser


@command
def features(argv: list[str] | None = None) -> int:
    """`passl-sot features`: writes features of images or texts, before the head, as safetensors."""
    parser = _parser("features", "Write features of a frozen model; what stands in the file isn't computed.")
    add = parser.add_argument
    split = "part of the data, of a folder without parts as training divides it; default: what eval reads"
    add("--split", choices=("train", "val"), help=split)
    add("--out", required=True, metavar="FILE", help=".safetensors to write")
    args = parser.parse_args(argv)
    if Path(args.out).suffix != ".safetensors":
        parser.error("argument --out: name it .safetensors")
    prepare(args)

    def run() -> None:
        path = Path(args.out)
        try_outputs([path])
        split = args.split or "val"
        maker, data = _open(args, (split,), divided=args.split is not None)
        dataset = maker.open(getattr(data, split).dataset)
        bank, computed = maker.bank(dataset, data.val, path)
        items, width = bank.features.shape
        words = "written" if computed else "there already, nothing was computed"
        text = "%s: features of %d %s, %d each (%s): %s"
        get_logger().log(RESULT, text, path, items, maker.task.words.items, width, maker.pooling, words)

    return guarded(run)


@command
def probe(argv: list[str] | None = None) -> int:
    """`passl-sot probe`: k-NN and a linear probe on features of a frozen model."""
    does = "Try a frozen model's features: k nearest neighbours and a linear probe, learned from train."
    parser = _parser("probe", does)
    parser.add_argument("--out", metavar="FILE", help=".json to write")
    args = parser.parse_args(argv)
    prepare(args)

    def run() -> None:
        from passl_sot.engine.entry import write_json
        from passl_sot.judging.probes import knn, linear_probe
        from passl_sot.utils.require import check_extra
        from passl_sot.utils.table import markdown

        # Before anything is computed.
        check_extra(["sklearn"], "judging", "the linear probe")
        if args.out:
            try_outputs([Path(args.out)])
        maker, data = _open(args, ("train", "val"), divided=True)
        train, val = _banks(maker, data)
        sets: Any = (train.features, train.labels, val.features, val.labels, len(train.facts["class_names"]))
        rows = [*knn(*sets), linear_probe(*sets)]
        heads = [name for name in ("probe", "top1", "top5", "C") if name in rows[-1]]
        table = "\n".join(markdown(heads, [[row.get(head, "") for head in heads] for row in rows]))
        facts = {"features": maker.pooling, "train": len(train.features), "val": len(val.features)}
        text = "features: %s, learned from %d %s, tried on %d\n%s"
        noun = maker.task.words.items
        get_logger().log(RESULT, text, *list(facts.values())[:2], noun, facts["val"], table)
        if args.out:
            write_json(Path(args.out), {"weights": args.weights, **facts, "probes": rows})

    return guarded(run)


def _open(
    args: argparse.Namespace, splits: tuple[str, ...], *, divided: bool
) -> "tuple[FeatureMaker, DataSection]":
    """What makes the features, and the data; a DataError where these aren't here.

    With `divided` a folder without parts is divided as for training.
    """
    from passl_sot.cli.data_folder import Source
    from passl_sot.export.source import read_source
    from passl_sot.judging.features import FeatureMaker
    from passl_sot.published.store import local_weights
    from passl_sot.zoo import load_weights

    weights = local_weights(args.weights)
    source = Source.of(args.config, str(weights))
    described = source.load(args.override) if args.config else None
    model, meta = read_source(weights, described, prefer=args.use)
    if args.config:
        load_weights(model, weights)
    added: list[str] = []
    if args.data:
        added, lines = source.on_folder(args.data, args.override, training=divided, plan=False)
        get_logger().info("\n".join(lines))
    experiment = source.load([*added, *args.override])
    source.require_data(experiment, splits)
    return FeatureMaker(model, meta, args.pool), experiment.dataloader


def _banks(maker: "FeatureMaker", data: "DataSection") -> "list[FeatureBank]":
    """The features of both splits, kept in the cache's folder."""
    datasets: list[Any] = []
    for split in ("train", "val"):
        # Numbered alike, though one may lack a class.
        names = datasets[0].class_names if datasets else None
        datasets.append(maker.open(getattr(data, split).dataset, names))
        labels = datasets[-1].labels
        if datasets[-1].multi_hot is not None or labels is None or labels.dtype != "int64":
            raise UserError(
                f"probes need one class for each item, and the {split} data have none, or several"
            )
    return [maker.bank(dataset, data.val)[0] for dataset in datasets]
