"""The contract between a dataset and the loader.

The loader, its workers, the samplers and the shared memory know nothing else of a dataset: any dict of arrays
passes through them. Images and labels are known to the image datasets alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from passl_sot.config import Registry
from passl_sot.data.errors import DataError
from passl_sot.data.rng import Key
from passl_sot.data.transforms.base import Empty

# The modules of that package are imported when a name is first asked for.
DATASETS: Registry = Registry("dataset", "passl_sot.data.datasets", alike=True)

# Reads the sample of a key, or that of the next readable item: `read(key)`, `read(key, out)`.
Read = Callable[..., dict[str, Any]]


class Dataset:
    """Base class of all datasets. A subclass has `__len__` and `sample`; the rest has defaults.

    Items are asked for by key, (epoch, index) or (epoch, index, copy) where an epoch holds an item several
    times. All randomness must be a function of `seed` and key (see `passl_sot.data.rng`), so that batches
    don't depend on the number of workers.

    Attributes:
        seed: Seed of the random augmentation; set before a loader reads.
        noun: The word for an item in messages; an "s" is added for several.
    """

    seed: int = 0
    noun: str = "item"

    def __len__(self) -> int:
        raise NotImplementedError

    def sample(self, key: Key, out: np.ndarray | None = None) -> dict[str, Any]:
        """One sample: arrays and numbers by name, with the item's `index` among them.

        Args:
            key: Which item, in which epoch.
            out: Where its largest array may be written, if `batch` provides for it.

        Raises:
            ItemError: The item can't be read: training takes another one in its place, evaluation ends.
        """
        raise NotImplementedError

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Joins samples to arrays [B, ...]: by default stacks; a dataset of sequences pads.

        Args:
            samples: What `sample` gave for each item of a batch.
        """
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}

    def batch(self, keys: Sequence[Key], read: Read, empty: Empty = np.empty) -> dict[str, np.ndarray]:
        """A whole batch, with `index` int64 [B]; overridden where more is to be done than to join samples.

        Args:
            keys: Of the batch's items.
            read: Gives the sample of a key, and passes over unreadable items as the run demands.
            empty: Gives memory for the first array of the result, once: then it need not be copied.
        """
        return self.collate([read(key) for key in keys])

    def slot_bytes(self, batch_size: int) -> int:
        """Bytes of shared memory that a batch needs (see `size_of`); 0 where that isn't known beforehand.

        Larger batches go through pipes, which is slower.
        """
        return 0

    def describe(self, index: int) -> str:
        """Which item this is, for messages, such as its file."""
        return f"{type(self).__name__}[{index}]"

    def prepare(self, *, training: bool) -> None:
        """Called before a loader reads; raises a DataError where the dataset isn't made for it."""

    def identity(self, *, timeout: float | None = None) -> dict[str, np.ndarray]:
        """What tells these items from others, wherever they lie: checkpoints keep it, for `differences`.

        Args:
            timeout: Seconds that reading an item may take; None for no limit.

        Returns:
            Arrays by name; none where a dataset has no identity, which then isn't compared.
        """
        return {}

    def differences(self, before: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]) -> list[str]:
        """What tells the data of two identities apart, in words; nothing where they are the same."""
        both = before.keys() & now.keys()
        same = {name for name in both if np.array_equal(before[name], now[name])}
        return [f"other {name}" for name in sorted({*before, *now} - same)]

    def balanced_by(self) -> np.ndarray:
        """Class of each item, int64 [N], for `sampler.balanced`; a DataError where there are none."""
        raise DataError(f"sampler.balanced needs a class for each item, and {type(self).__name__} has none")

    def item_lengths(self) -> np.ndarray:
        """Length of each item, [N], for `sampler.group_by_length`; a DataError where items have none."""
        raise DataError(
            f"sampler.group_by_length needs items of different lengths, and {type(self).__name__} has none"
        )

    def missing_speedups(self) -> list[str]:
        """Packages that aren't installed and with which reading would be faster."""
        return []
