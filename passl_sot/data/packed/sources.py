"""What packed copies are made of: folders, list files, WebDataset's tar files, other packed copies."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from passl_sot.config.chinese import zh
from passl_sot.data.datasets.folders import ImageFolder
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.datasets.list_files import ListFile, read_class_names
from passl_sot.data.datasets.splits import find_splits
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.errors import DataError
from passl_sot.data.packed.format import Packed, is_packed
from passl_sot.data.packed.webdataset import CLASS_NAMES, find_tars, scan_tars
from passl_sot.imageio.decode import read_file

__all__ = ["Source", "SourceOptions", "open_source", "splits_of"]

# A dataset needs one; no image passes through it here.
_NO_TRANSFORMS = [{"name": "Normalize"}]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to read what can't be read from the data alone.

    Attributes:
        dataroot: Folder that the paths of a list file start from.
        class_names: File with the names of the classes of a list or of tar files.
        multi_label: As for `ListFile`.
    """

    dataroot: str = "."
    class_names: str | None = None
    multi_label: bool | Literal["multi_hot"] = False


@dataclass(frozen=True, kw_only=True)
class Source:
    """Labelled image files, wherever they are.

    Attributes:
        names: What each image is called.
        labels: int64 [N].
        multi_hot: uint8 [N, C] where images may have several labels, else None.
        class_names: Name of each label.
        named: Whether the data say what their classes are called.
        read: Gives the bytes of an image; can be sent to another process.
        path: Where an image is, for messages.
    """

    names: StringTable
    labels: np.ndarray
    multi_hot: np.ndarray | None
    class_names: list[str]
    named: bool
    read: Callable[[int], bytes]
    path: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.names)


def splits_of(data: str, out: str) -> list[tuple[str, str]]:
    """The splits of what a user names: where each belongs below `out` ("" for the only one), and itself.

    Raises:
        DataError: There are no images, or `out` would lie among them.
    """
    found = _splits_of(os.path.expanduser(data))
    for _, path in found:
        if os.path.isdir(path) and f"{os.path.realpath(out)}/".startswith(f"{os.path.realpath(path)}/"):
            raise DataError(
                f"{out} lies inside of {path}, whose images are to be packed: choose another place"
            )
    return found


def _splits_of(data: str) -> list[tuple[str, str]]:
    if not os.path.isdir(data) or is_packed(data) or find_tars(data):
        return [("", data)]
    inside = [(name, os.path.join(data, name)) for name in ("train", "val")]
    if any(is_packed(path) or find_tars(path) for _, path in inside):
        return [(name, path) for name, path in inside if os.path.isdir(path)]
    found = find_splits(data)
    if found.train == data:
        return [("", data)]
    return [("train", found.train)] + ([] if found.held_out else [("val", found.val)])


def open_source(data: str, options: SourceOptions) -> Source:
    """One split, with the classes and their numbers that training on it would have.

    Raises:
        DataError: It isn't there, holds no images, or labels without a class.
    """
    tars = find_tars(data)
    if tars:
        source = _of_tars(tars, options)
    elif os.path.isdir(data) and is_packed(data):
        source = _of_packed(Packed(data))
    elif os.path.isdir(data):
        source = _of_files(ImageFolder(dataroot=data, transforms=_NO_TRANSFORMS))
    else:
        listed = ListFile(
            dataroot=options.dataroot,
            list_file=data,
            transforms=_NO_TRANSFORMS,
            class_names=options.class_names,
            multi_label=options.multi_label,
        )
        source = _of_files(listed)
    wrong = np.flatnonzero(source.labels >= len(source.class_names))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{data}: {len(wrong)} labels are not in 0 to {len(source.class_names) - 1}, the first is "
            f"{int(source.labels[first])} of {source.path(first)}" + zh("label_beyond_classes")
        )
    return source


class _FileReader:
    """Reads files of a dataset; what doesn't change is sent to other processes, transforms aren't."""

    def __init__(self, root: str, paths: StringTable):
        self._root, self._paths = root, paths

    def __call__(self, index: int) -> bytes:
        path = self.path(index)
        # An empty file is as unreadable as a damaged one: it is kept. One that can't be opened ends the work.
        return b"" if os.path.isfile(path) and not os.path.getsize(path) else read_file(path)

    def path(self, index: int) -> str:
        return os.path.join(self._root, self._paths[index])


def _of_files(dataset: LabelledImages) -> Source:
    reader = _FileReader(dataset.root, dataset.paths)
    return Source(
        names=dataset.paths,
        labels=dataset.labels,
        multi_hot=dataset.multi_hot,
        class_names=dataset.class_names,
        named=dataset.named,
        read=reader,
        path=reader.path,
    )


def _of_packed(packed: Packed) -> Source:
    if packed.shapes is not None:
        raise DataError(
            f"{packed.folder} holds pixels (--raw), not files: name the data that it was made of"
            + zh("raw_as_source")
        )
    return Source(
        names=packed.names,
        labels=packed.labels,
        multi_hot=packed.multi_hot,
        class_names=packed.header["class_names"],
        named=packed.header["named"],
        read=packed.read,
        path=packed.path,
    )


def _of_tars(tars: Sequence[str], options: SourceOptions) -> Source:
    members = scan_tars(tars)
    beside = os.path.join(os.path.dirname(tars[0]), CLASS_NAMES)
    named_by = options.class_names or (beside if os.path.isfile(beside) else None)
    names = None if named_by is None else read_class_names(os.path.expanduser(named_by))
    multi_hot = None
    if members.several:
        last = max((label for labels in members.labels for label in labels), default=-1)
        classes = last + 1 if names is None else len(names)
        if last >= classes or not classes:
            raise DataError(
                f"{tars[0]} has label {last}, and there are {classes} class names"
                + zh("label_beyond_classes")
            )
        multi_hot = np.zeros((len(members.labels), classes), np.uint8)
        for row, chosen in enumerate(members.labels):
            multi_hot[row, list(chosen)] = 1
        labels = np.zeros(len(members.labels), np.int64)
    else:
        labels = np.array([chosen[0] for chosen in members.labels], np.int64)
        classes = int(labels.max()) + 1
    return Source(
        names=members.names,
        labels=labels,
        multi_hot=multi_hot,
        class_names=names or [str(label) for label in range(classes)],
        named=names is not None,
        read=members.read,
        path=members.path,
    )
