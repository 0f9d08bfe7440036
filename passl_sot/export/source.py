"""What is exported: a checkpoint, or bare weights that a config describes; perhaps at another size."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passl_sot.data.imagenet import imagenet_classes
from passl_sot.export.card import ExportError
from passl_sot.modeling.backbones.text_backbone import TextBackbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.tasks.base import header_for, load_trained
from passl_sot.weights.checkpoint import is_checkpoint

_PREFIXED = re.compile(r"(\d+)\s+(\S.*)")


def read_source(
    weights: str | Path, experiment: Any = None, *, prefer: str | None = None
) -> tuple[Classifier, dict[str, Any]]:
    """The model to export, in evaluation mode, and its header.

    Args:
        weights: A checkpoint; or, with an experiment, weights that aren't loaded here.
        experiment: The config that describes bare weights.
        prefer: "raw" or "ema" weights of a checkpoint; by default those by which the run chose its best.

    Raises:
        CheckpointError: It is no checkpoint, or a damaged one.
        ExportError: A checkpoint has its own config.
    """
    if experiment is None:
        return load_trained(weights, prefer)
    if is_checkpoint(weights):
        raise ExportError(f"{weights} is a checkpoint, which has its own config: leave out -c")
    model = experiment.model.build()
    model.eval()
    return model, header_for(experiment)


def read_labels(path: Path, count: int) -> list[str]:
    """Names of `count` classes: one a line in order, or `id name` with ids from 0, as PaddleClas has them.

    "imagenet-1k" in place of a file stands for that set's classes, in the order of the sorted synset ids.

    Raises:
        ExportError: There are more or fewer, or the file is no UTF-8 text.
    """
    if str(path) == "imagenet-1k":
        names = [known.name for known in imagenet_classes()]
    else:
        names = _read_lines(path)
    if len(names) != count:
        raise ExportError(
            f"{path} names {len(names)} classes, and the model has {count}: write a name a line"
        )
    pairs = [match.groups() for match in map(_PREFIXED.fullmatch, names) if match]
    if sorted(int(number) for number, _ in pairs) == list(range(count)):
        by_number = {int(number): name for number, name in pairs}
        names = [by_number[number] for number in range(count)]
    return names


def _read_lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise ExportError(f"{path} is no UTF-8 text: save it as UTF-8") from error
    return [line for line in lines if line]


def change_size(model: Classifier, meta: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Brings a model and its header to square images of another size; the header is a new one.

    Sizes in the preprocessing keep their proportion to the model's: a resize to 256 before a crop of 224
    becomes one to 512 before a crop of 448, and `crop_pct` stays.

    Raises:
        ExportError: It takes no images.
    """
    if isinstance(model.backbone, TextBackbone):
        raise ExportError(f"{type(model.backbone).__name__} takes no images, whose size could be changed")
    old = model.backbone.img_size
    model.resize(side)
    sized = copy.deepcopy(dict(meta))
    sized["config"]["model"]["architecture"]["img_size"] = side
    for node in sized["preprocessing"]["transforms"]:
        size = node.get("size")
        if isinstance(size, int):
            node["size"] = round(size * side / min(old))
        elif size is not None:
            node["size"] = [round(part * side / was) for part, was in zip(size, old, strict=True)]
    return sized
