"""Tar files in WebDataset's format: an image and its label are two members with one name and two endings.

The name of a member up to the first dot behind its last slash is the key of its sample; what follows says
what it is: an ending of images, `cls` for the label as a number, or `json` with `{"labels": [0, 3]}` where
images have several. Members of a sample follow each other.
"""

from __future__ import annotations

import glob
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence

import numpy as np

from passl_sot.config.chinese import zh
from passl_sot.data.datasets.folders import EXTENSIONS
from passl_sot.data.datasets.list_files import LARGEST_LABEL
from passl_sot.data.datasets.string_table import StringTable, natural_key
from passl_sot.data.errors import DataError
from passl_sot.imageio.errors import ImageError

__all__ = ["CLASS_NAMES", "TAR", "TarMembers", "TarWriter", "find_tars", "scan_tars"]

TAR = ".tar"
CLASS_NAMES = "class_names.txt"
_SEVERAL = "labels"
# How files begin, where the name of an image doesn't say what it is.
_BEGINNINGS = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png"}


def find_tars(data: str) -> list[str]:
    """The tar files that a path names: itself, those of a folder, or those that fit a pattern (`a-*.tar`)."""
    if os.path.isdir(data):
        names = [name for name in os.listdir(data) if name.endswith(TAR) and not name.startswith(".")]
        return [os.path.join(data, name) for name in sorted(names, key=natural_key)]
    if not data.endswith(TAR):
        return []
    found = [data] if os.path.exists(data) else sorted(glob.glob(data), key=natural_key)
    if not found:
        raise DataError(f"{data}: no such tar file" + zh("no_tar"))
    return found


class TarMembers:
    """Images in tar files, read where they stand.

    Args:
        tars: The files.
        names: Name of each image's member.
        places: Which of the files it is in, where it begins, and its size; int64 [N, 3].
        labels: Its labels.
        several: Whether images may have several labels.
    """

    def __init__(
        self,
        tars: Sequence[str],
        names: StringTable,
        places: np.ndarray,
        labels: list[tuple[int, ...]],
        several: bool,
    ):
        self.names, self.labels, self.several = names, labels, several
        self._tars, self._places = list(tars), places

    def read(self, index: int) -> bytes:
        """The bytes of an image.

        Raises:
            ImageError: The tar file ends before.
        """
        number, start, size = self._places[index].tolist()
        with open(self._tars[number], "rb") as file:
            file.seek(start)
            data = file.read(size)
        if len(data) != size:
            raise ImageError(self.path(index), "the tar file ends inside of it" + zh("tar_truncated"))
        return data

    def path(self, index: int) -> str:
        """Where an image is, for messages."""
        return f"{self._tars[int(self._places[index, 0])]} ({self.names[index]})"


def scan_tars(tars: Sequence[str]) -> TarMembers:
    """Lists the images of tar files, with their labels.

    Raises:
        DataError: A file isn't a plain tar, or a sample lacks its label or has two images.
    """
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    labels: list[tuple[int, ...]] = []
    kinds: set[bool | None] = set()
    for number, path in enumerate(tars):
        for sample in _samples(path):
            names.append(sample.image.name)
            places.append((number, sample.image.offset_data, sample.image.size))
            labels.append(sample.labels)
            kinds.add(sample.several)
    if not names:
        raise DataError(f"{tars[0]}: no images (looked for {' '.join(EXTENSIONS)})" + zh("no_images"))
    if len(kinds) > 1:
        raise DataError(
            f"{tars[0]}: some images have a .cls and others several labels" + zh("label_forms_mixed")
        )
    return TarMembers(tars, StringTable(names), np.array(places, np.int64), labels, kinds == {True})


class _Sample:
    def __init__(self, path: str, key: str):
        self.path, self.key = path, key
        self.found: list[tarfile.TarInfo] = []
        self.labels: tuple[int, ...] = ()
        self.several: bool | None = None

    @property
    def image(self) -> tarfile.TarInfo:
        return self.found[0]

    def enter(self, member: tarfile.TarInfo, ending: str, tar: tarfile.TarFile) -> None:
        if f".{ending.rpartition('.')[2]}" in EXTENSIONS:
            self.found.append(member)
        elif ending in (".cls", ".json"):
            file = tar.extractfile(member)
            text = b"" if file is None else file.read()
            try:
                several = ending == ".json"
                given = json.loads(text)[_SEVERAL] if several else [int(text)]
                labels = tuple(int(label) for label in given)
                if min(labels, default=0) < 0 or max(labels, default=0) > LARGEST_LABEL:
                    raise ValueError
            except (ValueError, KeyError, TypeError, OverflowError):
                if several:  # WebDataset puts anything into .json
                    return
                raise DataError(
                    f"{self.path}: {member.name} holds {text[:40]!r} instead of a class number"
                    + zh("label_invalid")
                ) from None
            self.labels, self.several = labels, several

    def check(self) -> bool:
        """Whether there is an image.

        Raises:
            DataError: It has no label, or there are two.
        """
        if not self.found:
            return False
        if len(self.found) > 1 or self.several is None:
            what = "two images" if len(self.found) > 1 else 'no .cls and no .json with "labels"'
            raise DataError(f"{self.path}: sample {self.key} has {what}" + zh("tar_sample"))
        return True


def _samples(path: str) -> Iterator[_Sample]:
    try:
        with tarfile.open(path, "r:") as tar:
            sample = _Sample(path, "")
            for member in tar:
                folder, slash, base = member.name.rpartition("/")
                stem, dot, ending = base.partition(".")
                if not member.isfile() or not stem:
                    continue
                if folder + slash + stem != sample.key:
                    if sample.check():
                        yield sample
                    sample = _Sample(path, folder + slash + stem)
                sample.enter(member, (dot + ending).lower(), tar)
            if sample.check():
                yield sample
    except tarfile.TarError as error:
        raise DataError(
            f"{path} isn't a plain tar file, or it is damaged ({error}); unpack compressed ones first"
            + zh("not_a_tar")
        ) from error


class TarWriter:
    """Writes images with their labels as a tar file that WebDataset reads.

    Args:
        file: Where to.
    """

    def __init__(self, file: io.BufferedIOBase):
        self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)
        self._keys: set[str] = set()

    def add(self, index: int, name: str, data: bytes, labels: Sequence[int], several: bool) -> None:
        """One image.

        Args:
            index: Its number.
            name: What it is called.
            data: Its bytes.
            labels: Its labels.
            several: Whether images may have several.
        """
        stem, ending = os.path.splitext(name.lstrip("/"))
        folder, slash, base = stem.rpartition("/")
        # What follows the first dot would count as the ending.
        key = folder + slash + (base.replace(".", "_") or "_")
        while key in self._keys:
            key = f"{key}_{index}"
        self._keys.add(key)
        ending = next((e for begin, e in _BEGINNINGS.items() if data.startswith(begin)), ending.lower())
        # Readers go by endings to find images, and by the bytes to decode them.
        self._write(key + (ending if ending in EXTENSIONS else ".jpg"), data)
        if several:
            self._write(f"{key}.json", json.dumps({_SEVERAL: list(labels)}).encode())
        else:
            self._write(f"{key}.cls", str(labels[0]).encode())

    def close(self) -> None:
        """Writes the end."""
        self._tar.close()

    def _write(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
