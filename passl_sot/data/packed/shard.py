"""One shard of a packed copy: written under another name, read again, described, and only then renamed."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from passl_sot.config import zh
from passl_sot.data.errors import DataError
from passl_sot.data.packed.format import map_file, read_index, shard_name, write_index
from passl_sot.data.packed.record import Recipe, pack_image
from passl_sot.data.packed.sources import Source

# Images in a shard: as many as make 64 shards, within bounds, but no more than 512 shards, since each process
# that reads holds all of them open.
_LEAST = 256
_MOST = 8192
_SHARDS = 64
_MOST_SHARDS = 512
# After so many images progress is told.
_STEP = 16


@dataclass(frozen=True, kw_only=True)
class Job:
    """A dataset to be packed into a folder; can be sent to another process."""

    source: Source
    folder: str
    recipe: Recipe
    fingerprint: str  # a hash of all that the shards depend on: those of another don't count

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


def write_shard(job: Job, number: int, tell: Callable[[int], None]) -> None:
    """Packs the images of one shard; `tell` is called now and then with the number of images since.

    Raises:
        ImageError: A file can't be opened.
        DataError: The disk doesn't give back the bytes that were written.
        OSError: It is full, for example.
    """
    source = job.source
    temporary = f"{job.file(number)}.part"
    images = job.images(number)
    sizes = np.zeros(len(images), np.int64)
    checksums = np.zeros(len(images), np.uint32)
    shapes = np.zeros((len(images), 2), np.int32)
    orientations = np.zeros(len(images), np.uint8)
    faults: list[str] = []
    with open(temporary, "wb") as file:
        for place, index in enumerate(images):
            item = pack_image(source.read(index), source.path(index), job.recipe)
            file.write(item.data)
            sizes[place] = len(item.data)
            checksums[place] = zlib.crc32(item.data)
            shapes[place] = item.shape
            orientations[place] = item.orientation
            if item.fault:
                faults.append(item.fault)
            if (place + 1) % _STEP == 0:
                tell(_STEP)
        tell(len(images) % _STEP)
        file.flush()
        # Else the new name could survive a power failure, and the bytes not.
        os.fsync(file.fileno())
    # A faulty disk or memory is noticed now, not in the middle of a training.
    ends = np.cumsum(sizes)
    written = map_file(temporary)
    again = [zlib.crc32(written[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    if again != checksums.tolist():
        raise DataError(
            f"{temporary}: reading gives other bytes than were written: the disk is faulty"
            + zh("disk_faulty")
        )
    arrays: dict[str, np.ndarray] = {"ends": ends, "checksums": checksums}
    if job.recipe.kind == "pixels":
        arrays.update(shapes=shapes, orientations=orientations)
    header = {"fingerprint": job.fingerprint, "bytes": int(sizes.sum()), "faults": faults}
    write_index(job.file(number, "note"), header, arrays)
    os.replace(temporary, job.file(number))
