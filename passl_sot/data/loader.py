"""The loader: Paddle's DataLoader with what a training run needs around it."""

from __future__ import annotations

import functools
import gc
import glob
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import paddle

from passl_sot.data.bad_files import BadFiles, GuardedReader
from passl_sot.data.collate import Collate
from passl_sot.data.datasets import LabelledImages
from passl_sot.data.errors import DataError, ImageError, WorkerError
from passl_sot.data.sampler import EvalBatchSampler, ShardedBatchSampler
from passl_sot.data.sections import LoaderSection
from passl_sot.data.watch import Watch, ignore_foreign_sigterm
from passl_sot.utils.supervisor import end_with_parent

_LOGGER = logging.getLogger("passl_sot.data")
_SHM = "/dev/shm"
# Batches that Paddle prepares ahead for each worker, and those it holds beside them.
_PREFETCH = 2
_HELD = 3
_MOST_WORKERS = 8
# Seconds that workers get to end by themselves.
_PATIENCE = 5.0


class ImageLoader:
    """Batches of one split, epoch after epoch; make one per split and keep it for the whole run.

    Iterating gives dicts of tensors: `image` float32 [B, C, H, W], `label` int64 [B] (after `Mixup` soft
    targets, float32 [B, K]), and `index` int64 [B], the places of these images in the dataset. The iteration
    follows `sampler.epoch`.

    Args:
        dataset: What to read.
        sampler: Which images make a batch.
        section: The `loader:` section.
        training: Replace unreadable files by others rather than stop at the first.
        world_size: Processes on this machine that share its cores and /dev/shm.

    Attributes:
        dataset: The dataset.
        sampler: The sampler; `sampler.consumed` counts the batches that were handed out.
        class_names: Name of each label.
        bad_files: Unreadable files so far; `len()` and `.reasons`.
        wait_seconds: Time the consumer has spent waiting for batches; set it to 0 to start anew.
        num_workers: Worker processes.
        use_shared_memory: Whether batches come through /dev/shm.
    """

    def __init__(
        self,
        dataset: LabelledImages,
        sampler: ShardedBatchSampler | EvalBatchSampler,
        section: LoaderSection,
        *,
        training: bool,
        world_size: int = 1,
    ):
        self.dataset = dataset
        self.sampler = sampler
        self.training = training
        self.num_workers = _worker_count(section.num_workers, world_size)
        self.bad_files = BadFiles(dataset, section.max_bad if training else 0)
        self.wait_seconds = 0.0
        self.use_shared_memory = section.use_shared_memory and self.num_workers > 0
        if self.use_shared_memory:
            height, width = dataset.output_hw or (224, 224)
            targets = (dataset.batch_stage and dataset.batch_stage.num_classes) or 0
            batch_bytes = sampler.batch_size * 4 * (dataset.channels * height * width + targets)
            self.use_shared_memory = shared_memory_suffices(batch_bytes, self.num_workers, world_size)
        self._timeout = section.timeout
        self._reader = GuardedReader(dataset, replace=training, workers=self.num_workers)
        self._loader = paddle.io.DataLoader(
            self._reader,
            batch_sampler=sampler,
            collate_fn=Collate(dataset),
            num_workers=self.num_workers,
            use_shared_memory=self.use_shared_memory,
            prefetch_factor=_PREFETCH,
            worker_init_fn=functools.partial(_start_worker, self._reader, os.getpid()),
        )

    @property
    def class_names(self) -> list[str]:
        """Name of each label."""
        return self.dataset.class_names

    def __len__(self) -> int:
        """Batches in a whole epoch for this process."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, paddle.Tensor]]:
        """Batches of the sampler's epoch.

        Raises:
            ImageError: A file can't be read, in evaluation.
            DataError: Too many files can't be read, in training; a transform failed.
            WorkerError: A worker died, or no batch came within `loader.timeout` seconds.
        """
        started = time.perf_counter()
        batches = self._start()
        workers = list(getattr(batches, "_workers", []))
        watch = Watch(batches, self._reader, self._timeout)
        watch.start()
        finished = False
        try:
            while True:
                batch = self._next(batches, watch, started)
                if batch is None:
                    finished = True
                    return
                self._raise_carried(batch)
                self.bad_files.add(batch.pop("bad"))
                self.sampler.consumed += 1
                yield batch
                started = time.perf_counter()
        finally:
            if not sys.is_finalizing():
                watch.stop()
                if not finished:
                    _stop(batches, workers)
                _join_reader(batches)

    def _start(self) -> Iterator[dict[str, Any]]:
        # Workers are forked. Frozen, what they inherit is never collected in them: an earlier iteration that
        # waits here for the garbage collector, as after an exception, would wait there for threads that no
        # fork takes along.
        gc.freeze()
        handler = signal.getsignal(signal.SIGCHLD)  # None where C code has set it
        try:
            return iter(self._loader)
        finally:
            gc.unfreeze()
            # Paddle's would raise wherever the main thread is when a worker dies; `Watch` notices it instead.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)

    def _next(self, batches: Iterator[dict[str, Any]], watch: Watch, started: float) -> dict[str, Any] | None:
        watch.waiting(True)
        try:
            return next(batches)
        except StopIteration:
            return None
        except SystemError as error:
            raise WorkerError(watch.problem or f"reading images failed: {_first_line(error)}") from error
        finally:
            watch.waiting(False)
            self.wait_seconds += time.perf_counter() - started

    def _raise_carried(self, batch: dict[str, Any]) -> None:
        error = batch.get("error")
        if error is None:
            return
        path, text = error
        if path:
            raise ImageError(path, text)
        # The files passed over on the way say why, so they are named first.
        self.bad_files.settle(batch["bad"])
        raise DataError(text)


def shared_memory_suffices(batch_bytes: int, num_workers: int, world_size: int) -> bool:
    """Whether /dev/shm can hold the batches that are under way; warns when it can't.

    Args:
        batch_bytes: Size of one batch.
        num_workers: Workers per process.
        world_size: Processes that share /dev/shm.
    """
    if not os.path.isdir(_SHM):
        return True
    needed = (num_workers * _PREFETCH + _HELD) * batch_bytes * world_size
    free = shutil.disk_usage(_SHM).free
    if needed <= 0.9 * free:
        return True
    _LOGGER.warning(
        "%s has %d MB free and the batches under way need up to %d MB, so shared memory is turned off and "
        "reading is slower. In Docker, start the container with --shm-size=%dg "
        "/ 共享内存不足，已关闭 use_shared_memory；Docker 请加 --shm-size=%dg",
        _SHM,
        free >> 20,
        needed >> 20,
        max(1, -(-2 * needed >> 30)),
        max(1, -(-2 * needed >> 30)),
    )
    return False


def _worker_count(num_workers: int | str, world_size: int) -> int:
    if num_workers == "auto":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # One core is left for the process that trains.
        return max(0, min(_MOST_WORKERS, cores // world_size - 1))
    if int(num_workers) < 0:
        raise ValueError(f'loader.num_workers is {num_workers}; it must be 0 or more, or "auto"')
    return int(num_workers)


def _start_worker(reader: GuardedReader, parent: int, worker_id: int) -> None:
    """Runs first in each worker process."""
    reader.worker = worker_id
    cv2 = sys.modules.get("cv2")
    if cv2 is not None:
        # Its thread pool doesn't survive a fork, and workers are the parallelism already.
        cv2.setNumThreads(0)
        cv2.ocl.setUseOpenCL(False)
    # A worker that outlived a killed parent would hold the lock of the run's folder against its resuming.
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    ignore_foreign_sigterm()
    if hasattr(os, "setpgid"):
        # Ctrl-C goes to a terminal's whole process group: only the main process shall act on it and finish
        # its step.
        os.setpgid(0, 0)


def _stop(batches: Any, workers: list[Any]) -> None:
    """Ends an iteration before its end: worker processes, threads, and what they left in /dev/shm."""
    if not workers:
        _stop_thread(batches)
        return
    batches._try_shutdown_all(0)
    until = time.monotonic() + _PATIENCE
    for worker in workers:
        # One that hangs (at a file, or forked while Paddle held a lock) would outlive this process.
        worker.join(max(0.0, until - time.monotonic()))
        if worker.is_alive():
            worker.kill()
            worker.join(1)
        # Batches that were never fetched; Paddle forgets them.
        for path in glob.glob(f"{_SHM}/paddle_{worker.pid}_*"):
            try:
                os.unlink(path)
            except OSError:
                _LOGGER.debug("%s is already gone", path)


def _stop_thread(batches: Any) -> None:
    """Ends the thread that reads where there are no workers; one that hangs is left to itself."""
    # Without this Paddle looks after the thread only once a second.
    batches._exit_thread_expectedly()
    batches._thread.join(_PATIENCE)
    if batches._thread.is_alive():
        batches._shutdown = True  # else Paddle would wait for it without end
    batches._try_shutdown_all()


def _join_reader(batches: Any) -> None:
    """Waits for the thread that fetches batches from workers; Paddle leaves it running for up to 5 s more.

    When it ends or frees memory while the next iteration forks its workers, these inherit a lock of Paddle's
    memory statistics in its locked state, and wait for it forever.
    """
    thread, queue = getattr(batches, "_thread", None), getattr(batches, "_data_queue", None)
    if thread is None or queue is None:
        return
    # It waits for data that don't come any more; with the last writer gone it wakes up.
    queue._writer.close()
    thread.join(10)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
