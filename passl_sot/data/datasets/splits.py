"""Finds the training and validation images in a user's own folder.

Two layouts: `train` and `val` (also valid, validation, test) with one folder per class each; or one folder
per class alone, of which a fraction of each class is held out for validation. Packed copies have the same
two.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.folders import EXTENSIONS, LAYOUT, held_out_count, list_classes, walk_class
from passl_sot.data.errors import DataError
from passl_sot.data.packed.format import Packed, is_packed

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class OwnFolder:
    """The splits of a user's folder."""

    train: str  # the folder of the training classes
    val: str  # that of validation; the same where some of each class is to be held out
    class_names: list[str]  # of training, in natural order
    packed: Packed | None = None  # the training images, where the folder is a packed copy

    @property
    def held_out(self) -> bool:
        """Whether validation images are to be taken from the training folder."""
        return self.train == self.val

    def count_images(self, at_most: int, val_share: float) -> int:
        """Images to train on, without those held out; counting stops when there are `at_most`."""
        counts: Iterable[int] = (
            sum(path is not None for path in walk_class(self.train, name)) for name in self.class_names
        )
        if self.packed is not None:
            counts = np.bincount(self.packed.labels, minlength=len(self.class_names)).tolist()
        total = 0
        for images in counts:
            total += images
            if self.held_out:
                total -= held_out_count(images, val_share)
            if total >= at_most:  # ImageNet has a thousand folders, and a batch is full after one
                break
        return total


def find_splits(root: str) -> OwnFolder:
    """Finds out how a user's folder is laid out.

    Raises:
        DataError: It is missing or empty, holds no class folders or one alone, or no images.
    """
    root = os.path.expanduser(root)
    packed = _find_packed(root)
    if packed is not None:
        return packed
    folders = list_classes(root)
    train = _first_of(_TRAIN, folders)
    val = _first_of(_VAL, folders)
    train_root = val_root = root
    # A class of one's own may be called "train", beside others.
    if train is not None and (val is not None or len(folders) == 1):
        train_root = os.path.join(root, train)
        val_root = os.path.join(root, val or train)
        folders = list_classes(train_root)
    if len(folders) < 2:
        raise DataError(
            f"{train_root} holds one class folder, '{folders[0]}', and a classifier needs two or more: give "
            f"each class a folder of its own.\n{LAYOUT}"
        )
    found = OwnFolder(train_root, val_root, folders)
    if not found.count_images(1, 0.5):
        raise DataError(
            f"{train_root} holds {len(folders)} class folders ({', '.join(folders[:5])}) but no images "
            f"(looked for {' '.join(EXTENSIONS)}).\n{LAYOUT}"
        )
    return found


def _first_of(names: tuple[str, ...], folders: list[str]) -> str | None:
    # Of train and Train the first counts.
    by_name = {folder.lower(): folder for folder in reversed(folders)}
    return next((by_name[name] for name in names if name in by_name), None)


def _find_packed(root: str) -> OwnFolder | None:
    """The splits of a packed copy; None where the folder is none."""
    train = os.path.join(root, _TRAIN[0])
    val = os.path.join(root, _VAL[0])
    if is_packed(root):
        train = val = root
    elif not is_packed(train):
        return None
    elif os.path.isdir(val) and not is_packed(val):
        raise DataError(
            f"{train} is a packed copy and {val} isn't: pack it too (tools/make_cache.py {val} ... "
            "--tile-only keeps every pixel), or name both in a config" + zh("splits_packed_differently")
        )
    elif not is_packed(val):
        val = train
    packed = Packed(train)
    return OwnFolder(train, val, packed.class_names, packed)
