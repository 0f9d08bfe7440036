"""The order in which items are read, and by which process.

Samplers yield batches of keys: (epoch, index), or (epoch, index, copy) with repeated augmentation. Order is a
function of (seed, epoch) alone, so every process knows it, and a run can go on in the middle of an epoch.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.base import Dataset
from passl_sot.data.errors import DataError
from passl_sot.data.rng import Key, order_rng
from passl_sot.data.schema import SamplerSection

Batch = list[Key]

# With repeated augmentation an epoch's length is a multiple of this, as in the authors' code.
_ROUND = 256
# Global batches among which items of similar length are brought together, at most a quarter of an epoch's: in
# fewer of them batches hold more padding, in more of them they differ less and less from epoch to epoch.
_POOL = 50


@dataclass(kw_only=True, eq=False)
class ShardedBatchSampler:
    """Training batches: W processes (`world_size`) with batches of B items see one process's batch of B·W.

    Global batch t is `order[t·B·W : (t+1)·B·W]`, and process r takes items `r·B` to `(r+1)·B` of it.

    Repeated augmentation (Hoffer et al., "Augment your batch", CVPR 2020; as DeiT's sampler has it): each
    image of the order stands `repeats` times in a row, and process r takes places r, r+W, r+2W, ..., so that
    with W of at least `repeats` the copies of an image are on different processes. An epoch is not longer for
    it: of the N·repeats places it uses the first ⌊N/256⌋·256, or the first N in a set of fewer than 256.

    Balanced (given `labels`), an epoch has as many places, and each class that has images the same number of
    them, but for one: of large classes some images are drawn, those of small ones stand there several times,
    equally often but for one, as copies with draws of their own.

    Grouped (given `lengths`), an epoch's items are shuffled and parted in pools of up to 50 global batches;
    each pool is sorted by length and cut into global batches, and all batches are shuffled. Items that fill
    no batch are set aside before, so that chance chooses them; without `drop_last` they are the last batch.

    Attributes:
        drop_last: Leave out the items that don't fill a global batch (a different few in each epoch).
            Otherwise the last batch is filled up from the epoch's beginning, so that all batches and all
            processes stay equal.
        labels: Class of each item, to balance by; None for plain epochs.
        lengths: Length of each item, to group by; None for plain epochs.
        noun: The word for an item in messages.
        consumed: Batches of this epoch that have been used so far.

    Raises:
        DataError: `drop_last` and fewer items than one global batch; or balancing or grouping together with
            each other, with repeats, or without shuffling.
    """

    num_samples: int
    batch_size: int
    shuffle: bool
    drop_last: bool
    seed: int
    rank: int = 0
    world_size: int = 1
    repeats: int = 1
    labels: np.ndarray | None = None
    lengths: np.ndarray | None = None
    noun: str = "image"

    def __post_init__(self) -> None:
        _check_counts(self.num_samples, self.rank, self.world_size)
        if self.lengths is not None and (self.repeats > 1 or not self.shuffle or self.labels is not None):
            raise DataError(
                "sampler.group_by_length draws an order of its own: leave out balanced, repeats, and "
                "shuffle: false" + zh("grouped_exclusive")
            )
        if self.labels is not None and (self.repeats > 1 or not self.shuffle):
            raise DataError(
                "sampler.balanced draws an order of its own: leave out repeats, and shuffle: false"
                + zh("balanced_exclusive")
            )
        self.epoch = 0
        # Counted by the loader as it hands batches out: the iterator runs ahead, as they are made in advance.
        self.consumed = 0
        self._resumed = False
        self._global_batch = self.batch_size * self.world_size
        self._places = self.num_samples
        used = ""
        if self.repeats > 1 and self.num_samples > _ROUND:
            self._places = self.num_samples // _ROUND * _ROUND
        if self._places < self.num_samples:
            used = f" ({self._places} used with repeats: {self.repeats})"
        if self.drop_last and self._places < self._global_batch:
            fitting = max(1, self._places // self.world_size)
            raise DataError(
                f"the training set has {self.num_samples} {self.noun}s{used}, fewer than one batch of "
                f"{self._global_batch} (batch_size {self.batch_size} x {self.world_size} processes), and "
                "drop_last leaves out incomplete ones. Set dataloader.train.sampler.batch_size to "
                f"{fitting} or less, or drop_last: false" + zh("fewer_than_batch")
            )

    def __len__(self) -> int:
        """Batches in a whole epoch, the same for every process."""
        if self.drop_last:
            return self._places // self._global_batch
        return -(-self._places // self._global_batch)

    def __iter__(self) -> Iterator[Batch]:
        """This process's batches from the epoch's beginning; once after `load_state_dict`, from there."""
        if not self._resumed:
            self.consumed = 0
        self._resumed = False  # once: the next iteration is a whole one again
        return self._batches(self.epoch, self.consumed)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; another one than the current starts from its first batch."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.consumed = 0
            self._resumed = False

    def order(self, epoch: int) -> np.ndarray:
        """Order of all items in an epoch, int64 [num_samples], the same in every process."""
        if not self.shuffle:
            return np.arange(self.num_samples)
        # All processes draw the whole order, so that none has to be told what the others read.
        rng = order_rng(self.seed, epoch)
        order = rng.permutation(self.num_samples)
        if self.lengths is None:
            return order
        batches, rest = divmod(self.num_samples, self._global_batch)
        last = order[self.num_samples - rest :]
        order = order[: self.num_samples - rest]
        pool = np.arange(len(order)) // (max(1, min(_POOL, batches // 4)) * self._global_batch)
        # A stable sort, so that among items of one length chance decides.
        order = order[np.lexsort((self.lengths[order], pool))]
        rows = order.reshape(batches, self._global_batch)[rng.permutation(batches)]
        return np.concatenate((rows.ravel(), last))

    def _balanced_order(self, labels: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        rng = order_rng(self.seed, epoch)
        # In another order each epoch, as the first classes get one image more where the division leaves some.
        classes = rng.permutation(np.unique(labels))
        images = []
        copies = []
        for place, label in enumerate(classes):
            members = np.flatnonzero(labels == label)
            share = self.num_samples // len(classes) + (place < self.num_samples % len(classes))
            # All members once before any of them comes again.
            rounds = -(-share // len(members))
            images.append(np.concatenate([rng.permutation(members) for _ in range(rounds)])[:share])
            copies.append(np.arange(share) // len(members))
        order = rng.permutation(self.num_samples)
        return np.concatenate(images)[order], np.concatenate(copies)[order]

    def state_dict(self) -> dict[str, Any]:
        """The place in the run, and all that the order depends on; the same for every process."""
        return {
            "epoch": self.epoch,
            "consumed": self.consumed,
            "seed": self.seed,
            "num_samples": self.num_samples,
            "global_batch": self._global_batch,
            "shuffle": self.shuffle,
            "repeats": self.repeats,
            "balanced": self.labels is not None,
            "lengths": None if self.lengths is None else zlib.crc32(self.lengths.astype("<i8").tobytes()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken; with another global batch, after as many items.

        Raises:
            DataError: The state is from the middle of an epoch and its order of items was another one, or no
                global batch of this size begins there.
        """
        consumed = int(state["consumed"])
        if consumed:
            mine = self.state_dict()
            # Checkpoints written before these settings existed don't have them.
            before = {"repeats": 1, "balanced": False, "lengths": None, **state}
            settings = [key for key in mine if key not in ("epoch", "consumed")]
            changed = [key for key in settings if before.get(key) != mine[key]]
            if changed == ["global_batch"] and self.lengths is None:
                # The order is the same: as many items are skipped, if they fill whole batches.
                consumed, over = divmod(consumed * before["global_batch"], mine["global_batch"])
                if not over:
                    changed = []
            if changed:
                listed = ", ".join(f"{key} was {before.get(key)} and is {mine[key]}" for key in changed)
                raise DataError(
                    f"can't go on in the middle of epoch {state['epoch']}, because the order of {self.noun}s "
                    f"has changed: {listed}. Restore these settings, or resume from the end of an epoch"
                )
        self.epoch = int(state["epoch"])
        self.consumed = consumed
        self._resumed = True

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        columns = self._columns(epoch)
        ours = np.arange(self.batch_size)
        if self.repeats == 1:
            ours += self.rank * self.batch_size
        else:
            # Copies of an image, which are neighbors, go to different processes.
            ours = ours * self.world_size + self.rank
        for t in range(first, len(self)):
            # The last batch is filled up from the epoch's beginning, as often as it needs.
            places = (t * self._global_batch + ours) % self._places
            rows = zip(*(column[places].tolist() for column in columns), strict=True)
            yield [(epoch, *row) for row in rows]

    def _columns(self, epoch: int) -> Sequence[np.ndarray]:
        """Item at each place of an epoch, and which copy of it where there are several."""
        if self.labels is not None:
            return self._balanced_order(self.labels, epoch)
        order = self.order(epoch)
        if self.repeats == 1:
            return [order]
        places = np.arange(self._places)
        return order[places // self.repeats], places % self.repeats


@dataclass(kw_only=True, eq=False)
class EvalBatchSampler:
    """Evaluation batches: every item exactly once over all processes, nothing added.

    Process r takes the r-th of W nearly equal consecutive parts, in order, so processes may differ by one
    batch or have none; the last batch may be smaller. Given `lengths`, items are sorted by them, the longest
    first, so that what memory has no room for shows at once; process r takes places r, r+W, r+2W, ... of
    these, and all have as much to do.
    """

    num_samples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    lengths: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_counts(self.num_samples, self.rank, self.world_size)
        self.consumed = 0
        # Nothing is added to make parts equal: metrics are those of one process to the last item.
        if self.lengths is None:
            begin = self.num_samples * self.rank // self.world_size
            self._items = np.arange(begin, self.num_samples * (self.rank + 1) // self.world_size)
        else:
            self._items = np.argsort(-self.lengths, kind="stable")[self.rank :: self.world_size]

    def __len__(self) -> int:
        """Batches of this process."""
        return -(-len(self._items) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self.consumed = 0
        # Nothing is drawn in evaluation, so any epoch would do.
        for begin in range(0, len(self._items), self.batch_size):
            yield [(0, index) for index in self._items[begin : begin + self.batch_size].tolist()]


def _check_counts(num_samples: int, rank: int, world_size: int) -> None:
    if num_samples < 1:
        raise DataError("the dataset is empty")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size} processes")


def build_sampler(
    section: SamplerSection, dataset: Dataset, *, training: bool, seed: int, rank: int, world_size: int
) -> ShardedBatchSampler | EvalBatchSampler:
    """The sampler that a `sampler:` section describes.

    Raises:
        DataError: The settings don't go together or don't fit the dataset, or evaluation would leave items
            out or read some twice.
    """
    shares: dict[str, Any] = {
        "batch_size": section.batch_size,
        "rank": rank,
        "world_size": world_size,
        "lengths": dataset.item_lengths() if section.group_by_length else None,
    }
    if training:
        return ShardedBatchSampler(
            num_samples=len(dataset),
            shuffle=section.shuffle is not False,
            drop_last=section.drop_last is not False,
            repeats=section.repeats,
            labels=dataset.balanced_by() if section.balanced else None,
            seed=seed,
            noun=dataset.noun,
            **shares,
        )
    for key, only in (("shuffle", "false"), ("drop_last", "false"), ("repeats", "1"), ("balanced", "false")):
        value = str(getattr(section, key)).lower()
        if value not in (only, "none"):
            raise DataError(
                f"dataloader.val.sampler.{key} is {value}; evaluation reads every {dataset.noun} exactly "
                f"once, in order: write {key}: {only}, or leave it out"
                + zh("val_sampler", setting=key, only=only)
            )
    return EvalBatchSampler(num_samples=len(dataset), **shares)
