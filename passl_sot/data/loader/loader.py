"""The loader: batches of a split for one process of a training run."""

import collections
import contextlib
import logging
import math
import time
from collections.abc import Generator
from typing import Any

import numpy as np
import paddle

from passl_sot.config import zh
from passl_sot.data.datasets.base import Dataset
from passl_sot.data.errors import DataError
from passl_sot.data.loader.shared_buffers import BufferPool
from passl_sot.data.loader.worker import BatchReader, SharedReader
from passl_sot.data.loader.worker_pool import AHEAD, WorkerPool, thread_batches
from passl_sot.data.samplers import EvalBatchSampler, ShardedBatchSampler
from passl_sot.data.schema import LoaderSection, bad_file_limit
from passl_sot.launch.cpu_env import usable_cores

# Batches that a consumer may keep beside those under way before others are copied for it.
_KEPT = 2
_MOST_WORKERS = 8
_ENOUGH = 16  # batches, to tell how long an item takes
_SHOWN = 10
_LOGGER = logging.getLogger("passl_sot.data")


class DataLoader:
    """Batches of one split, epoch after epoch; make one per split and keep it for the whole run.

    Iterating gives dicts of tensors, as the dataset makes them, with `index` int64 [B], the places of the
    items in the dataset. The iteration follows `sampler.epoch`.

    Args:
        dataset: What is read.
        sampler: See below.
        section: The `loader:` section.
        training: Replace unreadable items by others rather than stop at the first.
        world_size: Processes on this machine that share its cores.

    Attributes:
        sampler: Yields the keys of each batch; `sampler.consumed` counts the batches that were handed out.
        bad_files: Unreadable items so far; `len()` and `.reasons`.
        wait_seconds: Time the consumer has spent waiting for batches; set it to 0 to start anew.
        pool: The workers of the newest iteration; None before the first, and without workers. They stay for
            the next one, unless the iteration is broken off or the dataset is changed in between.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: ShardedBatchSampler | EvalBatchSampler,
        section: LoaderSection,
        *,
        training: bool,
        world_size: int = 1,
    ):
        self.dataset: Any = dataset  # tasks know which kind it is and what else it has
        self.sampler = sampler
        self.num_workers = worker_count(section.num_workers, world_size)
        self._section = section
        self.bad_files = BadFiles(dataset, section.max_bad if training else 0)
        self.wait_seconds = 0.0
        self._item_seconds: collections.deque[float] = collections.deque(maxlen=4 * _ENOUGH)
        self._cores = max(1, usable_cores() // world_size)
        self._reader = BatchReader(dataset, replace=training)
        self.pool: WorkerPool | None = None
        self._idle: WorkerPool | None = None
        self._buffers: BufferPool | None = None

    def __len__(self) -> int:
        """Batches in a whole epoch for this process."""
        return len(self.sampler)

    def __iter__(self) -> Generator[dict[str, paddle.Tensor], None, None]:
        """Batches of the sampler's epoch.

        Raises:
            ItemError: An item can't be read, in evaluation.
            DataError: Too many items can't be read, in training; a transform failed; a worker died.
        """
        # Workers are ended here, not whenever the garbage collector comes to the generator that has them.
        with contextlib.closing(self._batches()) as batches:
            while True:
                started = time.perf_counter()
                batch = next(batches, None)
                self.wait_seconds += time.perf_counter() - started
                if batch is None:
                    return
                if "error" in batch:
                    if isinstance(batch["error"], DataError):
                        # The items passed over on the way say why, so they are named first.
                        self.bad_files.settle(batch["bad"])
                    raise batch["error"]
                self.bad_files.add(batch.pop("bad"))
                self._item_seconds.append(batch.pop("seconds") / len(batch["index"]))
                self.sampler.consumed += 1
                yield {name: as_tensor(array) for name, array in batch.items()}

    def batches_under_way(self) -> int:
        """How many batches can be read ahead, or kept by the consumer."""
        return self.num_workers * AHEAD + _KEPT

    def advice(self, items_per_s: float) -> str:
        """The cheapest cure for a consumer that could take so many items per second, and has to wait.

        It is one line; "" as long as too few batches were read to tell.
        """
        if len(self._item_seconds) < _ENOUGH:
            return ""
        # The median leaves out the first batches, for which loops may have been compiled.
        rate = 1 / max(float(np.median(self._item_seconds)), 1e-9)
        core = f"one core prepares {rate:.0f} {self.dataset.noun}s/s"
        said = f"{core}, and the model could take {items_per_s:.0f}"
        if len(self) == 1:
            return (
                f"{said}, but an epoch is one batch, which one worker makes while all else waits: a smaller "
                "dataloader.train.sampler.batch_size lets batches be read ahead"
            )
        needed = math.ceil(items_per_s / rate)
        if self.num_workers < min(needed, self._cores):
            return f"{said}: set dataloader.train.loader.num_workers: {min(needed, self._cores)}"
        if needed <= min(self.num_workers, self._cores):  # it isn't the processor that is too slow
            return (
                f"{said}, so {self.num_workers} workers wait for files, or for cores that others use: "
                f"num_workers: {2 * self.num_workers} reads more files at a time, a copy by "
                "tools/make_cache.py is read faster"
            )
        missing = self.dataset.missing_speedups()
        if missing:
            return f"{said}: pip install 'passl_sot[fast]' ({' and '.join(missing)} not installed)"
        return f"{said}: tools/benchmark.py --mode data shows which step takes the time"

    def _batches(self) -> Generator[dict[str, Any], None, None]:
        if not self.num_workers:
            yield from thread_batches(self._reader, self.sampler, self._section.timeout)
            return
        self.pool = pool = self._ready_pool()
        self._idle = None  # an iteration inside of this one has workers of its own
        yield from pool.batches(self.sampler)
        self._idle = pool

    def _ready_pool(self) -> WorkerPool:
        """The workers of the last pass, or new ones if they don't read the dataset as it is now."""
        if self._buffers is None:
            slots = self.batches_under_way() if self._section.use_shared_memory else 0
            self._buffers = BufferPool(slots, self.dataset.slot_bytes(self.sampler.batch_size))
        reader = SharedReader(self._reader)
        if self._idle is not None:
            if self._idle.is_reusable(reader):
                return self._idle
            self._idle.close()
        return WorkerPool(reader, self.dataset, self.num_workers, self._buffers, self._section.timeout)


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


def as_tensor(array: np.ndarray) -> paddle.Tensor:
    """A tensor of the array's own memory; on a GPU a copy."""
    if paddle.device.get_device() == "cpu":
        # 23 us an image of 224x224 where paddle.to_tensor takes 256: nothing is copied.
        return paddle.utils.dlpack.from_dlpack(array)
    return paddle.to_tensor(array)


def worker_count(num_workers: int | str, world_size: int) -> int:
    """How many workers a process has, of `world_size` that share the machine's cores."""
    if num_workers == "auto":
        # One core is left for the process that trains.
        return max(0, min(_MOST_WORKERS, usable_cores() // world_size - 1))
    return int(num_workers)
