"""Files that can't be read: replaced and counted in training, the end of the run in evaluation.

Errors travel with the batch as text and are raised, or counted, in the main process.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from passl_sot.config.chinese import zh
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.errors import DataError
from passl_sot.data.rng import Key
from passl_sot.data.schema import BadFileRule
from passl_sot.imageio.errors import ImageError

_LOGGER = logging.getLogger("passl_sot.data")
# So many unreadable files on end are no accident of single files, but a missing disk or a wrong list.
_TRIES = 100
_SHOWN = 10


def _no_note(image: int | None) -> None:
    pass


class GuardedReader:
    """The dataset as the loader's workers see it: reading never raises.

    Args:
        dataset: The dataset.
        replace: Take the next readable image in place of one that can't be read (training). Otherwise the
            first one ends the run (evaluation).

    Attributes:
        note: Called with an image's index before it is read, and with None afterwards.
    """

    def __init__(self, dataset: LabelledImages, *, replace: bool):
        self.dataset = dataset
        self.replace = replace
        self.note: Callable[[int | None], None] = _no_note

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, key: Key, out: np.ndarray | None = None) -> dict[str, Any]:
        """A sample of the dataset with `bad`, [index, reason] of files passed over.

        Where there is no sample, `error` says why: [path, reason], or ["", text] for anything unforeseen.

        Args:
            key: Which image.
            out: As of `LabelledImages.sample`.
        """
        try:
            return self._sample(key, out)
        finally:
            self.note(None)

    def read_all(self, keys: Sequence[Key], empty: Callable[..., np.ndarray]) -> dict[str, np.ndarray] | None:
        """As `LabelledImages.samples`; None also where something is wrong, which is told of single images."""
        self.note(keys[0][1])
        try:
            return self.dataset.samples(keys, empty)
        except DataError:
            return None
        finally:
            self.note(None)

    def _sample(self, key: Key, out: np.ndarray | None) -> dict[str, Any]:
        epoch, asked, *copy = key
        bad: list[list[Any]] = []
        for step in range(min(_TRIES, len(self)) if self.replace else 1):
            index = (asked + step) % len(self)
            self.note(index)
            try:
                return {**self.dataset.sample((epoch, index, *copy), out), "bad": bad}
            except ImageError as error:
                bad.append([index, error.reason])
                if not self.replace:
                    return {"bad": bad, "error": [error.path, error.reason]}
            except Exception:
                # Whatever it is, the user needs the file's name and the traceback of the worker.
                where = f"while reading image {index} ({self.dataset.path(index)}):"
                return {"bad": bad, "error": ["", f"{where}\n{traceback.format_exc()}"]}
        return {
            "bad": bad,
            "error": ["", f"{len(bad)} images in a row can't be read" + zh("unreadable_in_a_row")],
        }


class BadFiles:
    """The unreadable files of a run: each is named once, and too many end the run.

    Args:
        dataset: The dataset they belong to.
        max_bad: Count or share (see `LoaderSection`).

    Attributes:
        limit: How many files may be bad.
        reasons: Path and reason of those found so far, in the order they were met.
        shared: Whether several processes read, and exchange what they find by `pending` and `settle`, so that
            each file is named and counted once, not once by each process.
        pending: [index, reason] entries of this process that have not been exchanged yet.
    """

    def __init__(self, dataset: LabelledImages, max_bad: int | float | None):
        self._dataset = dataset
        self.limit = bad_file_limit(len(dataset), max_bad)
        self.reasons: dict[str, str] = {}
        self.shared = False
        self.pending: list[list[Any]] = []

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, entries: list[list[Any]]) -> None:
        """Notes [index, reason] entries of a batch.

        Raises:
            DataError: More files than the limit are bad; it lists the first ten.
        """
        if self.shared:
            self.pending += [entry for entry in entries if self._dataset.path(entry[0]) not in self.reasons]
        else:
            self.settle(entries)

    def settle(self, entries: list[list[Any]], *, name: bool = True) -> None:
        """Counts [index, reason] entries, those of all processes where several read.

        Args:
            entries: The entries.
            name: Name the files in the log.

        Raises:
            DataError: As of `add`.
        """
        self.pending = []
        for index, reason in entries:
            path = self._dataset.path(index)
            if path in self.reasons:
                continue
            self.reasons[path] = reason
            if name:
                _LOGGER.warning(
                    "unreadable image %d (at most %d may be skipped), another one takes its place: %s: %s",
                    len(self.reasons),
                    self.limit,
                    path,
                    reason,
                )
        if len(self.reasons) > self.limit:
            shown = [f"{path}: {reason}" for path, reason in list(self.reasons.items())[:_SHOWN]]
            raise DataError(
                [
                    f"{len(self.reasons)} unreadable images, more than the {self.limit} that may be skipped "
                    "(dataloader.train.loader.max_bad)" + zh("too_many_unreadable"),
                    *shown,
                ]
            )


def bad_file_limit(num_samples: int, max_bad: int | float | None) -> int:
    """How many files may be bad among `num_samples`.

    Raises:
        ValueError: `max_bad` is below 0, or a fraction of 1 or more.
    """
    if max_bad is None:
        return max(10, num_samples // 100)
    complaint = BadFileRule().complaint(max_bad)
    if complaint:
        raise ValueError(f"loader.max_bad {complaint}")
    return max_bad if isinstance(max_bad, int) else int(num_samples * max_bad)
