"""Worker processes: starting them, handing the dataset over, and reading batches, which is their work."""

import contextlib
import functools
import hashlib
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from multiprocessing import forkserver, resource_tracker, spawn, util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.heap import Arena
from typing import Any

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.base import Dataset, Empty
from passl_sot.data.errors import DataError, ItemError
from passl_sot.data.loader import shared_buffers
from passl_sot.data.loader.shared_buffers import BufferPool, shared_memory, size_of
from passl_sot.data.rng import Key
from passl_sot.launch.supervisor import end_with_parent

# Environment variable with the folder of the server's socket.
SERVER_FOLDER = "PASSL_SOT_SERVER_FOLDER"
# Forked from the training process, workers would inherit the locks that Paddle's threads happen to hold, and
# hang. The server has imported the data layer alone, so its forks are small and ready within milliseconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_PREPARATION = spawn.get_preparation_data
# So many unreadable items on end are no accident of single ones, but a missing disk or a wrong list.
_TRIES = 100


def start_server() -> None:
    """Starts the fork server unless it runs; a worker, where there may be none, gets a RuntimeError."""
    if multiprocessing.current_process().daemon:
        raise RuntimeError("a data worker can't have data workers of its own")
    _CONTEXT.set_forkserver_preload(["passl_sot.data.loader.preload"])
    # It lets the signals through again that are blocked below, so it must run before.
    resource_tracker.ensure_running()
    # Schedulers send SIGTERM to every process of a job, and terminals send Ctrl-C: the training process then
    # finishes its step and saves, for which it needs its workers. Server and workers inherit the mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    # The server must import the very modules that this process has, whatever lies in the current folder; it
    # isn't told where to find them, as workers are.
    variables = {
        "PYTHONPATH": os.pathsep.join(place or os.getcwd() for place in sys.path),
        "PYTHONSAFEPATH": "1",
        SERVER_FOLDER: util.get_temp_dir(),
    }
    try:
        with _replaced(os.environ, variables):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _replaced(names: MutableMapping[str, Any], values: Mapping[str, Any]) -> Iterator[None]:
    before = {name: names[name] for name in values if name in names}
    names.update(values)
    try:
        yield
    finally:
        names.update(before)
        for name in values.keys() - before.keys():
            del names[name]


def start_worker(
    number: int, reader: "SharedReader", buffers: BufferPool
) -> tuple[ForkServerProcess, Connection]:
    """Starts a worker, of that number in its pool, that reads batches and puts them into buffers.

    Returns:
        The process, and the connection to it: (number, keys, slot or None) is answered by (number, layout of
        the slot, rest of the batch); a traceback (str) comes where the worker can't go on.

    Raises:
        OSError, EOFError: The server ended.
    """
    start_server()
    ours, theirs = _CONTEXT.Pipe()
    arguments = (number, theirs, reader, buffers.shared, buffers.slot_bytes)
    process = _CONTEXT.Process(target=_work, args=arguments, daemon=True)
    with theirs, _replaced(vars(spawn), {"get_preparation_data": _without_main}):
        process.start()
    return process, ours


def _without_main(name: str) -> dict[str, Any]:
    # multiprocessing would run the user's script in the worker, which loads Paddle and needs a main guard.
    # `SharedReader` runs it where a part of the dataset is defined in it.
    return {key: value for key, value in _PREPARATION(name).items() if not key.startswith("init_main")}


class SharedReader:
    """A `BatchReader` as it is sent to workers; they share its arrays, such as the paths of a million files.

    Attributes:
        digest: The same for readers that do the same.

    Raises:
        DataError: A part of the reader can't be sent to another process; says which.
    """

    def __init__(self, reader: "BatchReader"):
        advice = "move it to a module of its own, or set loader.num_workers: 0" + zh("move_to_module")
        buffers: list[pickle.PickleBuffer] = []
        try:
            self._text = pickle.dumps(reader, protocol=5, buffer_callback=buffers.append)
        except Exception as error:
            raise DataError(
                f"data workers can't be given a part of the dataset ({error}): {advice}"
            ) from error
        # Classes of the script itself are pickled as `__main__.Mine`, so the worker must run the script.
        self._script: str | None = None
        if b"__main__" in self._text:
            self._script = getattr(sys.modules["__main__"], "__file__", None)
            if self._script is None or not os.path.exists(self._script):
                raise DataError(
                    f"data workers can't see what is defined in a notebook or on a command line: {advice}"
                )
        arrays = [buffer.raw() for buffer in buffers]
        begins = [0, *itertools.accumulate(size_of((array.nbytes,), 1) for array in arrays)]
        self._shared = shared_memory(max(1, begins[-1]))  # no memory is of 0 bytes
        self._slices: list[slice] = []
        digest = hashlib.blake2b(self._text)
        for begin, array in zip(begins, arrays, strict=False):
            place = slice(begin, begin + array.nbytes)
            self._slices.append(place)
            self._shared.buffer[place] = array
            digest.update(array)
        self.digest = digest.digest()

    def load(self) -> "BatchReader":
        """The reader, in a worker; nothing in its arrays can be changed there."""
        if self._script is not None:
            try:
                spawn.import_main_path(self._script)
            except BaseException as error:
                raise ImportError(
                    f"{self._script} defines a part of the dataset, so data workers import it: what it does "
                    'beside must stand below `if __name__ == "__main__":`' + zh("main_guard")
                ) from error
        # Read-only, as what one worker writes all would see.
        memory = memoryview(self._shared.buffer).toreadonly()
        return pickle.loads(self._text, buffers=[memory[place] for place in self._slices])


def _work(number: int, connection: Connection, shared: SharedReader, batches: Arena, slot_bytes: int) -> None:
    # The server ends with the training process, however that ends, and workers with the server; one that
    # hangs while it reads would not notice that its connection has ended.
    end_with_parent(signal.SIGKILL)
    try:
        reader = shared.load()
        reader.progress = shared_buffers.progress_in(batches.buffer, number)
        while True:
            task, keys, offset = connection.recv()
            slot = shared_buffers.slot_at(batches.buffer, offset, slot_bytes)
            batch = reader(keys, functools.partial(shared_buffers.empty_in, slot))
            layout = shared_buffers.move(batch, slot)
            connection.send((task, layout, batch))
    except (EOFError, ConnectionError):
        pass  # the training process is gone, or wants no more
    except BaseException:
        with contextlib.suppress(OSError):
            connection.send(traceback.format_exc())


@dataclass(eq=False)
class BatchReader:
    """Makes batches of a dataset and never raises: errors travel in place of the batch.

    Attributes:
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
            took. After an error no arrays, but `error`, an ItemError, or a DataError for anything else.
        """
        began = time.thread_time()
        bad: list[list[Any]] = []
        batch: dict[str, Any] = {}
        self._note(keys[0][1])  # a whole batch may be read at once, without `_read`
        try:
            batch = self.dataset.batch(keys, functools.partial(self._read, bad), empty)
        except (DataError, ItemError) as error:
            batch["error"] = error
        except Exception:
            batch["error"] = DataError(f"while making a batch:\n{traceback.format_exc()}")
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
                    raise
            except Exception:
                # Whatever it is, the user needs the item's name and the traceback of the worker.
                where = f"while reading {dataset.noun} {index} ({dataset.describe(index)}):"
                raise DataError(f"{where}\n{traceback.format_exc()}") from None
            finally:
                self._note(None)
        raise DataError(f"{tries} {dataset.noun}s in a row can't be read" + zh("unreadable_in_a_row"))
