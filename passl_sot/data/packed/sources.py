"""Data that packed copies are made of: folders, list files, WebDataset's tar files, other packed copies."""

import contextlib
import glob
import itertools
import os
import tarfile
from collections.abc import Iterator
from typing import Literal

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.folders import EXTENSIONS, ImageFolder, find_splits
from passl_sot.data.datasets.identity import Extent
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.datasets.list_files import LARGEST_LABEL, ListFile, read_class_names
from passl_sot.data.datasets.packed import PackedImages
from passl_sot.data.datasets.string_table import StringTable, natural_key
from passl_sot.data.errors import DataError, stop_at
from passl_sot.data.packed.format import is_packed
from passl_sot.imageio.errors import ImageError
from passl_sot.imageio.files import read_part

_TAR = ".tar"
# Beside tar files, the names of their classes.
_CLASS_NAMES = "class_names.txt"
# A dataset needs one; no image passes through it here.
_NO_TRANSFORMS = [{"name": "Normalize"}]


def splits_of(data: str, out: str) -> list[tuple[str, str]]:
    """The splits of a user's data: the place of each below `out` ("" for the only one), and its path."""
    data = os.path.expanduser(data)
    found = [("", data)]
    if os.path.isdir(data) and not is_packed(data) and not find_tars(data):
        inside = [(name, os.path.join(data, name)) for name in ("train", "val")]
        if any(is_packed(path) or find_tars(path) for _, path in inside):
            found = [(name, path) for name, path in inside if os.path.isdir(path)]
        else:
            own = find_splits(data)
            if own.train != data:
                found = [("train", own.train)]
            if not own.held_out:
                found.append(("val", own.val))
    for _, path in found:
        if os.path.isdir(path) and f"{os.path.realpath(out)}/".startswith(f"{os.path.realpath(path)}/"):
            raise DataError(
                f"{out} lies inside of {path}, whose images are to be packed: choose another place"
            )
    return found


def open_source(
    data: str,
    *,
    dataroot: str = ".",
    class_names: str | None = None,
    multi_label: bool | Literal["multi_hot"] = False,
) -> LabelledImages:
    """One split, with the classes and their numbers that training on it would have.

    `data` is a folder of classes, list file, tar files, or packed copy; the rest is as for `ListFile`, and
    `class_names` for tar files too.

    Raises:
        DataError: It isn't there, holds no images, or labels without a class.
    """
    tars = find_tars(data)
    source: LabelledImages
    if tars:
        source = TarImages(tars, class_names)
    elif os.path.isdir(data) and is_packed(data):
        source = PackedImages(dataroot=data, transforms=_NO_TRANSFORMS)
        if source.packed.shapes is not None:
            raise DataError(
                f"{source.root} holds pixels (--raw), not files: name the data that it was made of"
                + zh("raw_as_source")
            )
    elif os.path.isdir(data):
        source = ImageFolder(dataroot=data, transforms=_NO_TRANSFORMS)
    else:
        source = ListFile(
            dataroot=dataroot,
            list_file=data,
            transforms=_NO_TRANSFORMS,
            class_names=class_names,
            multi_label=multi_label,
        )
    wrong = np.flatnonzero(source.labels >= len(source.class_names))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{data}: {len(wrong)} labels are not in 0 to {len(source.class_names) - 1}, the first is "
            f"{int(source.labels[first])} of {source.path(first)}" + zh("label_beyond_classes")
        )
    return source


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


class TarImages(LabelledImages):
    """Images in tar files of WebDataset's format, read where they stand.

    An image and its label are two members with one name and two endings. The name of a member up to the
    first dot behind its last slash is the key of its sample; the rest is its ending: that of an image, or
    `.cls` for the label as a number. Others are left out. Members of a sample follow each other.

    Args:
        tars: The files, at least one.
        class_names: File with the names of the classes; by default `class_names.txt` beside the first tar
            file, or numbers where there is none.

    Raises:
        DataError: A file or a sample isn't as it should be.
    """

    def __init__(self, tars: list[str], class_names: str | None):
        self._tars = tars
        root = os.path.dirname(tars[0])
        paths: list[str] = []
        labels: list[int] = []
        places: list[tuple[int, int, int]] = []
        refused: list[str] = []
        for number, path in enumerate(tars):
            for image, label in _samples(path):
                if not _is_harmless(image.name):
                    refused.append(
                        f"{path}: member {image.name!r} is refused: a name must not begin with '/', nor hold "
                        "'..' as a folder or control characters; write the tar file anew" + zh("tar_name")
                    )
                paths.append(image.name)
                labels.append(label)
                places.append((number, image.offset_data, image.size))
        stop_at(refused, f"members of tar files in {root or '.'}")
        if not paths:
            raise DataError(f"{tars[0]}: no images (looked for {' '.join(EXTENSIONS)})" + zh("no_images"))
        self._places = np.array(places, np.int64)
        beside = os.path.join(root, _CLASS_NAMES)
        if class_names is None and os.path.isfile(beside):
            class_names = beside
        names = [str(label) for label in range(max(labels) + 1)]
        if class_names is not None:
            names = read_class_names(os.path.expanduser(class_names))
        super().__init__(
            root=root,
            paths=StringTable(paths),
            labels=np.array(labels, np.int64),
            class_names=names,
            transforms=_NO_TRANSFORMS,
            apply_exif=True,
            named=class_names is not None,
        )

    def stored(self, index: int) -> bytes:
        """As of `LabelledImages`; an ImageError where the tar file ends before."""
        number, start, size = self._places[index].tolist()
        try:
            data = read_part(self._tars[number], start, size)
        except ImageError as error:
            raise type(error)(self.path(index), error.reason) from error
        if len(data) != size:
            raise ImageError(self.path(index), "the tar file ends inside of it" + zh("tar_truncated"))
        return data

    def extent(self, index: int) -> Extent:
        """As of `LabelledImages`: a part of a tar file."""
        number, start, size = self._places[index].tolist()
        return Extent(self._tars[number], start, size)

    def path(self, index: int) -> str:
        """The tar file of an image and its name there."""
        return f"{self._tars[int(self._places[index, 0])]} ({self.paths[index]})"


def _samples(path: str) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Image and label of each sample of a tar file."""
    if not os.path.isfile(path):
        raise DataError(f"{path} is no regular file" + zh("not_a_tar"))
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


def _is_harmless(name: str) -> bool:
    # The copy keeps names, and whoever makes files of it would write where they lead.
    leads_out = name.startswith("/") or ".." in name.split("/")
    return not leads_out and all(" " <= character != "\x7f" for character in name)


def _split(name: str) -> tuple[str, str]:
    """Key and ending, in small letters, of a member's name."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return folder + slash + stem, (dot + ending).lower()


def _read_label(path: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = tar.extractfile(member)
    assert file is not None  # the member is a plain file
    text = file.read(100)  # more is no number of a class
    with contextlib.suppress(ValueError):
        label = int(text)
        if 0 <= label <= LARGEST_LABEL:
            return label
    raise DataError(
        f"{path}: {member.name} holds {text[:40]!r} instead of a class number" + zh("label_invalid")
    )
