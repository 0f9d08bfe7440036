"""What is noted of the files that a packed copy is made of, by which it is told whether they have changed.

Of each image four numbers, uint64: when its file was written; a digest of that, the file's size, inode and
time of the last change of any kind; one of the image's length, first and last 4 KiB; and one of all of it.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from passl_sot.data.datasets.identity import Extent, cut, digest, read_digest
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.threads import in_threads
from passl_sot.imageio.errors import NoImageFile
from passl_sot.imageio.files import check_size, file_status

_END = 4096
_CHUNK = 256
# If more files than these have other times, they are copies that didn't keep them, rather than edited.
_MOST_EDITED = 10_000


class Origin(NamedTuple):
    """What is noted of an image; zeros where there was no file to be read."""

    mtime: int = 0
    stamp: int = 0
    ends: int = 0
    whole: int = 0

    @classmethod
    def of(cls, status: os.stat_result | None, data: bytes) -> "Origin":
        """That of an image with these bytes, from a file that by `status_of` looked so before it was read."""
        if status is None:
            return cls()
        size = len(data)
        head, tail = cut(size, _END)
        ends = digest(size, data[:head], data[size - tail :])
        return cls(_mtime(status), _stamp(status), ends, digest(size, data))


def status_of(extent: Extent) -> os.stat_result | None:
    """What the system knows of an image's file; None where none can be read there, such as of a pipe.

    Raises:
        ImageError: There is nothing, or nobody may look at it.
    """
    try:
        status = file_status(extent.path)
        size = extent.size
        if size is None:
            size = status.st_size
        check_size(extent.path, size)
    except NoImageFile:
        return None
    return status


def _mtime(status: os.stat_result) -> int:
    return status.st_mtime_ns % 2**64


def _stamp(status: os.stat_result) -> int:
    return digest(status.st_size, b"%d %d %d" % (status.st_mtime_ns, status.st_ctime_ns, status.st_ino))


def find_changed(
    source: LabelledImages,
    images: Sequence[int],
    noted: np.ndarray,
    *,
    whole: bool = False,
    progress: bool = False,
) -> list[int]:
    """Which of some images aren't those any more that `noted`, uint64 [N, 4], tells of.

    A file that nothing was done to isn't read. Of one that was copied, but has its time and size, beginning
    and end are; one that was written since is read whole, as all are where `whole` asks for it.

    Raises:
        ImageError: A file has gone, or can't be read.
    """

    def look(place: int) -> bool | None:
        """Whether the file was written since; None where nothing was done to it."""
        then = Origin(*noted[place].tolist())
        status = status_of(source.extent(images[place]))
        if status is None and then != Origin():
            return True
        if status is None or then.stamp == _stamp(status):
            return None
        return then.mtime != _mtime(status)

    def differs(place: int) -> bool:
        then = Origin(*noted[place].tolist())
        extent = source.extent(images[place])
        try:
            if place in wholly:
                return read_digest(extent) != then.whole
            return read_digest(extent, _END) != then.ends
        except NoImageFile:
            return then != Origin()

    def describe(place: int) -> str:
        return source.path(images[place])

    title = f"comparing {source.root}"
    looks = in_threads(look, range(len(images)), describe, chunk=_CHUNK, title=title, progress=progress)
    wholly: set[int] | range = {place for place, state in enumerate(looks) if state}
    if len(wholly) > _MOST_EDITED:
        wholly = set()
    suspect: Sequence[int] = [place for place, state in enumerate(looks) if state is not None]
    if whole:
        wholly = suspect = range(len(images))
    found = in_threads(differs, suspect, describe, chunk=8, title=title, progress=progress)
    return [images[place] for place, changed in zip(suspect, found, strict=True) if changed]
