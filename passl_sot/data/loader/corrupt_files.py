"""Counts the items that can't be read: few are passed over in training, too many end the run."""

from __future__ import annotations

import logging
from typing import Any

from passl_sot.config import zh
from passl_sot.data.datasets.base import Dataset
from passl_sot.data.errors import DataError

_LOGGER = logging.getLogger("passl_sot.data")
_SHOWN = 10


class BadFiles:
    """The unreadable items of a run: each is named once, and too many end the run.

    Attributes:
        limit: How many items may be bad.
        reasons: Path and reason of those found so far, in the order they were met.
        shared: Whether several processes read, and exchange what they find by `pending` and `settle`.
        pending: [index, reason] entries of this process that have not been exchanged yet.
    """

    def __init__(self, dataset: Dataset, max_bad: int | float | None):
        self._dataset = dataset
        self.limit = bad_file_limit(len(dataset), max_bad)
        # By path, not index: the same file may stand in a list twice.
        self.reasons: dict[str, str] = {}
        self.shared = False
        self.pending: list[list[Any]] = []

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, entries: list[list[Any]]) -> None:
        """Notes [index, reason] entries of a batch.

        Raises:
            DataError: More items than the limit are bad; it lists the first ten.
        """
        if self.shared:
            # In each epoch an item comes to another process; only together they know if it is a new one.
            self.pending += [e for e in entries if self._dataset.describe(e[0]) not in self.reasons]
        else:
            self.settle(entries)

    def settle(self, entries: list[list[Any]], *, name: bool = True) -> None:
        """As `add`, but counts entries at once, those of all processes; `name` has them named in the log."""
        self.pending = []
        noun = self._dataset.noun
        for index, reason in entries:
            path = self._dataset.describe(index)
            if path in self.reasons:
                continue
            self.reasons[path] = reason
            if name:
                count = f"{len(self.reasons)} (at most {self.limit} may be skipped)"
                _LOGGER.warning(f"unreadable {noun} {count}, another one takes its place: {path}: {reason}")
        if len(self.reasons) > self.limit:
            message = (
                f"{len(self.reasons)} unreadable {noun}s, more than the {self.limit} that may be skipped "
                "(dataloader.train.loader.max_bad)" + zh("too_many_unreadable")
            )
            shown = [f"{path}: {reason}" for path, reason in self.reasons.items()][:_SHOWN]
            raise DataError([message, *shown])


def bad_file_limit(num_samples: int, max_bad: int | float | None) -> int:
    """How many items may be bad among `num_samples`, by a `max_bad` as of `LoaderSection`."""
    if max_bad is None:
        # A hundredth is the noise of a download; a set of 50 images should survive a truncated one, too.
        return max(10, num_samples // 100)
    if isinstance(max_bad, int):
        return max_bad
    return int(num_samples * max_bad)
