"""Processes that pack: each measures a few images, waits for the others, and writes its share of shards."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from passl_sot.config import zh
from passl_sot.data.errors import DataError
from passl_sot.data.packed.record import pack_image
from passl_sot.data.packed.shard import Job, write_shard
from passl_sot.imageio.errors import ImageError
from passl_sot.launch.supervisor import end_with_parent

_SAMPLE = 32  # images that each process measures


def spread(count: int, most: int) -> list[int]:
    """Numbers of at most so many of ``count`` images, evenly spread."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()


class Sample(NamedTuple):
    """Figures of some of the images, for an estimate of all."""

    sizes: list[int]  # bytes of each as it is stored
    seconds: float  # that one takes on average


def measure(job: Job, part: int, parts: int) -> Sample:
    """Packs a sample of the images into a file without a name, as one of so many processes at a time."""
    source = job.source
    chosen = spread(len(source), _SAMPLE * parts)[part::parts]
    with tempfile.TemporaryFile(dir=job.folder) as file:

        def store(index: int) -> int:
            data = pack_image(source.read(index), source.path(index), job.recipe).data
            return file.write(data)

        # Once without being timed: loops may have to be compiled, which doesn't happen again.
        store(chosen[0])
        began = time.perf_counter()
        sizes = [store(index) for index in chosen]
        file.flush()
        os.fsync(file.fileno())  # the disk's time belongs to it
        seconds = time.perf_counter() - began
    return Sample(sizes=sizes, seconds=seconds / len(sizes))


def work(
    job: Job, shares: list[list[int]], begin: Callable[[list[Sample]], None], tell: Callable[[int], Any]
) -> None:
    """Writes shards in this process or in others.

    Args:
        job: The dataset and the folder.
        shares: The shards of each process.
        begin: Called with the figures of each process before the work.
        tell: Called with the number of images packed since the last call.
    """
    if len(shares) == 1:
        begin([measure(job, 0, 1)])
        for number in shares[0]:
            write_shard(job, number, tell)
        return
    # Forked processes would share locks of libraries with the threads of this one.
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    start = context.Event()
    workers = [
        context.Process(target=_child, args=(job, shares, part, queue, start, os.getpid()))
        for part in range(len(shares))
    ]
    samples: list[Sample] = []
    try:
        for worker in workers:
            worker.start()
        working = True
        while working:
            # Before the queue is read: a process that ends in between has left its last news there.
            working = any(worker.is_alive() for worker in workers)
            while not queue.empty():
                news = queue.get()
                if isinstance(news, Exception):
                    raise news
                if not isinstance(news, Sample):
                    tell(news)
                    continue
                samples.append(news)
                if len(samples) == len(workers):
                    begin(samples)
                    start.set()
            for worker in workers:
                # A process that was killed has left no error in the queue.
                if worker.exitcode:
                    raise DataError(
                        f"a packing process has ended (exit code {worker.exitcode}; -9 may be for lack of "
                        "memory): run the same command again, with fewer --processes if it ends again"
                        + zh("packer_died")
                    )
            time.sleep(0.05)
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.kill()
                worker.join()


# Sends its figures, the numbers of images packed, and an error if there is one.
def _child(job: Job, shares: list[list[int]], part: int, queue: Any, start: Any, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this one
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it died before the system was told
        return
    try:
        queue.put(measure(job, part, len(shares)))
        start.wait()
        for number in shares[part]:
            write_shard(job, number, queue.put)
    except (DataError, ImageError, OSError) as error:
        queue.put(error)
    except Exception:
        # As text, since not every exception can be sent.
        queue.put(RuntimeError(traceback.format_exc()))
