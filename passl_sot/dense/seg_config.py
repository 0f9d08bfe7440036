"""The YAML files of segmentation: PaddleSeg's sections, and two of ours that the suite doesn't see.

`train:` holds arguments of `paddleseg.core.train` that its own script takes as options; `meta:` says where a
recipe comes from and what was published for it. All is checked before anything is built.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle

from passl_sot.config import Config, ConfigError, Fault, did_you_mean, get_config, nearest
from passl_sot.config.errors import join_path

_DATA = ("train_dataset", "val_dataset")
_NEEDED = ("model", "loss", "optimizer", "lr_scheduler", "batch_size", "iters", *_DATA)
_SECTIONS = (*_NEEDED, "test_config", "to_static_training", "train", "meta")
# The other arguments of `paddleseg.core.train` are made from other sections.
_OPTIONS = (
    "save_interval",
    "log_iters",
    "num_workers",
    "use_vdl",
    "use_ema",
    "keep_checkpoint_max",
    "precision",
    "amp_level",
)
# The suite takes these out of `lr_scheduler` before Paddle's class is called.
_WARMUP = ("warmup_iters", "warmup_start_lr")


@dataclass(frozen=True)
class SegmentationConfig:
    """A file that was read and checked.

    Attributes:
        path: The file.
        sections: What the suite reads.
        options: The section `train`.
        meta: The section `meta`.
    """

    path: Path
    sections: dict[str, Any]
    options: dict[str, Any]
    meta: dict[str, Any]


def read_segmentation(path: Path, overrides: Sequence[str] = ()) -> SegmentationConfig:
    """Reads a file with its bases and overrides, and checks it against the suite's classes.

    Raises:
        ConfigError: All that is wrong, with places and the nearest valid names.
    """
    config = get_config(path, overrides)
    faults = [*_top_level(config), *_nodes(config, "", config)]
    if not faults:
        faults += _classes(config)
    if faults:
        raise ConfigError(faults)
    # Plain dicts: the suite's classes compare types.
    tree = config.to_dict()
    meta = tree.pop("meta", {})
    options = tree.pop("train", {})
    return SegmentationConfig(path, tree, options, meta)


def check_data(config: SegmentationConfig, *names: str) -> None:
    """Sees that the data of these sections is there: the suite would download some of what isn't.

    Raises:
        ConfigError: Names the key and what it leads to.
    """
    faults = []
    for name in names:
        section = config.sections[name]
        keys = {"dataset_root": Path.is_dir, "train_path": Path.is_file, "val_path": Path.is_file}
        for key, there in keys.items():
            value = section.get(key)
            if value is None:
                missing = key == "dataset_root"
                message = "name the folder of the data"
            else:
                missing = not there(Path(value))
                message = f"there is no {Path(value).absolute()}: put the data there, or name where it is"
            if missing:
                faults.append(Fault(f"{name}.{key}", message, kind="file"))
    if faults:
        raise ConfigError(faults)


def _fault(config: Config, path: str, message: str, kind: str, near: str | None = None) -> Fault:
    return Fault(path, message + did_you_mean(near), config.origin_near(path), kind, near)


def _top_level(config: Config) -> Iterator[Fault]:
    # The suite names missing sections one by one, each after another start.
    for name in _NEEDED:
        if name not in config:
            yield _fault(config, name, "this section is needed", "missing")
    for name in config:
        if name not in _SECTIONS:
            yield _fault(config, name, "PaddleSeg has no such section", "unknown", nearest(name, _SECTIONS))
    for name in config.get("train") or {}:
        if name not in _OPTIONS:
            message = "no such option of PaddleSeg's trainer"
            yield _fault(config, f"train.{name}", message, "unknown", nearest(name, _OPTIONS))


def _nodes(value: Any, path: str, config: Config) -> Iterator[Fault]:
    """Faults of all mappings with a `type`: names of classes, and of their arguments."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nodes(item, join_path(path, index), config)
    elif isinstance(value, dict):
        # The suite's way to drop what a base has; our loader replaces a node by its name.
        if "_inherited_" in value:
            where = join_path(path, "_inherited_")
            yield _fault(config, where, "isn't read here: write the section in a file without bases", "base")
        elif "type" in value:
            yield from _node(value, path, config)
        for key, item in value.items():
            yield from _nodes(item, join_path(path, key), config)


def _node(node: dict[str, Any], path: str, config: Config) -> Iterator[Fault]:
    known = _schedules() if path == "lr_scheduler" else components()
    name = node["type"]
    # The suite's own names for two optimizers.
    name = {"adam": "Adam", "sgd": "SGD"}.get(name, name)
    if name == "SGD" and "momentum" in node:
        name = "Momentum"
    if name not in known:
        message = f"PaddleSeg has no {name!r}"
        yield _fault(config, join_path(path, "type"), message, "name", nearest(name, known))
        return
    parameters = inspect.signature(known[name]).parameters.values()
    # Such a class takes any name, and passes it on.
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    accepted = [parameter.name for parameter in parameters]
    if path == "lr_scheduler":
        accepted += _WARMUP
    for key in node:
        if key != "type" and key not in accepted:
            message = f"{name} takes no such argument"
            yield _fault(config, join_path(path, key), message, "unknown", nearest(key, accepted))


def components() -> dict[str, Any]:
    """All classes and functions that a `type` may name, but schedules."""
    from paddleseg.cvlibs import manager

    kinds = ("MODELS", "BACKBONES", "DATASETS", "TRANSFORMS", "LOSSES", "OPTIMIZERS")
    return {name: item for kind in kinds for name, item in getattr(manager, kind).components_dict.items()}


def _schedules() -> dict[str, Any]:
    schedule = paddle.optimizer.lr.LRScheduler
    found = vars(paddle.optimizer.lr).items()
    return {name: item for name, item in found if inspect.isclass(item) and issubclass(item, schedule)}


def _classes(config: Config) -> Iterator[Fault]:
    """A class of the number that means "ignored" would be ignored, and padding would become a class."""
    for name in _DATA:
        section = config[name]
        dataset = components()[section["type"]]
        ignored = section.get("ignore_index", getattr(dataset, "IGNORE_INDEX", 255))
        count = section.get("num_classes", getattr(dataset, "NUM_CLASSES", 0))
        where = f"{name}.ignore_index"
        if ignored in range(count):
            message = f"{ignored} is also one of the {count} classes: write a number from {count} on"
            yield _fault(config, where, message, "value")
        for index, transform in enumerate(section.get("transforms") or []):
            key = "label_padding_value"
            parameter = inspect.signature(components()[transform["type"]]).parameters.get(key)
            if parameter and transform.get(key, parameter.default) != ignored:
                path = f"{name}.transforms.{index}.{key}"
                yield _fault(config, path, f"pads by another number than {where}: write {ignored}", "value")
