"""Tar files in WebDataset's format: an image and its label are two members with one name and two endings.

The name of a member up to the first dot behind its last slash is the key of its sample; the rest is its
ending: that of an image, or `.cls` for the label as a number. Others are left out. Members of a sample follow
each other.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.folders import EXTENSIONS
from passl_sot.data.datasets.list_files import LARGEST_LABEL
from passl_sot.data.datasets.string_table import StringTable, natural_key
from passl_sot.data.errors import DataError
from passl_sot.imageio.errors import ImageError

_TAR = ".tar"


def find_tars(data: str) -> list[str]:
    """The tar files that a path names: itself, those of a folder, or those that fit a pattern (`a-*.tar`)."""
    if os.path.isdir(data):
        names = [name for name in os.listdir(data) if name.endswith(_TAR) and not name.startswith(".")]
        return [os.path.join(data, name) for name in sorted(names, key=natural_key)]
    if not data.endswith(_TAR):
        return []
    if os.path.exists(data):
        return [data]
    found = sorted(glob.glob(data), key=natural_key)
    if not found:
        raise DataError(f"{data}: no such tar file" + zh("no_tar"))
    return found


@dataclass(frozen=True, kw_only=True)
class TarImages:
    """Images in tar files, read where they stand."""

    tars: Sequence[str]
    names: StringTable
    labels: np.ndarray  # int64 [N]
    places: np.ndarray  # which of the tars each image is in, where it begins, and its size; int64 [N, 3]

    def read(self, index: int) -> bytes:
        """The bytes of an image; an ImageError where the tar file ends before."""
        number, start, size = self.places[index].tolist()
        with open(self.tars[number], "rb") as file:
            file.seek(start)
            data = file.read(size)
        if len(data) != size:
            raise ImageError(self.path(index), "the tar file ends inside of it" + zh("tar_truncated"))
        return data

    def path(self, index: int) -> str:
        """Where an image is, for messages."""
        return f"{self.tars[int(self.places[index, 0])]} ({self.names[index]})"


def scan_tars(tars: Sequence[str]) -> TarImages:
    """Lists the images of tar files, with their labels; a DataError names wrong files and samples."""
    names: list[str] = []
    labels: list[int] = []
    places: list[tuple[int, int, int]] = []
    for number, path in enumerate(tars):
        for image, label in _samples(path):
            names.append(image.name)
            labels.append(label)
            places.append((number, image.offset_data, image.size))
    if not names:
        raise DataError(f"{tars[0]}: no images (looked for {' '.join(EXTENSIONS)})" + zh("no_images"))
    return TarImages(
        tars=tars,
        names=StringTable(names),
        labels=np.array(labels, np.int64),
        places=np.array(places, np.int64),
    )


def _samples(path: str) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Image and label of each sample of a tar file."""
    try:
        with tarfile.open(path, "r:") as tar:
            for key, members in itertools.groupby(tar, key=lambda member: _split(member.name)[0]):
                images: list[tarfile.TarInfo] = []
                labels: list[int] = []
                for member in members:
                    ending = _split(member.name)[1]
                    if not member.isfile() or not os.path.basename(key):  # hidden files have no key
                        continue
                    if ending[ending.rfind(".") :] in EXTENSIONS:
                        images.append(member)
                    elif ending == ".cls":
                        labels.append(_read_label(path, tar, member))
                if len(images) > 1:
                    raise DataError(f"{path}: sample {key} has two images" + zh("tar_sample"))
                if images and not labels:
                    raise DataError(f"{path}: sample {key} has no .cls" + zh("tar_sample"))
                if images:
                    yield images[0], labels[0]
    except tarfile.TarError as error:
        raise DataError(
            f"{path} isn't a plain tar file, or it is damaged ({error}); unpack compressed ones first"
            + zh("not_a_tar")
        ) from error


def _split(name: str) -> tuple[str, str]:
    """Key and ending, in small letters, of a member's name."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return folder + slash + stem, (dot + ending).lower()


def _read_label(path: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = tar.extractfile(member)
    assert file is not None  # the member is a plain file
    text = file.read()
    with contextlib.suppress(ValueError):
        label = int(text)
        if 0 <= label <= LARGEST_LABEL:
            return label
    raise DataError(
        f"{path}: {member.name} holds {text[:40]!r} instead of a class number" + zh("label_invalid")
    )
