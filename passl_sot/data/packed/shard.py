"""One shard of a packed copy: written under another name, read again, described, and only then renamed."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from passl_sot.config.chinese import zh
from passl_sot.data.errors import DataError
from passl_sot.data.packed.format import read_index, shard_name, write_index
from passl_sot.data.packed.record import Recipe, pack_image
from passl_sot.data.packed.sources import Source
from passl_sot.data.packed.webdataset import TarWriter

__all__ = ["Job", "finished_shard", "remove_notes", "write_shard"]

# Images in a shard: as many as make 64 shards, within bounds, but no more than 512 shards, since each process
# that reads holds all of them open.
_LEAST, _MOST, _SHARDS, _MOST_SHARDS = 256, 8192, 64, 512
# After so many images progress is told.
_STEP = 16


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is packed where; can be sent to another process.

    Attributes:
        source: The images.
        folder: Where shards are written.
        recipe: How images are stored.
        ending: "bin", or "tar" for WebDataset's format.
        fingerprint: What the shards depend on, in short: those of another don't count.
    """

    source: Source
    folder: str
    recipe: Recipe
    ending: Literal["bin", "tar"]
    fingerprint: str

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

    def file(self, number: int) -> str:
        """Path of a shard."""
        return os.path.join(self.folder, shard_name(number, self.ending))

    def note(self, number: int) -> str:
        """Path of what is written about a finished shard."""
        return os.path.join(self.folder, shard_name(number, "note"))


def finished_shard(job: Job, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """What is known of a shard that an earlier run finished; None where it has to be written."""
    try:
        header, arrays = read_index(job.note(number))
        whole = header["fingerprint"] == job.fingerprint and header["bytes"] == os.path.getsize(
            job.file(number)
        )
    except (OSError, DataError):
        return None
    return (header, arrays) if whole else None


def remove_notes(job: Job) -> None:
    """Removes what was written about each shard."""
    for number in range(job.shards):
        with contextlib.suppress(FileNotFoundError):
            os.remove(job.note(number))


def write_shard(job: Job, number: int, tell: Callable[[int], None]) -> None:
    """Packs the images of one shard.

    Args:
        job: What is packed.
        number: Of the shard.
        tell: Called now and then with the number of images since the last time.

    Raises:
        ImageError: A file can't be opened.
        DataError: The disk doesn't give back what was written.
        OSError: It is full, for example.
    """
    temporary = f"{job.file(number)}.part"
    shapes: list[tuple[int, int]] = []
    orientations: list[int] = []
    ends: list[int] = []
    checksums: list[int] = []
    faults: list[str] = []
    with open(temporary, "wb") as file:
        writer = TarWriter(file) if job.ending == "tar" else None
        for count, index in enumerate(job.images(number), 1):
            item = pack_image(job.source.read(index), job.source.path(index), job.recipe)
            if writer is None:
                file.write(item.data)
            else:
                writer.add(index, job.source.names[index], bytes(item.data), *_labels(job.source, index))
            ends.append(len(item.data) + (ends[-1] if ends else 0))
            checksums.append(zlib.crc32(item.data))
            faults += [item.fault] if item.fault else []
            shapes.append(item.shape)
            orientations.append(item.orientation)
            if count % _STEP == 0:
                tell(_STEP)
        tell(len(ends) % _STEP)
        if writer is not None:
            writer.close()
        file.flush()
        os.fsync(file.fileno())
    if _read_again(temporary, job.ending, ends) != checksums:
        raise DataError(
            f"{temporary}: reading gives other bytes than were written: the disk is faulty"
            + zh("disk_faulty")
        )
    arrays: dict[str, np.ndarray] = {
        "ends": np.array(ends, np.int64),
        "checksums": np.array(checksums, np.uint32),
    }
    if job.recipe.kind == "pixels":
        arrays["shapes"] = np.array(shapes, np.int32)
        arrays["orientations"] = np.array(orientations, np.uint8)
    header = {"fingerprint": job.fingerprint, "bytes": os.path.getsize(temporary), "faults": faults}
    write_index(job.note(number), header, arrays)
    os.replace(temporary, job.file(number))


def _labels(source: Source, index: int) -> tuple[list[int], bool]:
    if source.multi_hot is None:
        return [int(source.labels[index])], False
    return np.flatnonzero(source.multi_hot[index]).tolist(), True


def _read_again(path: str, ending: str, ends: list[int]) -> list[int]:
    """Checksums of the images in a file."""
    if ending == "tar":
        with tarfile.open(path, "r:") as tar:
            images = (m for m in tar if not m.name.endswith((".cls", ".json")))
            return [zlib.crc32((tar.extractfile(member) or io.BytesIO()).read()) for member in images]
    if not ends[-1]:
        return [0] * len(ends)
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return [zlib.crc32(data[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
