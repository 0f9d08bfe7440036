"""The files of a packed copy of a dataset.

A folder of `shard-00000.bin`, `shard-00001.bin`, ..., the images one after the other, and `index.bin`, which
is written last: who finds it finds a whole copy. Until then `packing.json` says what is being made, and each
finished shard has an index of its own, `shard-00000.note`, from which a later run goes on.

An index is: 16 bytes that tell what it is; version, checksum of all that follows and length of the header,
little-endian of 4, 4 and 8 bytes; the header, JSON with what is said once, and under "arrays" type, shape and
place of each array; the arrays.
"""

import bisect
import contextlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.identity import Extent
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.errors import DataError
from passl_sot.imageio.errors import ImageError
from passl_sot.utils.files import replace_atomically

INDEX = "index.bin"
PLAN = "packing.json"
VERSION = 1
_PLAN_VERSION = 2
_MAGIC = b"passl_sot pack\r\n"
_START = struct.Struct("<16sIIQ")
_ALIGNED = 64


def shard_name(number: int, ending: str = "bin") -> str:
    """Name of a shard's file, or of the note about it."""
    return f"shard-{number:05d}.{ending}"


def map_file(path: str) -> memoryview:
    """A file's bytes, mapped into memory."""
    with open(path, "rb") as file:
        # A file of no bytes at all can't be mapped.
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def is_packed(folder: str) -> bool:
    """Whether a folder holds a packed copy, or an unfinished one."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in (INDEX, PLAN))


def write_index(path: str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an index."""
    places: dict[str, list[Any]] = {}
    blocks: list[bytes] = []
    for name, array in arrays.items():
        places[name] = [array.dtype.str, list(array.shape), sum(map(len, blocks))]
        data = np.ascontiguousarray(array).tobytes()
        blocks.append(data + bytes(-len(data) % _ALIGNED))
    # ASCII: names of files that aren't UTF-8 survive as escapes.
    text = json.dumps({**header, "arrays": places}).encode("ascii")
    text += b" " * (-(_START.size + len(text)) % _ALIGNED)
    body = b"".join([text, *blocks])
    start = _START.pack(_MAGIC, VERSION, zlib.crc32(body), len(text))
    replace_atomically(Path(path), lambda file: file.writelines([start, body]))


def read_index(path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of an index; the arrays stay in the file, mapped into memory.

    Raises:
        DataError: It is no index, one of a newer version, or damaged.
    """
    data = map_file(path)
    if len(data) < _START.size or data[: len(_MAGIC)] != _MAGIC:
        raise DataError(f"{path} isn't an index that tools/make_cache.py wrote" + zh("not_an_index"))
    _, version, checksum, length = _START.unpack_from(data)
    if version != VERSION:
        raise DataError(
            f"{path} has format {version}, and this version of passl_sot reads format {VERSION}: update "
            "passl_sot, or pack the data again" + zh("index_version")
        )
    if zlib.crc32(data[_START.size :]) != checksum:
        raise DataError(
            f"{path} is damaged (its checksum differs): pack the data again" + zh("index_damaged")
        )
    first = _START.size + length
    header = json.loads(bytes(data[_START.size : first]))
    arrays = {}
    for name, (kind, shape, at) in header.pop("arrays").items():
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(data, np.dtype(kind), count, first + at).reshape(shape)
    return header, arrays


class Packed:
    """A packed copy in a folder: bytes of images by their number.

    Attributes:
        header: What is said once: the recipe, `images`, `fingerprint`.
        named: Whether the data say what their classes are called.
        names: Name of each image, relative to the folder it came from.
        labels: int64 [N].
        multi_hot: uint8 [N, C] where images may have several labels, else None.
        shapes: Height and width of images that are stored as pixels, int32 [N, 2]; 0 for a file that couldn't
            be read, which is kept as it was. None in copies that hold files.
        orientations: EXIF orientation of such images, uint8 [N].
        checksums: Of the images as they are stored, uint32 [N].
        origins: What was noted of the files that were packed, for `origins.find_changed`; None in copies of
            earlier versions, which noted nothing.

    Raises:
        DataError: There is none, it is unfinished, of a newer version, or damaged.
    """

    def __init__(self, folder: str):
        self.folder = folder
        if not os.path.isfile(os.path.join(folder, INDEX)):
            raise DataError(_not_there(folder))
        self.header, arrays = read_index(os.path.join(folder, INDEX))
        self.class_names: list[str] = self.header["class_names"]
        self.named: bool = self.header["named"]
        self.names = StringTable.from_parts(arrays["name_ends"], arrays["names"])
        self.labels = arrays["labels"]
        self.multi_hot = arrays.get("multi_hot")
        self.shapes = arrays.get("shapes")
        self.orientations = arrays.get("orientations", np.zeros(0, np.uint8))
        self.checksums = arrays["checksums"]
        self.origins = arrays.get("origins")
        self._ends = arrays["ends"]
        self._firsts: list[int] = arrays["shard_firsts"].tolist()
        # A copy that was cut off is noticed at once; sizes are quick to compare, checksums aren't.
        sizes = arrays["shard_sizes"].tolist()
        self._shards = [_map_shard(folder, number, size) for number, size in enumerate(sizes)]
        self._turned = bool((self.orientations > 1).any())
        # The shards, uint8 [N, bytes], if all images are pixels of one size; files have the size 0.
        self._rows: list[np.ndarray] = []
        if self.shapes is not None and self.shapes[0].all() and (self.shapes == self.shapes[0]).all():
            size = int(self._ends[0])
            self._rows = [np.frombuffer(shard, np.uint8).reshape(-1, size) for shard in self._shards]

    def __len__(self) -> int:
        return len(self._ends)

    def __reduce__(self):
        # Another process maps the files anew: shared pages cost less than sending indexes of millions.
        return Packed, (self.folder,)

    def path(self, index: int) -> str:
        """Where an image stands, for messages: shard, place in it, and what the image was called."""
        shard, place = self._place(index)
        return f"{os.path.join(self.folder, shard_name(shard))}[{place}] ({self.names[index]})"

    def view(self, index: int) -> memoryview:
        """The bytes of an image, unchecked, in the mapped file."""
        shard, start, end = self._bounds(index)
        return self._shards[shard][start:end]

    def extent(self, index: int) -> Extent:
        """Where the bytes of an image lie."""
        shard, start, end = self._bounds(index)
        return Extent(os.path.join(self.folder, shard_name(shard)), start, end - start)

    def sizes(self) -> np.ndarray:
        """Bytes of each image as it is stored, int64 [N]."""
        starts = np.append(0, self._ends[:-1])
        starts[self._firsts] = 0
        return self._ends - starts

    def stack(self, items: np.ndarray, upright: bool) -> np.ndarray | None:
        """Pixels of the images `items`, int64 [B], as uint8 [B, H, W, 3], unchecked.

        Returns:
            None where images aren't pixels of one size or, for `upright`, any of the copy has to be turned.
        """
        if self.shapes is None or not self._rows or (upright and self._turned):
            return None
        out = np.empty((len(items), *self.shapes[0].tolist(), 3), np.uint8)
        shards = np.searchsorted(self._firsts, items, side="right") - 1
        places = items - np.array(self._firsts)[shards]
        rows = out.reshape(len(out), -1)
        for row, shard, place in zip(rows, shards.tolist(), places.tolist(), strict=True):
            row[...] = self._rows[shard][place]
        return out

    def check(self, index: int) -> None:
        """An ImageError where the bytes of an image aren't those that were packed, by their checksum."""
        if zlib.crc32(self.view(index)) != self.checksums[index]:
            raise ImageError(
                self.path(index),
                "its bytes aren't those that were packed (their checksum differs), so the disk or a copy of "
                "the file is faulty: remove the folder and pack the data again" + zh("shard_damaged"),
            )

    def _bounds(self, index: int) -> tuple[int, int, int]:
        shard, place = self._place(index)
        start = int(self._ends[index - 1]) if place else 0
        return shard, start, int(self._ends[index])

    def _place(self, index: int) -> tuple[int, int]:
        shard = bisect.bisect_right(self._firsts, index) - 1
        return shard, index - self._firsts[shard]


def _map_shard(folder: str, number: int, size: int) -> memoryview:
    path = os.path.join(folder, shard_name(number))
    fault = "is missing"
    if os.path.isfile(path):
        shard = map_file(path)
        if len(shard) == size:
            return shard
        fault = f"has {len(shard)} bytes instead of {size}"
    raise DataError(
        f"{path} {fault}: copy the whole folder again, or remove it and pack the data again"
        + zh("shard_missing")
    )


def _not_there(folder: str) -> str:
    if not os.path.isdir(folder):
        return f"dataroot {folder} doesn't exist: tools/make_cache.py makes packed copies" + zh(
            "folder_missing"
        )
    plan = os.path.join(folder, PLAN)
    if os.path.isfile(plan):
        return (
            f"{folder} holds an unfinished packed copy: run the same command again, which goes on where it "
            f"stopped: {read_plan(plan)['command']}" + zh("packing_unfinished")
        )
    inside = [name for name in ("train", "val") if is_packed(os.path.join(folder, name))]
    if inside:
        return (
            f"{folder} holds the packed splits {', '.join(inside)}: write dataroot: "
            f"{os.path.join(folder, inside[0])}" + zh("packed_parent_folder")
        )
    return f"{folder} isn't a packed copy (no {INDEX}): tools/make_cache.py DATA OUT makes one" + zh(
        "not_packed"
    )


def write_plan(path: str, plan: Mapping[str, Any]) -> None:
    """Writes the plan of a packed copy that is to be made."""
    text = json.dumps({"version": _PLAN_VERSION, **plan})
    replace_atomically(Path(path), lambda file: file.writelines([text.encode("ascii")]))


def read_plan(path: str) -> dict[str, Any]:
    """The plan of a packed copy that is being made; a DataError where the file is none."""
    with contextlib.suppress(ValueError, KeyError, TypeError), open(path, encoding="ascii") as file:
        plan = json.load(file)
        if plan["version"] == _PLAN_VERSION and isinstance(plan["command"], str):
            return plan
    raise DataError(
        f"{path} isn't from this version of tools/make_cache.py: remove its folder" + zh("remove_folder")
    )
