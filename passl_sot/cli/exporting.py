"""`tools/export.py`: a trained model as files that other programs read."""

import argparse
from pathlib import Path
from typing import Any

from passl_sot.cli.command import command, guarded, make_parser, prepare
from passl_sot.cli.options import PRECISIONS
from passl_sot.utils.logger import RESULT, get_logger

_FORMATS = "paddle,onnx,openvino"


@command
def export(argv: list[str] | None = None) -> int:
    """`tools/export.py`: writes a trained model for Paddle Inference, ONNX Runtime, OpenVINO, PaddleX."""
    does = "Export a trained model, and prove that each engine computes what it does."
    parser = make_parser("export", does, required=False)
    add = parser.add_argument
    add(
        "--weights",
        required=True,
        metavar="W",
        help="a checkpoint, a published model's name, or with -c bare weights",
    )
    add("--out", required=True, metavar="DIR", help="folder to write; an export that it holds is replaced")
    add("--formats", default=_FORMATS, metavar="LIST", help=f"with commas; default {_FORMATS}")
    add("--precision", choices=PRECISIONS, default="f32", help="arithmetic (default f32)")
    images = (
        "images to calibrate and to measure --precision on, as for train --data; default: the validation's"
    )
    add("--calibrate", metavar="DIR", help=images)
    size = "side of the images in pixels, other than the model's; its preprocessing follows"
    add("--img-size", type=int, metavar="N", help=size)
    add("--dynamic-size", action="store_true", help="leave height and width open, where the model can")
    add("--use", choices=("raw", "ema"), help="which weights of a checkpoint; default: what chose the best")
    add(
        "--labels",
        metavar="FILE",
        help="names of the classes, one a line, also as PaddleClas writes: id name; or imagenet-1k",
    )
    add("--paddlex-name", metavar="NAME", help="the model's name for PaddleX; default: the run's or config's")
    args = parser.parse_args(argv)
    if args.override and not args.config:
        parser.error("-o changes a config: name one with -c")
    if args.img_size is not None and args.img_size < 1:
        parser.error("--img-size must be at least 1")
    prepare(args)
    return guarded(lambda: _export(args))


def _export(args: argparse.Namespace) -> None:
    from passl_sot.cli.data_folder import Source
    from passl_sot.export import export_model
    from passl_sot.export.folder import check_packages, check_target
    from passl_sot.export.source import change_size, read_labels, read_source
    from passl_sot.published.store import local_weights
    from passl_sot.zoo import load_weights

    folder = Path(args.out)
    formats = [name.strip() for name in args.formats.split(",")]
    # Before the model is built: a typing error costs no minute.
    check_packages(formats)
    check_target(folder)
    args.weights = local_weights(args.weights)
    source = Source.of(args.config, args.weights)
    experiment = source.load(args.override) if args.config else None
    model, meta = read_source(args.weights, experiment, prefer=args.use)
    if args.config:
        load_weights(model, args.weights)
    if args.img_size:
        meta = change_size(model, meta, args.img_size)
    data = _open_data(args, source, model, meta)
    if args.labels:
        names = read_labels(Path(args.labels), model.num_classes)
        meta = {**meta, "class_names": names, "classes_unnamed": False}
    elif meta.get("classes_unnamed"):
        get_logger().info("no --labels: the classes are named by their numbers")
    get_logger().info("writing %s and comparing what each engine computes by it", ", ".join(formats))
    differences = export_model(
        model,
        meta,
        folder,
        formats,
        precision=args.precision,
        calibration=data,
        items=_some_items(data),
        dynamic=args.dynamic_size,
        paddlex_name=args.paddlex_name or source.name,
    )
    worst = max(differences.values())
    get_logger().log(RESULT, "exported to %s; greatest difference of a logit %.1e", folder, worst)


def _open_data(args: argparse.Namespace, source: Any, model: Any, meta: dict[str, Any]) -> Any:
    """The items of `--calibrate` or the validation, as the model takes them; None where there are none."""
    from passl_sot.config import ConfigError
    from passl_sot.data import DataError
    from passl_sot.tasks.base import task_of
    from passl_sot.weights import CheckpointError

    try:
        experiment, _ = source.experiment(args.calibrate, args.override, ("val",), training=False)
        dataset = task_of(meta).prepare_evaluation(model, experiment.dataloader.val.dataset, meta)
    except (ConfigError, DataError, CheckpointError) as error:
        if args.calibrate:
            raise
        get_logger().info(
            "no validation data: made-up inputs alone are compared (%s)", str(error).partition("\n")[0]
        )
        return None
    dataset.prepare(training=False)
    return dataset


def _some_items(data: Any, most: int = 3) -> list[Any]:
    """A few image files or texts, spread over a dataset; none of a packed copy, which holds no files."""
    if data is None:
        return []
    numbers = range(0, len(data), max(1, len(data) // most))[:most]
    if hasattr(data, "texts"):
        return [data.texts(i) for i in numbers]
    return [data.path(i) for i in numbers if Path(data.path(i)).is_file()]
