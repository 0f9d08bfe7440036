"""Checks of the data before a run: all faults at once, each with its cure."""

import functools
import logging
import os
from collections.abc import Sequence
from typing import Literal, TypeGuard, TypeVar

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.datasets.labelled_items import LabelledItems, nearest
from passl_sot.data.datasets.list_files import ListFile
from passl_sot.data.errors import DataError
from passl_sot.data.schema import bad_file_limit
from passl_sot.data.threads import in_threads
from passl_sot.imageio.errors import ImageError
from passl_sot.launch.cpu_env import usable_cores

_LOGGER = logging.getLogger("passl_sot.data")
_SHOWN = 10
Items = TypeVar("Items", bound=LabelledItems)


def check_data(
    train: LabelledImages | None,
    val: LabelledImages | None,
    num_classes: int | None,
    *,
    sample: int | Literal["all"] = 64,
    progress: bool = False,
    max_bad: int | float | None = None,
    timeout: float | None = 300.0,
) -> list[str]:
    """Checks the datasets of a run against each other and against the model.

    Class sets and their order agree, no class is empty, labels are 0 to C-1, the model has as many classes,
    files decode. Pass datasets as they were built, without another list of class names. The result are
    warnings, which have been logged too.

    Args:
        num_classes: Classes of the model's head; None leaves that check out.
        sample: How many files of each set are decoded, spread evenly.
        max_bad: The `loader.max_bad` of training; so many unreadable training files are only warned of.
        timeout: Seconds that a file may take (`loader.timeout`); None for no limit.

    Raises:
        DataError: There are faults; it lists them all.
        WorkerError: A file was not read within `timeout` seconds.
    """
    faults, warnings = check_classes(train, val, num_classes)
    if train is not None and val is not None:
        faults += _multi_label_of_one(train, val)
        warnings += _shared_files(train, val)
    for name, dataset in _present(train, val):
        count = len(dataset) if sample == "all" else min(sample, len(dataset))
        limit = 0  # evaluation ends at the first
        if name == "train":
            limit = bad_file_limit(len(dataset), max_bad)
        bad, lines = _unreadable(name, dataset, count, limit, progress, timeout)
        (faults if bad > limit else warnings).extend(lines)
    for warning in warnings:
        _LOGGER.warning("%s", warning)
    if faults:
        raise DataError(faults)
    return warnings


def check_classes(
    train: Items | None, val: Items | None, num_classes: int | None
) -> tuple[list[str], list[str]]:
    """Faults of the classes of two splits, and warnings; see `check_data`."""
    faults: list[str] = []
    warnings: list[str] = []
    if train is not None and val is not None:
        faults += _class_sets(train, val)
    for name, dataset in _present(train, val):
        faults += _labels_out_of_range(name, dataset)
        # A small validation list may lack class 0 while the training list has it.
        sure = train is None or name == "train" or _counts_from_one(train)
        (faults if sure else warnings).extend(_labels_from_one(name, dataset))
        count = len(dataset.class_names)
        if (name == "train" or train is None) and num_classes not in (None, count):
            faults.append(
                f"the model's head has {num_classes} classes, the data ({dataset.root}) have {count}: write "
                f"model.head.num_classes={count}" + zh("class_count_differs", count=count)
            )
        # A list file of a val split may leave classes out on purpose; training without items can't be meant.
        sure = name == "train" or dataset.folder_per_class
        (faults if sure else warnings).extend(_empty_classes(name, dataset))
    return faults, warnings


def _present(train: Items | None, val: Items | None) -> list[tuple[str, Items]]:
    return [(name, dataset) for name, dataset in (("train", train), ("val", val)) if dataset is not None]


def _class_sets(train: LabelledItems, val: LabelledItems) -> list[str]:
    """Faults of two sets that don't have the same classes, or number them differently."""
    faults = []
    if not (train.named and val.named):
        # Numbers alone can't be compared by name; a small list may well lack the last classes.
        if len(val.found_classes) > len(train.found_classes):
            faults.append(
                f"val ({val.root}) has labels up to {len(val.found_classes) - 1}, train ({train.root}) has "
                f"{len(train.found_classes)} classes" + zh("val_labels_beyond_train")
            )
    elif set(train.found_classes) != set(val.found_classes):
        faults += _strangers("val", val, "train", train) + _strangers("train", train, "val", val)
    elif train.found_classes != val.found_classes:
        pairs = zip(train.found_classes, val.found_classes, strict=True)
        label, (ours, theirs) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        faults.append(
            f"train and val number their classes differently: label {label} is '{ours}' in train and "
            f"'{theirs}' in val; give both the same class_names file" + zh("class_order_differs")
        )
    return faults


def _multi_label_of_one(train: LabelledImages, val: LabelledImages) -> list[str]:
    if (train.multi_hot is None) == (val.multi_hot is None):
        return []
    return ["multi_label is set for one of train and val: write it in both" + zh("splits_must_agree")]


def _strangers(name: str, dataset: LabelledItems, other: str, reference: LabelledItems) -> list[str]:
    known = set(reference.found_classes)
    strangers = [entry for entry in dataset.found_classes if entry not in known]
    faults = []
    for entry in strangers[:_SHOWN]:
        _, bracket, hint = nearest(entry, reference.found_classes).partition(" (")
        faults.append(
            f"class '{entry}' is in {name} ({dataset.root}) but not in {other}{bracket}{hint}"
            + zh("classes_differ")
        )
    if len(strangers) > _SHOWN:
        faults.append(f"and {len(strangers) - _SHOWN} more classes that only {name} has")
    return faults


def _labels_out_of_range(name: str, dataset: LabelledItems) -> list[str]:
    labels = dataset.labels
    if labels is None:
        return []
    count = len(dataset.class_names)
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if not len(wrong):
        return []
    first = int(wrong[0])
    hint = ""
    # The usual cause: lists written by MATLAB or R count from 1.
    if labels.min() == 1 and labels.max() == count:
        hint = "; labels seem to count from 1: subtract 1 from each"
    return [
        f"{name}: {len(wrong)} labels are not in 0 to {count - 1} ({count} classes), the first is "
        f"{int(labels[first])} of {dataset.path(first)}{hint}" + zh("labels_out_of_range")
    ]


def _counts_from_one(dataset: LabelledItems) -> TypeGuard[ListFile]:
    """Whether all labels are valid and a list file has no label 0."""
    if not isinstance(dataset, ListFile):
        return False
    labels = dataset.labels  # zeros, where there are several per image
    return labels.min() == 1 and labels.max() < len(dataset.class_names)


def _labels_from_one(name: str, dataset: LabelledItems) -> list[str]:
    if not _counts_from_one(dataset):
        return []
    return [
        f"{name}: no image has label 0, so labels seem to count from 1 (up to {int(dataset.labels.max())}): "
        f"subtract 1 from each in {dataset.list_file}" + zh("labels_from_one")
    ]


def _empty_classes(name: str, dataset: LabelledItems) -> list[str]:
    empty = [dataset.class_names[i] for i in np.flatnonzero(dataset.class_counts() == 0)]
    # Where labels count from 1, class 0 is empty; that is said already.
    if not empty or (_counts_from_one(dataset) and empty == dataset.class_names[:1]):
        return []
    said = f"{len(empty)} classes have no {dataset.noun}s"
    shown = empty[:_SHOWN]
    if dataset.folder_per_class:
        said = f"{len(empty)} class folders hold no {dataset.noun}s"
        shown = [os.path.join(dataset.root, entry) for entry in shown]
    listed = ", ".join(shown)
    if len(empty) > _SHOWN:
        listed += f" and {len(empty) - _SHOWN} more"
    return [f"{name}: {said}: {listed}" + zh("empty_classes")]


def _shared_files(train: LabelledImages, val: LabelledImages) -> list[str]:
    """Warns of files in both sets: of those with equal names, the ones whose real paths are equal."""
    codes = train.paths.name_codes()
    others = val.paths.name_codes()
    candidates = np.flatnonzero(np.isin(codes, others))
    # A million paths lie in a thousand folders: each is looked at once.
    real_folder = functools.cache(os.path.realpath)

    def real_path(path: str) -> str:
        if os.path.islink(path):
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        return os.path.join(real_folder(folder), name)

    known = {real_path(val.path(i)) for i in np.flatnonzero(np.isin(others, codes[candidates])).tolist()}
    shared = [path for path in map(train.path, candidates.tolist()) if real_path(path) in known]
    if not shared:
        return []
    return [
        f"{len(shared)} files are in train and in val, such as {shared[0]}: validation accuracy will be too "
        "good" + zh("shared_files")
    ]


def _unreadable(
    name: str, dataset: LabelledImages, count: int, limit: int, progress: bool, timeout: float | None
) -> tuple[int, list[str]]:
    """How many of `count` images can't be read, and what is said of them."""

    def look(index: int) -> ImageError | None:
        try:
            dataset.read(index)
        except ImageError as error:
            return error
        return None

    # Files stand class by class, so evenly spread ones are of all classes.
    indices: Sequence[int] = np.linspace(0, len(dataset) - 1, count).round().astype(np.int64).tolist()
    # Pillow lets other threads run while it decodes.
    threads = min(8, usable_cores())
    found = in_threads(
        look,
        indices,
        dataset.path,
        threads=threads,
        timeout=timeout,
        title=f"checking {name} images",
        progress=progress,
    )
    bad = [error for error in found if error is not None]
    lines = [f"{name}: unreadable image {error}" + zh("image_unreadable") for error in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        lines.append(f"{name}: and {len(bad) - _SHOWN} more unreadable images")
    if name == "train" and len(bad) > limit:
        lines.append(
            f"train: {len(bad)} of {count} images looked at ({len(dataset)} in all) are unreadable, more "
            f"than the {limit} that may be skipped (dataloader.train.loader.max_bad)"
            + zh("too_many_unreadable")
        )
    return len(bad), lines
