"""What datasets of labelled items have in common, images and texts."""

import difflib
import os
from collections.abc import Sequence

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.base import Dataset
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.errors import DataError


class LabelledItems(Dataset):
    """Base class of datasets whose items have labels.

    Attributes:
        root: Folder that paths start from.
        paths: Where each item is, relative to it.
        labels: Label of each item, int64 [N]; without a meaning where items have several, and None where they
            have none, as tests are given out.
        multi_hot: Several labels per item, uint8 [N, C] of 0 and 1; None for one each.
        class_names: Names of the classes, in label order.
        found_classes: Names of the classes that the data themselves hold; differs from `class_names` after
            `use_class_names`.
        named: Whether the data say what their classes are called.
        folder_per_class: Whether classes are folders, so that one may be empty.
    """

    folder_per_class = False
    root: str
    paths: StringTable
    labels: np.ndarray | None
    multi_hot: np.ndarray | None
    class_names: list[str]
    found_classes: list[str]
    named: bool

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Where one item is: its file, or a place in one."""
        return os.path.join(self.root, self.paths[index])

    def describe(self, index: int) -> str:
        """As of `Dataset`."""
        return self.path(index)

    def balanced_by(self) -> np.ndarray:
        """The labels."""
        if self.multi_hot is not None:
            raise DataError(
                "sampler.balanced is for one label per image; with multi_label weigh the classes by "
                "loss.class_weights: auto" + zh("balanced_multi_label")
            )
        if self.labels is None:
            return super().balanced_by()
        return self.labels

    def class_counts(self) -> np.ndarray:
        """Items per class, int64 [C]; labels out of range aren't counted."""
        if self.multi_hot is not None:
            return self.multi_hot.sum(axis=0, dtype=np.int64)
        if self.labels is None:
            return np.zeros(len(self.class_names), np.int64)
        valid = self.labels[(self.labels >= 0) & (self.labels < len(self.class_names))]
        return np.bincount(valid, minlength=len(self.class_names))

    def use_class_names(self, class_names: Sequence[str]) -> None:
        """Numbers the classes as another list does, such as a checkpoint's, which may hold more classes.

        Raises:
            DataError: These data hold a class that the list doesn't.
        """
        if self.named:
            number = {name: label for label, name in enumerate(class_names)}
            faults = [
                f"{self.root} holds class '{name}', which {nearest(name, class_names)}"
                for name in self.found_classes
                if name not in number
            ]
            if faults:
                raise DataError(faults)
            table = np.array([number[name] for name in self.class_names], np.int64)  # old number to new
        elif len(self.found_classes) > len(class_names):
            raise DataError(
                f"{self.root}: labels go up to {len(self.found_classes) - 1}, but there are "
                f"{len(class_names)} classes" + zh("label_beyond_classes")
            )
        else:
            table = np.arange(len(self.class_names))
        if self.multi_hot is not None:
            columns = np.zeros((len(self), len(class_names)), np.uint8)
            columns[:, table] = self.multi_hot
            self.multi_hot = columns
        self.class_names = list(class_names)
        if self.labels is None:
            return
        # Wrong labels stay as they are, for the check before a run to name.
        known = (self.labels >= 0) & (self.labels < len(table))
        self.labels = np.where(known, table[self.labels * known], self.labels)


def nearest(name: str, names: Sequence[str]) -> str:
    """Words for an error about an unknown class name: "is not among the 10 known classes (nearest: ...)"."""
    text = f"is not among the {len(names)} known classes"
    close = difflib.get_close_matches(name, list(names)[:5000], n=2)  # more would take seconds
    if close:
        text += f" (nearest: {', '.join(map(repr, close))})"
    return text
