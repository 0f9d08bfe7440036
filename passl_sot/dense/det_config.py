"""The YAML files of detection: PaddleDetection's own, and a section `meta:` that the suite doesn't see.

They are read with line numbers, and checked against the suite's classes before any data is touched.
"""

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from passl_sot.config import ConfigError, Fault, Origin, did_you_mean, nearest
from passl_sot.config.errors import join_path, show
from passl_sot.config.overrides import apply_overrides
from passl_sot.config.yaml_text import Builder, read_text

# What the suite's trainer, callbacks and shared settings read from the top level of a file.
_OPTIONS = frozenset(
    """amp amp_level architecture bias classwise custom_black_list custom_white_list ema_decay ema_decay_type
    epoch find_unused_parameters init_loss_scaling log_iter metric num_classes output_eval pretrain_weights
    print_flops print_params save_dir snapshot_epoch use_ema use_gpu use_vdl vdl_log_dir weights
    worker_num""".split()  # noqa: SIM905 - a list of one word a line would be longer than all that it is for
)
_NEEDED = (
    *("architecture", "metric", "num_classes", "epoch", "log_iter", "snapshot_epoch", "worker_num"),
    *("LearningRate", "OptimizerBuilder", "TrainDataset", "EvalDataset", "TestDataset"),
    *("TrainReader", "EvalReader", "TestReader"),
)
_DATA = {"dataset_dir": Path.is_dir, "image_dir": Path.is_dir, "anno_path": Path.is_file}


class _Text(yaml.SafeLoader):
    """Reads the suite's tags as settings: `!PiecewiseDecay {gamma: 0.1}` is `{name: PiecewiseDecay, ...}`."""


def _named(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    settings = {}
    if isinstance(node, yaml.MappingNode):
        settings = loader.construct_mapping(node, deep=True)
    return {"name": name, **settings}


_Text.add_multi_constructor("!", _named)


def read_detection(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a file with its `_BASE_`, applies overrides, and checks it.

    Args:
        path: The file.
        overrides: "a.b.0.c=value" with the value in YAML, of keys that the file or the suite's class has.

    Returns:
        What the suite reads, and the section `meta`.

    Raises:
        ConfigError: All that is wrong, with places and the nearest valid names.
    """
    # All faults of one kind together; later kinds would follow from earlier ones.
    faults: list[Fault] = []
    tree, origins = _load(str(path), (), faults)
    if not faults:
        apply_overrides(tree, origins, [_may_add(text) for text in overrides], None, faults)
    if not faults:
        # Popped below, before the suite sees it.
        tree.setdefault("meta", {})
        faults += [
            Fault(place, message + did_you_mean(near), origins.get(place), "unknown", near)
            for place, message, near in _check(tree)
        ]
    if faults:
        raise ConfigError(faults)
    return tree, tree.pop("meta")


def check_data(tree: Mapping[str, Any], *sections: str) -> None:
    """Sees that the data of these sections is there: the suite would download some of what isn't.

    Raises:
        ConfigError: Names the key and where it leads.
    """
    faults = []
    for section in sections:
        root = Path(tree[section].get("dataset_dir") or "")
        for key, there in _DATA.items():
            value = tree[section].get(key)
            # A test set of images alone has no annotations.
            if value is None:
                continue
            target = root
            if key != "dataset_dir":
                target = root / value
            if not there(target):
                message = f"there is no {target.absolute()}: put the data there, or name where it is"
                faults.append(Fault(f"{section}.{key}", message, kind="file"))
                break
    if faults:
        raise ConfigError(faults)


def _load(path: str, chain: tuple[str, ...], faults: list[Fault]) -> tuple[dict[str, Any], dict[str, Origin]]:
    text = read_text(path)
    if re.search(r"^[^#]*[\s\[{,]![A-Za-z]", text, re.MULTILINE):
        # Lines are then those of the text without tags.
        text = yaml.safe_dump(yaml.load(text, _Text), sort_keys=False)
    built = Builder(text, path)
    faults += built.faults
    tree = built.value
    if not isinstance(tree, dict):
        raise ConfigError(
            [*faults, Fault("", "the top level must be keys with values", Origin(path), "yaml")]
        )
    bases = tree.pop("_BASE_", None) or []
    below: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        target = os.path.normpath(os.path.join(os.path.dirname(path), os.path.expanduser(str(base))))
        # The suite recurses until Python's stack ends.
        if target in (*chain, path):
            raise ConfigError([Fault("_BASE_", f"{target} is its own base", built.origins["_BASE_"], "base")])
        if not os.path.isfile(target):
            raise ConfigError([Fault("_BASE_", f"there is no {target}", built.origins["_BASE_"], "base")])
        # Later bases win over earlier ones, as in the suite.
        base_tree, base_origins = _load(target, (*chain, path), faults)
        below = _merge(below, base_tree)
        origins |= base_origins
    return _merge(below, tree), origins | built.origins


def _merge(below: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """As the suite merges: mappings key by key, all else is replaced."""
    result = {**below, **over}
    for key in below.keys() & over.keys():
        if isinstance(below[key], dict) and isinstance(over[key], dict):
            result[key] = _merge(below[key], over[key])
    return result


def _may_add(text: str) -> str:
    """An override of a key that the file lacks is good where the suite's class has the key."""
    parts = text.partition("=")[0].split(".")
    known = _classes()
    if len(parts) == 1 and parts[0] in _options():
        return f"+{text}"
    if len(parts) == 2 and parts[0] in known and parts[1] in known[parts[0]].schema:
        return f"+{text}"
    return text


def _classes() -> dict[str, Any]:
    """The suite's registered classes, by name: dicts of settings with a `schema`."""
    from ppdet.core import workspace

    return workspace.get_registered_modules()


def _options() -> set[str]:
    """The keys of the top level that are no classes."""
    return {*_OPTIONS, *(key for one in _classes().values() for key in one.shared), "meta"}


def _check(tree: dict[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """Place, fault and nearest name of all that the suite would ignore, or fail at later."""
    classes = _classes()
    options = _options()
    for key in _NEEDED:
        if key not in tree:
            yield key, "this is needed", None
    if tree.get("metric", "COCO") != "COCO":
        yield "metric", "only COCO is driven here", None
    for key, value in tree.items():
        if key in classes and isinstance(value, dict):
            yield from _check_settings(key, value, key, tree)
        elif key not in options and key not in classes:
            yield key, "PaddleDetection has no such class or option", nearest(key, {*options, *classes})
    name = str(tree.get("architecture"))
    if "architecture" in tree and name not in classes:
        yield "architecture", f"PaddleDetection has no {show(name)}", nearest(name, classes)
    elif isinstance(tree.get(name), dict):
        for part, used in tree[name].items():
            if isinstance(used, str) and used not in classes:
                yield f"{name}.{part}", f"PaddleDetection has no {show(used)}", nearest(used, classes)


def _check_settings(
    name: str, settings: dict[str, Any], path: str, tree: dict[str, Any]
) -> Iterator[tuple[str, str, str | None]]:
    schema = _classes()[name].schema
    if name.endswith("Reader"):
        yield from _check_reader(settings, path)
    elif name.endswith("Dataset"):
        yield from _check_dataset(settings, path)
    else:
        yield from _unknown(settings, schema, path, name)
    for key, value in settings.items():
        default = getattr(schema.get(key), "default", None)
        place = join_path(path, key)
        if not isinstance(value, dict):
            continue
        if isinstance(value.get("name"), str):
            inner = value["name"]
            if inner not in _classes():
                yield f"{place}.name", f"PaddleDetection has no {show(inner)}", nearest(inner, _classes())
            else:
                yield from _unknown(value, {"name", *_classes()[inner].schema}, place, inner)
        elif isinstance(default, dict) and "type" not in default:
            yield from _unknown(value, default, place, f"{name}.{key}")


def _unknown(
    settings: dict[str, Any], known: Any, path: str, owner: str
) -> Iterator[tuple[str, str, str | None]]:
    for key in settings:
        if key not in known:
            yield join_path(path, key), f"{owner} takes no such setting", nearest(key, known)


def _check_dataset(settings: dict[str, Any], path: str) -> Iterator[tuple[str, str, str | None]]:
    from ppdet.data import source

    name = settings.get("name")
    if not hasattr(source, str(name)):
        yield f"{path}.name", f"PaddleDetection has no data set {show(name)}", nearest(name, vars(source))
        return
    known = {"name", *inspect.signature(getattr(source, str(name))).parameters}
    yield from _unknown(settings, known, path, str(name))


def _check_reader(settings: dict[str, Any], path: str) -> Iterator[tuple[str, str, str | None]]:
    from ppdet.data import reader, transform

    known = {*inspect.signature(reader.BaseDataLoader).parameters, "inputs_def", "fuse_normalize"}
    known |= {"mixup_epoch", "cutmix_epoch", "mosaic_epoch"}
    yield from _unknown(settings, known, path, "a reader")
    for group in ("sample_transforms", "batch_transforms"):
        for index, step in enumerate(settings.get(group) or []):
            for name, arguments in step.items():
                place = f"{path}.{group}.{index}.{name}"
                found = getattr(transform, name, None)
                if found is None:
                    yield place, "PaddleDetection has no such transform", nearest(name, vars(transform))
                    continue
                if name == "NormalizeImage" and not {"mean", "std"} <= set(arguments or {}):
                    # The suite reads them from here for deployment, without defaults.
                    yield place, "mean and std are needed", None
                yield from _unknown(arguments or {}, inspect.signature(found).parameters, place, name)
