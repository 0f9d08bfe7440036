"""Reads batches, inside of the worker processes."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.base import Dataset, Empty
from passl_sot.data.errors import DataError, ItemError
from passl_sot.data.rng import Key

# So many unreadable items on end are no accident of single ones, but a missing disk or a wrong list.
_TRIES = 100


class _Failed(Exception):
    """Ends a batch; its arguments are the `error` of `BatchReader`."""


@dataclass(eq=False)
class BatchReader:
    """Makes batches of a dataset and never raises: errors travel with the batch as text.

    Attributes:
        dataset: The dataset.
        replace: Take the next readable item in place of one that can't be read (training). Otherwise the
            first one ends the run (evaluation).
        progress: 1 + the item that is being read (0: none), and since when (ns): int64 [2].
    """

    dataset: Dataset
    _: KW_ONLY
    replace: bool
    progress: np.ndarray = field(init=False, default_factory=lambda: np.zeros(2, np.int64))

    def __call__(self, keys: Sequence[Key], empty: Empty = np.empty) -> dict[str, Any]:
        """The batch of some keys, with memory from `empty` as of `Dataset.batch`.

        Returns:
            The arrays; `bad`, a list of [index, reason] of items passed over; and `seconds`, the CPU time it
            took. After an error no arrays, but `error`: [path, reason] of an item, or ["", text] for anything
            else.
        """
        began = time.thread_time()
        bad: list[list[Any]] = []
        batch: dict[str, Any] = {}
        self._note(keys[0][1])  # a whole batch may be read at once, without `_read`
        try:
            batch = self.dataset.batch(keys, functools.partial(self._read, bad), empty)
        except _Failed as failed:
            batch["error"] = list(failed.args)
        except DataError as fault:
            batch["error"] = ["", str(fault)]
        except Exception:
            batch["error"] = ["", f"while making a batch:\n{traceback.format_exc()}"]
        self._note(None)
        return {**batch, "bad": bad, "seconds": time.thread_time() - began}

    def _note(self, index: int | None) -> None:
        # The clock is the machine's, the same in all of its processes.
        self.progress[:] = 0 if index is None else index + 1, time.monotonic_ns()

    def _read(self, bad: list[list[Any]], key: Key, out: np.ndarray | None = None) -> dict[str, Any]:
        epoch, asked, *copy = key
        dataset = self.dataset
        tries = min(_TRIES, len(dataset)) if self.replace else 1
        for step in range(tries):
            # The next ones in the dataset, not in the order: so a batch doesn't depend on those before it.
            index = (asked + step) % len(dataset)
            self._note(index)
            try:
                return dataset.sample((epoch, index, *copy), out)
            except ItemError as error:
                bad.append([index, error.reason])
                if not self.replace:
                    raise _Failed(error.path, error.reason) from None
            except Exception:
                # Whatever it is, the user needs the item's name and the traceback of the worker.
                where = f"while reading {dataset.noun} {index} ({dataset.describe(index)}):"
                raise _Failed("", f"{where}\n{traceback.format_exc()}") from None
            finally:
                self._note(None)
        raise _Failed("", f"{tries} {dataset.noun}s in a row can't be read" + zh("unreadable_in_a_row"))
