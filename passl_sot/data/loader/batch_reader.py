"""Reads batches, inside of the worker processes."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.base import Dataset, Empty
from passl_sot.data.errors import DataError
from passl_sot.data.rng import Key

# So many unreadable items on end are no accident of single ones, but a missing disk or a wrong list.
_TRIES = 100


class _Failed(Exception):
    """Ends a batch; its arguments are the `error` of `BatchReader`."""


def _no_note(index: int | None) -> None:
    pass


@dataclass(eq=False)
class BatchReader:
    """Makes batches of a dataset and never raises: errors travel with the batch as text.

    Attributes:
        dataset: The dataset.
        replace: Take the next readable item in place of one that can't be read (training). Otherwise the
            first one ends the run (evaluation).
        note: Called with an item's index before it is read, and with None afterwards.
    """

    dataset: Dataset
    _: KW_ONLY
    replace: bool
    # No lambda, as readers are pickled for workers.
    note: Callable[[int | None], None] = _no_note

    def __call__(self, keys: Sequence[Key], empty: Empty = np.empty) -> dict[str, Any]:
        """The batch.

        Args:
            keys: Which items.
            empty: As of `Dataset.batch`.

        Returns:
            The arrays, and `bad`, a list of [index, reason] of items passed over. After an error `bad` and
            `error` alone: [path, reason] of an item, or ["", text] for anything else.
        """
        bad: list[list[Any]] = []
        read = functools.partial(self._read, bad)
        self.note(keys[0][1])  # a whole batch may be read at once, without `_read`
        try:
            return {**self.dataset.batch(keys, read, empty), "bad": bad}
        except _Failed as failed:
            error = list(failed.args)
        except DataError as fault:
            error = ["", str(fault)]
        except Exception:
            error = ["", f"while making a batch:\n{traceback.format_exc()}"]
        finally:
            self.note(None)
        return {"bad": bad, "error": error}

    def _read(self, bad: list[list[Any]], key: Key, out: np.ndarray | None = None) -> dict[str, Any]:
        epoch, asked, *copy = key
        dataset = self.dataset
        tries = min(_TRIES, len(dataset)) if self.replace else 1
        for step in range(tries):
            # The next ones in the dataset, not in the order: so a batch doesn't depend on those before it.
            index = (asked + step) % len(dataset)
            self.note(index)
            try:
                return dataset.sample((epoch, index, *copy), out)
            except dataset.item_error as error:
                bad.append([index, error.reason])
                if not self.replace:
                    raise _Failed(error.path, error.reason) from None
            except Exception:
                # Whatever it is, the user needs the item's name and the traceback of the worker.
                where = f"while reading {dataset.noun} {index} ({dataset.describe(index)}):"
                raise _Failed("", f"{where}\n{traceback.format_exc()}") from None
            finally:
                self.note(None)
        raise _Failed("", f"{tries} {dataset.noun}s in a row can't be read" + zh("unreadable_in_a_row"))
