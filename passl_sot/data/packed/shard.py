"""The work of packing: shards, each written as a whole, by this process or by several."""

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.errors import DataError
from passl_sot.data.packed.format import map_file, read_index, shard_name, write_index
from passl_sot.data.packed.origins import Origin, status_of
from passl_sot.data.packed.record import Item, Recipe, pack_image
from passl_sot.imageio.errors import ImageError, NoImageFile
from passl_sot.launch.supervisor import end_with_parent
from passl_sot.utils.files import replace_atomically

# Images in a shard: as many as make 64 shards, within bounds, but no more than 512 shards, since each process
# that reads holds all of them open.
_LEAST = 256
_MOST = 8192
_SHARDS = 64
_MOST_SHARDS = 512
_SAMPLE = 32  # images that each process measures


@dataclass(frozen=True, kw_only=True)
class Job:
    """A dataset to be packed into a folder; can be sent to another process."""

    source: LabelledImages
    folder: str
    recipe: Recipe
    # A hash of settings, names and labels: shards of another don't count. Of files, each shard has a note.
    fingerprint: str = ""

    @property
    def per_shard(self) -> int:
        """Images in each shard but the last: few where there are few, so that processes can share them."""
        images = len(self.source)
        return max(min(_MOST, max(_LEAST, -(-images // _SHARDS))), -(-images // _MOST_SHARDS))

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-len(self.source) // self.per_shard)

    def images(self, number: int) -> range:
        """Numbers of the images of a shard."""
        first = number * self.per_shard
        return range(first, min(first + self.per_shard, len(self.source)))

    def file(self, number: int, ending: str = "bin") -> str:
        """Path of a shard; with the ending "note", of what is written about a finished one."""
        return os.path.join(self.folder, shard_name(number, ending))

    def pack(self, index: int) -> tuple[Item, Origin]:
        """The form of an image to be stored, and what is noted of its file.

        What can't be an image counts as a damaged one: it stands in the copy, empty. A file that has gone, or
        that the disk doesn't give, is an ImageError.
        """
        # Looked at before it is read: what happens to it meanwhile shows as a change.
        status = status_of(self.source.extent(index))
        try:
            data = bytes(self.source.stored(index))
        except NoImageFile as error:
            return Item(data=b"", fault=str(error)), Origin.of(status, b"")
        item = pack_image(data, self.source.path(index), self.recipe)
        return item, Origin.of(status, data)


def spread(count: int, most: int) -> list[int]:
    """Numbers of at most so many of ``count`` images, evenly spread."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()


class Sample(NamedTuple):
    """Figures of some of the images, for an estimate of all."""

    sizes: list[int]  # bytes of each as it is stored
    seconds: float  # that one takes on average


def measure(job: Job, part: int, parts: int) -> Sample:
    """Packs a sample of the images into a file without a name, as one of so many processes at a time."""
    chosen = spread(len(job.source), _SAMPLE * parts)[part::parts]
    with tempfile.TemporaryFile(dir=job.folder) as file:
        # Once without being timed: loops may have to be compiled, which doesn't happen again.
        file.write(job.pack(chosen[0])[0].data)
        began = time.perf_counter()
        sizes = [file.write(job.pack(index)[0].data) for index in chosen]
        file.flush()
        os.fsync(file.fileno())  # the disk's time belongs to it
        seconds = time.perf_counter() - began
    return Sample(sizes=sizes, seconds=seconds / len(sizes))


def finished_shard(job: Job, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Header and arrays of a shard that was finished; None where it has to be written."""
    try:
        header, arrays = read_index(job.file(number, "note"))
        size = os.path.getsize(job.file(number))
    except (OSError, DataError):
        return None
    # After a power failure a shard may have its name, but not all of its bytes.
    if header["fingerprint"] != job.fingerprint or header["bytes"] != size:
        return None
    return header, arrays


def write_shard(job: Job, number: int, tell: Callable[[int], Any]) -> None:
    """Packs the images of one shard; `tell` is called with 1 after each.

    Raises:
        ImageError: A file can't be opened.
        DataError: The disk doesn't give back the bytes that were written.
    """
    images = job.images(number)
    rows = np.zeros(len(images), [("size", "i8"), ("crc", "u4"), ("shape", "i4", 2), ("orientation", "u1")])
    origins = np.zeros((len(images), len(Origin())), np.uint64)
    faults: list[str] = []

    def write(file: BinaryIO) -> None:
        total = 0
        for place, index in enumerate(images):
            item, origins[place] = job.pack(index)
            file.write(item.data)
            total = zlib.crc32(item.data, total)
            rows[place] = (len(item.data), zlib.crc32(item.data), item.shape, item.orientation)
            if item.fault:
                faults.append(item.fault)
            tell(1)
        file.flush()
        # A faulty disk or memory is noticed now, not in the middle of a training.
        if zlib.crc32(map_file(file.name)) != total:
            raise DataError(
                f"{file.name}: reading gives other bytes than were written: the disk is faulty"
                + zh("disk_faulty")
            )
        arrays = {"ends": np.cumsum(rows["size"]), "checksums": rows["crc"], "origins": origins}
        if job.recipe.kind == "pixels":
            arrays.update(shapes=rows["shape"], orientations=rows["orientation"])
        header = {"fingerprint": job.fingerprint, "bytes": file.tell(), "faults": faults}
        write_index(job.file(number, "note"), header, arrays)

    replace_atomically(Path(job.file(number)), write)


def work(
    job: Job, shares: list[list[int]], begin: Callable[[list[Sample]], Any], tell: Callable[[int], Any]
) -> None:
    """Writes the shards of each process, in this one if there is one alone.

    `begin` is called with the figures of each process before the work, `tell` with numbers of packed images.
    """
    if len(shares) == 1:
        begin([measure(job, 0, 1)])
        for number in shares[0]:
            write_shard(job, number, tell)
        return
    # Forked processes would share locks of libraries with the threads of this one.
    context = multiprocessing.get_context("spawn")
    workers: dict[Any, Any] = {}  # by the pipe that their news come from
    try:
        for part in range(len(shares)):
            ours, theirs = context.Pipe()
            arguments = (job, shares, part, theirs, os.getpid())
            worker = context.Process(target=_child, args=arguments, daemon=True)
            worker.start()
            workers[ours] = worker
            theirs.close()  # so that the pipe ends with the process
        begin([_news(*entry) for entry in workers.items()])
        for pipe in workers:
            with contextlib.suppress(ConnectionError):  # one that has died shows below
                pipe.send(None)
        busy = set(workers)
        while busy:
            for pipe in wait(busy):
                news = _news(pipe, workers[pipe])
                if news is None:
                    busy.remove(pipe)
                else:
                    tell(news)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.join()


def _news(pipe: Any, worker: Any) -> Any:
    """What a process has sent; errors are raised, that of one that was killed and could send none, too."""
    try:
        news = pipe.recv()
    except (EOFError, ConnectionError):
        worker.join()
        raise DataError(
            f"a packing process has ended (exit code {worker.exitcode}; -9 may be for lack of "
            "memory): run the same command again, with fewer --processes if it ends again" + zh("packer_died")
        ) from None
    if isinstance(news, Exception):
        raise news
    return news


# Sends its figures, waits, and sends the numbers of images packed and at last None, or an error.
def _child(job: Job, shares: list[list[int]], part: int, pipe: Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this one
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it died before the system was told
        return
    try:
        pipe.send(measure(job, part, len(shares)))
        pipe.recv()
        for number in shares[part]:
            write_shard(job, number, pipe.send)
        pipe.send(None)
    except (DataError, ImageError, OSError) as error:
        pipe.send(error)
