"""A user's own folder of images: which parts of it are for training and which for validation.

Two layouts: `train` and `val` (also valid, validation, test) with one folder per class each; or one folder
per class alone, of which a share of each class is held out for validation. Packed copies have the same two.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from passl_sot.config.chinese import zh
from passl_sot.data.datasets.folders import EXTENSIONS, LAYOUT, FolderScan, list_classes, walk_class
from passl_sot.data.errors import DataError
from passl_sot.data.packed.format import Packed, is_packed

_TRAIN = ("train", "training")
# Share of each class that is held out where there is no folder for validation.
VAL_SHARE = 0.2
_VAL = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class OwnFolder:
    """What `find_splits` found.

    Attributes:
        train: Folder of the training classes.
        val: That of validation; the same where some of each class is to be held out.
        class_names: Names of the training classes, in natural order.
        packed: The training images, where the folder is a packed copy.
    """

    train: str
    val: str
    class_names: list[str]
    packed: Packed | None = None

    @property
    def held_out(self) -> bool:
        """Whether validation images are to be taken from the training folder."""
        return self.train == self.val

    def count_images(self, at_most: int, val_share: float) -> int:
        """Images to train on, without those held out; counting stops when there are `at_most`."""
        total = 0
        for images in self._per_class():
            total += images - (_held_out(images, val_share) if self.held_out else 0)
            if total >= at_most:
                break
        return total

    def _per_class(self) -> Iterator[int]:
        if self.packed is not None:
            yield from np.bincount(self.packed.labels, minlength=len(self.class_names)).tolist()
            return
        for name in self.class_names:
            yield sum(1 for _ in walk_class(self.train, name, EXTENSIONS, FolderScan([])))


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
    by_name = {name.lower(): name for name in reversed(folders)}
    train = next((by_name[name] for name in _TRAIN if name in by_name), None)
    val = next((by_name[name] for name in _VAL if name in by_name), None)
    train_root = val_root = root
    if train is not None and (val is not None or len(folders) == 1):
        train_root = os.path.join(root, train)
        val_root = train_root if val is None else os.path.join(root, val)
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


def _find_packed(root: str) -> OwnFolder | None:
    """The splits of a packed copy; None where the folder is none."""
    train, val = os.path.join(root, _TRAIN[0]), os.path.join(root, _VAL[0])
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
    return OwnFolder(train, val, packed.header["class_names"], packed)


def hold_out(paths: Sequence[str], share: float, name: str) -> list[bool]:
    """Which images of one class are held out for validation: those whose paths' checksums come first.

    No seed takes part, so every run holds out the same; new images leave most others where they are.

    Args:
        paths: Paths of the images, relative to the folder of classes.
        share: How many of them, rounded, but at least one on each side.
        name: Name of the class, for the message.

    Raises:
        DataError: There are fewer than two images.
    """
    if len(paths) < 2:
        raise DataError(
            f"class '{name}' holds {len(paths)} image(s), and two are the least where some are held out for "
            "validation: add images, or lay out train and val folders" + zh("two_images_per_class")
        )
    count = _held_out(len(paths), share)
    ranked = sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path)).digest())
    chosen = set(ranked[:count])
    return [path in chosen for path in paths]


def _held_out(images: int, share: float) -> int:
    return min(max(1, round(share * images)), max(images - 1, 0))
