"""Batches made by worker processes, or by a thread, in the order in which they were asked for."""

from __future__ import annotations

import contextlib
import copy
import functools
import mmap
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any

from passl_sot.config.chinese import zh
from passl_sot.data.datasets.base import Dataset
from passl_sot.data.errors import DataError, WorkerError
from passl_sot.data.loader.batch_reader import BatchReader
from passl_sot.data.loader.fork_server import Link, Work, nursery
from passl_sot.data.loader.shared_buffers import Ring, Slot, note
from passl_sot.data.rng import Key

# Batches that each worker is asked for ahead.
AHEAD = 2
# Seconds of one wait. Waits are counted, whatever the clock says: a job suspended for an hour hasn't waited.
_LOOK = 1.0
# Seconds that a worker may take to end: one that hangs before it begins, or in a broken disk, does not.
_PATIENCE = 5.0


class Reading:
    """What a worker does: reads batches until there is no more to do.

    Args:
        reader: Makes batches.
        slot_bytes: Size of the slots that batches are written to.
    """

    def __init__(self, reader: BatchReader, slot_bytes: int):
        self.reader = reader
        self.slot_bytes = slot_bytes

    def __call__(self, connection: Link, memory: mmap.mmap) -> None:
        """Answers (number, keys, place of a slot or None) by (number, what is in the slot or None, batch)."""
        worker = connection.recv()
        self.reader.note = functools.partial(note, memory, worker)
        connection.send(os.getpid())
        while True:
            number, keys, place = connection.recv()
            began = time.process_time()
            slot = Slot(memory, place, self.slot_bytes)
            batch = self.reader(keys, slot.empty)
            layout = None
            if "error" not in batch:
                layout = slot.put({name: value for name, value in batch.items() if name != "bad"})
                batch = {"bad": batch["bad"]} if layout else batch
            batch["seconds"] = time.process_time() - began
            connection.send((number, layout, batch))


class Thread(threading.Thread):
    """Reads batches ahead of the consumer in this process, where there are no workers.

    Args:
        reader: Makes batches.
        timeout: Seconds that a batch may take; None for no limit.
    """

    def __init__(self, reader: BatchReader, timeout: float | None):
        super().__init__(daemon=True, name="passl_sot reader")  # one that hangs keeps no process from ending
        self._reader = copy.copy(reader)
        self._reader.note = self._note
        self._timeout = timeout
        self._now: tuple[int | None, float] = (None, 0.0)
        self._asked: queue.SimpleQueue[list[Key] | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def run(self) -> None:
        """Reads until there is no more to do."""
        while (keys := self._asked.get()) is not None:
            began = time.thread_time()
            batch = self._reader(keys)
            self._ready.put({**batch, "seconds": time.thread_time() - began})

    def batches(self, keys: Iterable[list[Key]]) -> Generator[dict[str, Any], None, None]:
        """As of `Pool`.

        Raises:
            WorkerError: A batch took too long.
        """
        self.start()
        under_way = 0
        coming = iter(keys)
        try:
            while True:
                while under_way < AHEAD and (task := next(coming, None)) is not None:
                    self._asked.put(task)
                    under_way += 1
                if not under_way:
                    return
                batch = self._receive()
                under_way -= 1
                yield batch
        finally:
            self._asked.put(None)

    def _receive(self) -> dict[str, Any]:
        waited = 0.0
        while self._timeout is None or waited < self._timeout:
            with contextlib.suppress(queue.Empty):
                return self._ready.get(timeout=_LOOK)
            waited += _LOOK
        image, since = self._now
        doing = describe(image, time.monotonic() - since, self._reader.dataset)
        raise WorkerError(
            silence(self._timeout, f"the thread that reads {self._reader.dataset.noun}s", doing)
        )

    def _note(self, image: int | None) -> None:
        self._now = (image, time.monotonic())


class Pool:
    """Workers for passes through the data, one after the other.

    Args:
        work: What they do, a `Reading`.
        dataset: The dataset, for messages.
        workers: How many.
        ring: Where they put batches.
        timeout: Seconds that a batch may take; None for no limit.

    Attributes:
        pids: Their process numbers, as far as they have begun.
        ring: Where they put batches.
    """

    def __init__(self, work: Work, dataset: Dataset, workers: int, ring: Ring, timeout: float | None):
        self._work, self._dataset = work, dataset
        self.ring, self._timeout = ring, timeout
        self.pids: dict[Link, int] = {}
        self._server = nursery()  # this one: a later one knows nothing of these workers
        try:
            self._workers = [self._server.start(work, ring.file) for _ in range(workers)]
            for number, worker in enumerate(self._workers):
                worker.send(number)
        except OSError as error:
            raise WorkerError(
                f"data workers can't be started, see above ({error})" + zh("workers_not_started")
            ) from error
        # What each is asked for and hasn't given yet: places of slots by number.
        self._asked: dict[Link, dict[int, int | None]] = {worker: {} for worker in self._workers}

    def can_do(self, work: Work) -> bool:
        """Whether these workers are all there, after a whole pass, and do just that."""
        try:
            talking = wait(self._workers, 0)
            for worker in (worker for worker in self._workers if worker in talking):
                self.pids[worker] = int(worker.recv())  # all that one says unasked
        except (EOFError, OSError, ValueError):
            return False
        return self._server.alive() and self._work.same_as(work)

    def batches(self, keys: Iterable[list[Key]]) -> Generator[dict[str, Any], None, None]:
        """A batch of arrays, as of `BatchReader`, for each list of keys; `seconds`: the processor time it took.

        After the last one workers wait for the next pass; broken off, they are ended.

        Raises:
            WorkerError: A worker died, or a batch took too long.
        """
        coming = enumerate(keys)
        ready: dict[int, dict[str, Any]] = {}
        wanted = 0
        try:
            while True:
                batch = ready.pop(wanted, None)
                self._ask(coming, len(ready))
                if batch is not None:
                    wanted += 1
                    yield batch
                elif any(self._asked.values()):
                    ready.update(self._receive())
                else:
                    return
        except BaseException:
            self.close()
            raise

    def _ask(self, coming: Iterator[tuple[int, list[Key]]], ready: int) -> None:
        """Gives work to whoever has least, as long as there is memory for the results."""
        while True:
            worker = min(self._workers, key=lambda w: len(self._asked[w]))
            under_way = sum(map(len, self._asked.values()))
            if len(self._asked[worker]) >= AHEAD or under_way + ready >= AHEAD * len(self._workers):
                return
            place = self.ring.take()
            if place is None and self.ring.slots and under_way + ready:
                return  # the consumer keeps batches: wait for what is under way
            task = next(coming, None)
            if task is None:
                if place is not None:
                    self.ring.give_back(place)
                return
            number, keys = task
            self._asked[worker][number] = place
            with contextlib.suppress(OSError):  # it is gone, as `_receive` will notice
                worker.send((number, keys, place))

    def _receive(self) -> dict[int, dict[str, Any]]:
        """Waits for at least one batch."""
        waited = 0.0
        received: dict[int, dict[str, Any]] = {}
        while not received:
            began = time.monotonic()
            for worker in self._speaking():
                try:
                    message: Any = worker.recv()
                except (EOFError, OSError):
                    raise WorkerError(self._death(worker)) from None
                if isinstance(message, int):
                    self.pids[worker] = message
                    continue
                if isinstance(message, str):
                    raise DataError(f"a data worker failed:\n{message}")
                number, layout, batch = message
                place = self._asked[worker].pop(number)
                if layout is not None and place is not None:
                    batch.update(self.ring.arrays(place, layout))
                elif place is not None:
                    self.ring.give_back(place)
                received[number] = batch
            waited += min(time.monotonic() - began, _LOOK)
            if not received and self._timeout and waited >= self._timeout:
                raise WorkerError(self._silence())
        return received

    def _speaking(self) -> list[Link]:
        speaking = set(wait(self._workers, _LOOK))
        return [worker for worker in self._workers if worker in speaking]

    def close(self) -> None:
        """Ends the workers; what they had under way is dropped."""
        for worker, places in self._asked.items():
            # Until it is gone it may write to its slots.
            if not places or self._kill(worker):
                for place in filter(None, places.values()):
                    self.ring.give_back(place)
            places.clear()
            worker.close()

    def _kill(self, worker: Link) -> bool:
        """Ends a worker and waits until it is gone; says whether that is sure."""
        try:
            if worker not in self.pids and worker.poll(_PATIENCE):
                first = worker.recv()
                if isinstance(first, int):  # else it says why it never began, and ends by itself
                    self.pids[worker] = first
            if worker in self.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pids[worker], signal.SIGKILL)
            while worker.poll(_PATIENCE):
                worker.recv()
            return False
        except (EOFError, ConnectionResetError):  # the latter where it left messages unread
            return True
        except OSError:
            return False

    def _death(self, worker: Link) -> str:
        how = (
            self._server.how_it_ended(self.pids[worker]) if worker in self.pids else "never began, see above"
        )
        return (
            f"a data worker process died: {self._name(worker)} {how}; it {self._doing(worker)}. Often memory "
            "ran out: look for 'Killed' in `dmesg`, lower dataloader.*.loader.num_workers or batch_size"
            + zh("worker_died")
        )

    def _silence(self) -> str:
        slow = min(self._workers, key=lambda w: min(self._asked[w], default=sys.maxsize))
        return silence(self._timeout or 0.0, self._name(slow), self._doing(slow))

    def _name(self, worker: Link) -> str:
        return f"worker {self._workers.index(worker)} (pid {self.pids.get(worker, 'not known')})"

    def _doing(self, worker: Link) -> str:
        return describe(*self.ring.whereabouts(self._workers.index(worker)), self._dataset)


def describe(index: int | None, seconds: float, dataset: Dataset) -> str:
    """What a reader of images is doing."""
    if index is None:
        return f"was reading no {dataset.noun}"
    return f"had been reading {dataset.noun} {index} ({dataset.describe(index)}) for {seconds:.0f} s"


def silence(limit: float, who: str, doing: str) -> str:
    """The message for batches that don't come."""
    return (
        f"no batch came for {limit:g} s: {who} {doing}. Is that disk or server in order? Where reading may "
        "take so long, raise dataloader.*.loader.timeout" + zh("reading_timeout")
    )
