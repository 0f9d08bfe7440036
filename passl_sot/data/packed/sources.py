"""Data that packed copies are made of: folders, list files, WebDataset's tar files, other packed copies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.folders import ImageFolder
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.datasets.list_files import ListFile, read_class_names
from passl_sot.data.datasets.splits import find_splits
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.errors import DataError
from passl_sot.data.packed.format import Packed, is_packed
from passl_sot.data.packed.webdataset import TarImages, find_tars, scan_tars
from passl_sot.imageio.decode import read_file

# Beside tar files, the names of their classes.
_CLASS_NAMES = "class_names.txt"
# A dataset needs one; no image passes through it here.
_NO_TRANSFORMS = [{"name": "Normalize"}]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Labelled image files, wherever they are; can be sent to another process."""

    store: _Files | Packed | TarImages  # their names, bytes, and places
    labels: np.ndarray  # int64 [N]
    multi_hot: np.ndarray | None = None  # uint8 [N, C] where images may have several labels
    class_names: list[str]
    named: bool  # whether the data say what their classes are called

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """The bytes of an image."""
        return self.store.read(index)

    def path(self, index: int) -> str:
        """Where an image is, for messages."""
        return self.store.path(index)


def splits_of(data: str, out: str) -> list[tuple[str, str]]:
    """The splits of a user's data: the place of each below `out` ("" for the only one), and its path."""
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
    splits = [("train", found.train), ("val", found.val)]
    return splits[:1] if found.held_out else splits


def open_source(
    data: str,
    *,
    dataroot: str = ".",
    class_names: str | None = None,
    multi_label: bool | Literal["multi_hot"] = False,
) -> Source:
    """One split, with the classes and their numbers that training on it would have.

    Args:
        data: Folder of classes, list file, tar files, or packed copy.
        dataroot: Folder that the paths of a list file start from.
        class_names: File with the names of the classes of a list or of tar files.
        multi_label: As for `ListFile`.

    Raises:
        DataError: It isn't there, holds no images, or labels without a class.
    """
    tars = find_tars(data)
    if tars:
        source = _from_tars(tars, class_names)
    elif os.path.isdir(data) and is_packed(data):
        source = _from_packed(Packed(data))
    elif os.path.isdir(data):
        folder = ImageFolder(dataroot=data, transforms=_NO_TRANSFORMS)
        source = _source(_Files(folder.root, folder.paths), folder)
    else:
        listed = ListFile(
            dataroot=dataroot,
            list_file=data,
            transforms=_NO_TRANSFORMS,
            class_names=class_names,
            multi_label=multi_label,
        )
        source = _source(_Files(listed.root, listed.paths), listed)
    wrong = np.flatnonzero(source.labels >= len(source.class_names))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{data}: {len(wrong)} labels are not in 0 to {len(source.class_names) - 1}, the first is "
            f"{int(source.labels[first])} of {source.path(first)}" + zh("label_beyond_classes")
        )
    return source


# Sent to other processes in place of the dataset, whose transforms needn't be.
@dataclass(frozen=True)
class _Files:
    root: str
    names: StringTable

    def read(self, index: int) -> bytes:
        path = self.path(index)
        # An empty file is as unreadable as a damaged one: it is kept. One that can't be opened ends the work.
        if os.path.isfile(path) and not os.path.getsize(path):
            return b""
        return read_file(path)

    def path(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])


def _source(store: _Files | Packed, data: LabelledImages | Packed) -> Source:
    return Source(
        store=store,
        labels=data.labels,
        multi_hot=data.multi_hot,
        class_names=data.class_names,
        named=data.named,
    )


def _from_packed(packed: Packed) -> Source:
    if packed.shapes is not None:
        raise DataError(
            f"{packed.folder} holds pixels (--raw), not files: name the data that it was made of"
            + zh("raw_as_source")
        )
    return _source(packed, packed)


def _from_tars(tars: list[str], class_names: str | None) -> Source:
    images = scan_tars(tars)
    beside = os.path.join(os.path.dirname(tars[0]), _CLASS_NAMES)
    if class_names is None and os.path.isfile(beside):
        class_names = beside
    names = [str(label) for label in range(int(images.labels.max()) + 1)]
    if class_names is not None:
        names = read_class_names(os.path.expanduser(class_names))
    return Source(store=images, labels=images.labels, class_names=names, named=class_names is not None)
