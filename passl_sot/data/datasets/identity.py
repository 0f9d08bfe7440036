"""What tells the images of one dataset from those of another: names, labels, sizes, digests of contents.

Where a file lies and when it was written doesn't count here: a copy on another disk is the same data.
"""

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.threads import in_threads
from passl_sot.imageio.errors import ImageError
from passl_sot.imageio.files import check_size, file_size, read_parts

Identity = Mapping[str, np.ndarray]
# Images whose contents are looked at: all of a small dataset, a second's work of a large one.
_SAMPLE = 4096
_END = 128 * 1024  # bytes of the beginning and of the end of a file that are; most photographs are smaller
_CHUNK = 256
_MOST_BYTES = 2_000_000_000  # of an array that was kept
_SHOWN = 3


class Extent(NamedTuple):
    """Where the bytes of an image lie: a file, or a part of one."""

    path: str
    start: int = 0
    size: int | None = None  # None: up to the end

    def measure(self) -> int:
        """Its bytes; an ImageError where there are none to read."""
        if self.size is None:
            return file_size(self.path)
        return self.size


def digest(size: int, *parts: bytes | memoryview) -> int:
    """A digest of 64 bits of a content's length and of parts of it."""
    total = hashlib.sha256(size.to_bytes(8, "little"))
    for part in parts:
        total.update(part)
    return int.from_bytes(total.digest()[:8], "little")


def read_digest(extent: Extent, end: int | None = None) -> int:
    """The digest of what lies there: of `end` bytes of its beginning and of its end, or of all."""
    size = extent.measure()
    check_size(extent.path, size)
    head, tail = cut(size, end)
    return digest(size, *read_parts(extent.path, (extent.start, head), (extent.start + size - tail, tail)))


def cut(size: int, end: int | None) -> tuple[int, int]:
    """Lengths of the beginning and of the end of so many bytes that are looked at, `end` each or all."""
    if end is None:
        return size, 0
    head = min(end, size)
    return head, min(end, size - head)


def take_identity(
    names: StringTable,
    labels: np.ndarray,
    multi_hot: np.ndarray | None,
    extent: Callable[[int], Extent],
    *,
    timeout: float | None,
) -> dict[str, np.ndarray]:
    """The identity of images in files: sizes of all, and contents of a sample that depends on names alone.

    An image that can't be read has the size -1.
    """

    def measure(index: int) -> int:
        try:
            return extent(index).measure()
        except ImageError:
            return -1

    def look(index: int) -> int:
        try:
            return read_digest(extent(index), _END)
        except ImageError:
            return 0

    def run(work: Callable[[int], int], items: Sequence[int], chunk: int) -> list[int]:
        return in_threads(work, items, lambda i: extent(i).path, chunk=chunk, timeout=timeout)

    sizes = np.array(run(measure, range(len(names)), _CHUNK), np.int64)
    # By hashes of names, so that most of the sample stays where images are added.
    sample = np.sort(np.argsort(names.name_codes(), kind="stable")[:_SAMPLE])
    contents = np.zeros(len(names), np.uint64)
    contents[sample] = np.array(run(look, sample.tolist(), 1), np.uint64)
    return keep(names, labels, multi_hot, sizes, contents)


def keep(
    names: StringTable,
    labels: np.ndarray,
    multi_hot: np.ndarray | None,
    sizes: np.ndarray | None = None,
    contents: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """An identity as arrays of compressed bytes, 7 for each image of ImageNet.

    Args:
        labels: int64 [N].
        multi_hot: uint8 [N, C] where images may have several labels.
        sizes: int64 [N]; None where they don't count.
        contents: Digests, uint64 [N], 0 where one isn't known; None where none is.
    """
    if multi_hot is not None:
        labels = np.array([zlib.crc32(row) for row in np.ascontiguousarray(multi_hot)])
    unknown = np.zeros(len(names), np.int64)
    if sizes is None:
        sizes = unknown
    if contents is None:
        contents = unknown
    ends, text = names.parts()
    arrays = {
        "names": text,
        "lengths": np.diff(ends).astype("<i4"),
        "labels": labels.astype("<i8"),
        "sizes": sizes.astype("<i8"),
        "contents": contents.astype("<u8"),
    }
    return {name: np.frombuffer(zlib.compress(array.data, 1), np.uint8) for name, array in arrays.items()}


class _Kept:
    """An identity that was kept."""

    def __init__(self, identity: Identity):
        self.text = _unpack(identity["names"], "u1")
        self.lengths = _unpack(identity["lengths"], "<i4")
        self.labels = _unpack(identity["labels"], "<i8")
        self.sizes = _unpack(identity["sizes"], "<i8")
        self.contents = _unpack(identity["contents"], "<u8")
        counts = {len(array) for array in (self.lengths, self.labels, self.sizes, self.contents)}
        if len(counts) > 1 or self.lengths.sum(dtype=np.int64) != len(self.text):
            raise ValueError("its arrays don't belong together")

    def names(self) -> list[str]:
        ends = np.cumsum(np.append(0, self.lengths), dtype=np.int64)
        table = StringTable.from_parts(ends, self.text)
        return [table[i] for i in range(len(table))]


def _unpack(data: np.ndarray, kind: str) -> np.ndarray:
    # A few bytes of a file from elsewhere could stand for any number.
    reader = zlib.decompressobj()
    text = reader.decompress(data.tobytes(), _MOST_BYTES)
    if not reader.eof:
        raise ValueError("an array is cut off, or too large")
    return np.frombuffer(text, kind)


def differences(noun: str, before: Identity, now: Identity) -> list[str]:
    """What tells two identities apart, each difference with its number and first names; [] for nothing."""
    try:
        old = _Kept(before)
    except (KeyError, ValueError, zlib.error) as error:
        return [f"what was kept of the {noun}s can't be read ({error})"]
    new = _Kept(now)
    names = new.names()
    lines = []
    if np.array_equal(old.lengths, new.lengths) and np.array_equal(old.text, new.text):
        ours = theirs = np.arange(len(names))
    else:
        places = {name: i for i, name in enumerate(old.names())}
        known = set(names)
        lines += told(noun, "added", [name for name in names if name not in places])
        lines += told(noun, "removed", [name for name in places if name not in known])
        both = [(i, places[name]) for i, name in enumerate(names) if name in places]
        ours, theirs = np.array(both, np.int64).reshape(-1, 2).T
    read = (new.contents[ours] != 0) & (old.contents[theirs] != 0)
    changed = new.sizes[ours] != old.sizes[theirs]
    changed |= read & (new.contents[ours] != old.contents[theirs])
    other = new.labels[ours] != old.labels[theirs]
    lines += told(noun, "changed", [names[i] for i in ours[changed]])
    lines += told(noun, "with another label", [names[i] for i in ours[other]])
    if not lines and not np.array_equal(ours, theirs):
        lines.append(f"the {noun}s stand in another order, or some of them in other numbers")
    return lines


def told(noun: str, what: str, names: Sequence[str]) -> list[str]:
    """A line with the number and the first names of items that something is said of; [] for no items."""
    if not names:
        return []
    if len(names) > 1:
        noun += "s"
    line = f"{len(names):,} {noun} {what}: {', '.join(names[:_SHOWN])}"
    if len(names) > _SHOWN:
        line += f" and {len(names) - _SHOWN:,} more"
    return [line]
