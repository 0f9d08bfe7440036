"""Batches made by worker processes, or by a thread, in the order in which they were asked for."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import multiprocessing
import queue
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.util import Finalize
from typing import Any

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.base import Dataset
from passl_sot.data.errors import DataError, WorkerError
from passl_sot.data.loader.shared_buffers import BufferPool, progress_in
from passl_sot.data.loader.worker import BatchReader, SharedReader, start_worker
from passl_sot.data.rng import Key
from passl_sot.imageio.kernels import jit

# Batches that each worker is asked for: one that it works on, and one so that it never waits for the main
# process.
AHEAD = 2
_POLL_SECONDS = 1.0
_LONG = 3  # waits of that length, from which a user wonders what is going on
# Seconds that a killed worker may take to end: one that hangs in a broken disk does not end.
_PATIENCE = 5.0
# Exit code that multiprocessing gives where its fork server was killed.
_SERVER_GONE = 255
_LOGGER = logging.getLogger("passl_sot.data")


def thread_batches(
    reader: BatchReader, keys: Iterable[list[Key]], timeout: float | None
) -> Generator[dict[str, Any], None, None]:
    """As `WorkerPool.batches`, read by a thread of this process ahead of the consumer.

    Raises:
        WorkerError: A batch took longer than `timeout` seconds.
    """
    reader = dataclasses.replace(reader)  # for a progress of its own
    asked: queue.SimpleQueue[list[Key] | None] = queue.SimpleQueue()
    ready: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        while (task := asked.get()) is not None:
            ready.put(reader(task))

    # A daemon: one that hangs in a broken disk keeps no process from ending.
    threading.Thread(target=read, daemon=True, name="passl_sot reader").start()
    try:
        for number, task in enumerate(itertools.chain(keys, itertools.repeat(None, AHEAD - 1)), 1):
            asked.put(task)
            if number >= AHEAD:
                yield _next(ready, timeout, reader)
    finally:
        asked.put(None)


def _next(
    ready: queue.SimpleQueue[dict[str, Any]], timeout: float | None, reader: BatchReader
) -> dict[str, Any]:
    for seconds in _waits(timeout):
        with contextlib.suppress(queue.Empty):
            return ready.get(timeout=seconds)
    who = f"the thread that reads {reader.dataset.noun}s"
    raise WorkerError(_timeout_message(timeout, who, _activity(reader.progress, reader.dataset)))


def _waits(timeout: float | None) -> Iterator[float]:
    """Seconds of single waits, `timeout` in all: a job suspended for an hour hasn't waited for an hour."""
    seconds = min(_POLL_SECONDS, timeout or _POLL_SECONDS)
    waited = 0.0
    for number in itertools.count(1):
        if timeout is not None and waited >= timeout:
            return
        yield seconds
        waited += seconds
        if number == _LONG and jit.available():
            _explain()


def _explain() -> None:
    """Says why a batch may be slow to come, where that is because loops are compiled."""
    from passl_sot.imageio.kernels import cache

    state = cache.state()
    if state == "compiling":
        _say_once(
            "the loops that prepare images are being compiled, once on this machine: up to a minute"
            + zh("loops_compiled")
        )
    elif state == "nothing kept":
        _say_once(
            "the loops that prepare images are compiled by each process anew, as there is no folder to keep "
            "them in: set NUMBA_CACHE_DIR to one that can be written to" + zh("loops_not_kept")
        )


@functools.cache
def _say_once(line: str) -> None:
    _LOGGER.info("%s", line)


@dataclass(eq=False)  # two workers that are asked for nothing are not the same
class _Worker:
    process: ForkServerProcess
    connection: Connection
    # Batches that it was asked for and hasn't given yet: offsets of their slots by number.
    asked: dict[int, int | None] = field(default_factory=dict)


class WorkerPool:
    """Workers for passes through the data, one after the other.

    They put batches, each of which may take `timeout` seconds, into `buffers`. The dataset is for messages.

    Raises:
        WorkerError: They can't be started.
    """

    def __init__(
        self, reader: SharedReader, dataset: Dataset, workers: int, buffers: BufferPool, timeout: float | None
    ):
        self._digest = reader.digest
        self._dataset = dataset
        self._timeout = timeout
        self.buffers = buffers
        self._workers: list[_Worker] = []
        # multiprocessing.util's rather than weakref's: it runs before multiprocessing waits for its processes
        # at exit, and keeps connections out of the garbage collector's hands until they are closed.
        self.close = Finalize(self, _end_workers, (self._workers, buffers), exitpriority=0)
        try:
            for number in range(workers):
                self._workers.append(_Worker(*start_worker(number, reader, buffers)))
        except (OSError, EOFError) as error:
            self.close()
            raise WorkerError(
                f"data workers can't be started, see above ({error})" + zh("workers_not_started")
            ) from error

    def is_reusable(self, reader: SharedReader) -> bool:
        """Whether these workers are all there, after a whole pass, and read just the same."""
        ended = wait([worker.process.sentinel for worker in self._workers], 0)
        return bool(self._workers) and not ended and self._digest == reader.digest

    def batches(self, keys: Iterable[list[Key]]) -> Generator[dict[str, Any], None, None]:
        """The batch of each list of keys, as of `BatchReader`.

        After the last one workers wait for the next pass; broken off, they are ended.

        Raises:
            WorkerError: A worker died, or a batch took too long.
        """
        coming = enumerate(keys)
        # Batches come as workers finish them, and leave in the order of their keys.
        ready: dict[int, dict[str, Any]] = {}
        wanted = 0
        try:
            while True:
                batch = ready.pop(wanted, None)
                self._ask(coming, len(ready))
                if batch is not None:
                    wanted += 1
                    yield batch
                elif any(worker.asked for worker in self._workers):
                    ready.update(self._receive())
                else:
                    return
        except BaseException:
            self.close()
            raise

    def _ask(self, coming: Iterator[tuple[int, list[Key]]], ready: int) -> None:
        """Gives work to whoever has least, as long as there is memory for the results."""
        while True:
            worker = min(self._workers, key=lambda worker: len(worker.asked))
            under_way = sum(len(worker.asked) for worker in self._workers)
            if under_way + ready >= AHEAD * len(self._workers):
                return
            free = self.buffers.free
            if not free and self.buffers.slots and under_way + ready:
                return  # the consumer keeps batches: wait for what is under way
            task = next(coming, None)
            if task is None:
                return
            number, keys = task
            offset = free.popleft() if free else None
            worker.asked[number] = offset
            with contextlib.suppress(OSError):  # it is gone, as `_receive` will notice
                worker.connection.send((number, keys, offset))

    def _receive(self) -> dict[int, dict[str, Any]]:
        """Waits for at least one batch."""
        connections = [worker.connection for worker in self._workers]
        for seconds in _waits(self._timeout):
            speaking = wait(connections, seconds)
            if speaking:
                return dict(self._message(w) for w in self._workers if w.connection in speaking)
        slow = min(self._workers, key=lambda worker: min(worker.asked, default=sys.maxsize))
        raise WorkerError(_timeout_message(self._timeout, *self._describe(slow)))

    def _message(self, worker: _Worker) -> tuple[int, dict[str, Any]]:
        try:
            message: Any = worker.connection.recv()
        except (EOFError, OSError):
            who, activity = self._describe(worker)
            worker.process.join(_PATIENCE)  # its connection has ended, so should it
            raise WorkerError(
                f"a data worker process died: {who} {_end_of(worker.process)}; it {activity}. Often memory "
                "ran out: look for 'Killed' in `dmesg`, lower dataloader.*.loader.num_workers or batch_size"
                + zh("worker_died")
            ) from None
        if isinstance(message, str):
            raise DataError(f"a data worker failed:\n{message}")
        number, layout, batch = message
        offset = worker.asked.pop(number)
        if layout and offset is not None:
            batch.update(self.buffers.arrays(offset, layout))
        else:
            self.buffers.release(offset)
        return number, batch

    def _describe(self, worker: _Worker) -> tuple[str, str]:
        number = self._workers.index(worker)
        activity = _activity(progress_in(self.buffers.shared.buffer, number), self._dataset)
        return f"worker {number} (pid {worker.process.pid})", activity


def _end_workers(workers: list[_Worker], buffers: BufferPool) -> None:
    """Ends all workers; batches under way are dropped."""
    for worker in workers:
        # The number of one that has ended may be another process's by now.
        if worker.process.is_alive():
            worker.process.kill()  # SIGTERM is blocked there
    for worker in workers:
        worker.process.join(_PATIENCE)
        if worker.process.exitcode is None:
            # A broken disk holds it. It may still write to its slots, so these are lost; and this process
            # must not wait for it at exit, as multiprocessing does for all of its children.
            multiprocessing.process._children.discard(worker.process)  # type: ignore[attr-defined]
            continue
        for offset in worker.asked.values():
            buffers.release(offset)
        worker.process.close()
        worker.connection.close()
    workers.clear()


def _end_of(process: ForkServerProcess) -> str:
    code = process.exitcode
    if code is None:
        return "broke off its connection"
    if code == _SERVER_GONE:
        return "ended with the server of all workers, which was killed"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"left with status {code}"


def _activity(progress: np.ndarray, dataset: Dataset) -> str:
    item, since = progress.tolist()
    if not item:
        return f"was reading no {dataset.noun}"
    seconds = (time.monotonic_ns() - since) / 1e9
    return f"had been reading {dataset.noun} {item - 1} ({dataset.describe(item - 1)}) for {seconds:.0f} s"


def _timeout_message(limit: float | None, who: str, activity: str) -> str:
    return (
        f"no batch came for {limit:g} s: {who} {activity}. Is that disk or server in order? Where reading "
        "may take so long, raise dataloader.*.loader.timeout" + zh("reading_timeout")
    )
