"""Images in an ImageNet-layout folder: finding them, and holding some of each class out for validation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np

from passl_sot.config import CHINESE, Count, Range, zh
from passl_sot.data.datasets.base import DATASETS
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.datasets.string_table import StringTable, natural_key
from passl_sot.data.errors import DataError
from passl_sot.data.transforms.image import TRANSFORMS
from passl_sot.imageio.decode import ARRAY_ENDING

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
EXTENSIONS = (*_JPEG, ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
LAYOUT = """Expected layout (one folder per class):
    data/train/<class>/*.jpg
    data/val/<class>/*.jpg
and dataroot: data/train for training, data/val for validation.
""" + CHINESE["folder_layout"]
# Fraction of each class that is held out where there is no folder for validation.
VAL_SHARE = 0.2

# Folders that programs leave among the classes; hidden ones are left out anyway.
_CLUTTER = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
_SPLITS = {"train", "training", "val", "valid", "validation", "test"}


@DATASETS.register()
class ImageFolder(LabelledImages):
    """A folder with one folder of images per class, as ImageNet has it: `dataroot/<class>/**/*.jpg`.

    Classes are numbered in natural order of their folders' names (0, 1, 2, 10). Folders inside a class folder
    belong to it, links to folders are followed; hidden files and files with other endings are left out and
    counted in `ignored_files`.

    Args (others as of `LabelledImages`):
        dataroot: The folder that holds the class folders, such as `data/imagenet/train`.
        extensions: Endings of image files, in any case.
        part: "all" images; or, for a folder without splits of its own, those for "train" or for "val", by a
            rule that depends on the paths alone (`hold_out`).
        val_share: Fraction of each class that is for "val".
    """

    def __init__(
        self,
        *,
        dataroot: str,
        transforms: Annotated[list, TRANSFORMS],
        batch_transforms: Annotated[list, TRANSFORMS] | None = None,
        apply_exif: bool = True,
        extensions: tuple[str, ...] = EXTENSIONS,
        part: Literal["all", "train", "val"] = "all",
        val_share: Annotated[float, Range(above=0, below=1)] = VAL_SHARE,
        channels: Count = 3,
    ):
        root = os.path.expanduser(dataroot)
        if channels not in (1, 3):  # pictures can't be arrays of NumPy
            extensions = (*extensions, ARRAY_ENDING)
        scan = scan_folder(root, extensions)
        if part != "all":
            kept = choose_part(scan.paths, scan.labels, scan.class_names, part, val_share)
            scan.paths = [scan.paths[i] for i in kept]
            scan.labels = [scan.labels[i] for i in kept]
        self.ignored_files = scan.ignored_files
        super().__init__(
            root=root,
            paths=StringTable(scan.paths),
            labels=np.array(scan.labels, np.int64),
            class_names=scan.class_names,
            transforms=transforms,
            batch_transforms=batch_transforms,
            apply_exif=apply_exif,
            channels=channels,
        )


@dataclass
class FolderScan:
    """The images of a folder, class by class."""

    class_names: list[str]  # in natural order
    paths: list[str] = field(default_factory=list)  # relative to the folder
    labels: list[int] = field(default_factory=list)
    ignored_files: int = 0  # hidden, or not named like an image


def scan_folder(root: str, extensions: Sequence[str] = EXTENSIONS, *, progress: bool = False) -> FolderScan:
    """Lists the class folders of `root` and the images in them; `progress` draws a bar over the classes.

    Raises:
        DataError: The folder is missing or empty, or isn't laid out by classes; it shows the layout.
    """
    from tqdm import tqdm

    folders = list_classes(root, extensions)
    # The commonest slip: the folder above train and val, which would be trained on as two classes.
    splits = [name for name in folders if name.lower() in _SPLITS]
    if len(splits) > 1 and len(splits) == len(folders):
        raise DataError(
            f"{root} holds the folders {', '.join(splits)}, which are splits, not classes: write "
            f"dataroot: {os.path.join(root, splits[0])} in place of {root}.\n{LAYOUT}"
        )
    scan = FolderScan(folders)
    bar = tqdm(folders, desc=f"reading {root}", unit="class", disable=not progress)
    for label, name in enumerate(bar):
        for path in walk_class(root, name, extensions):
            if path is None:
                scan.ignored_files += 1
            else:
                scan.paths.append(path)
                scan.labels.append(label)
    if not scan.paths:
        raise DataError(
            f"{root} holds {len(folders)} class folders but no images (looked for "
            f"{' '.join(_endings(extensions))}; {scan.ignored_files} other files).\n{LAYOUT}"
        )
    return scan


def list_classes(root: str, extensions: Sequence[str] = EXTENSIONS) -> list[str]:
    """Names of the class folders of `root`, in natural order.

    Raises:
        DataError: The folder is missing or holds none; it shows the layout.
    """
    if not os.path.isdir(root):
        kind = "doesn't exist"
        if os.path.exists(root):
            kind = "is a file, not a folder"
        here = ""
        if not os.path.isabs(root):
            here = f" (looked for in {os.getcwd()})"
        raise DataError(f"dataroot {root} {kind}{here}.\n{LAYOUT}")
    with os.scandir(root) as entries:
        shown = [entry for entry in entries if not _is_clutter(entry.name)]
    folders = [entry.name for entry in shown if entry.is_dir()]
    if folders:
        return sorted(folders, key=natural_key)
    files = [entry.name for entry in shown if entry.name.lower().endswith(_endings(extensions))]
    if files:
        raise DataError(
            f"{root} holds {len(files)} images (such as {min(files, key=natural_key)}) but no class folders, "
            "so their classes are unknown. Sort them into one folder per class, or use {name: ListFile} with "
            f"a list of labels.\n{LAYOUT}"
        )
    raise DataError(f"{root} is empty: no class folders in it.\n{LAYOUT}")


def walk_class(
    root: str, name: str, extensions: Sequence[str] = EXTENSIONS, above: Sequence[str] = ()
) -> Iterator[str | None]:
    """Yields the images of one class, relative to `root`, and None for each file that is left out."""
    folder = os.path.join(root, name)
    real = os.path.realpath(folder)
    if real in above:  # a link back to a folder above would go round for ever
        return
    endings = _endings(extensions)
    inner = []
    with os.scandir(folder) as entries:
        # The order of a directory is the file system's: labels and draws would differ between machines.
        for entry in sorted(entries, key=lambda e: e.name):
            path = f"{name}/{entry.name}"
            if entry.is_dir():
                if not _is_clutter(entry.name):
                    inner.append(path)
            elif not entry.name.startswith(".") and path.lower().endswith(endings) and entry.is_file():
                yield path
            else:
                yield None
    # Files before folders, so that the order doesn't hang on which of them a file system lists first.
    for path in inner:
        yield from walk_class(root, path, extensions, (*above, real))


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name in _CLUTTER


def _endings(extensions: Sequence[str]) -> tuple[str, ...]:
    return tuple("." + extension.lower().removeprefix(".") for extension in extensions)


def choose_part(
    paths: Sequence[str], labels: Sequence[int], class_names: Sequence[str], part: str, val_share: float
) -> list[int]:
    """Which images are those of one part, "train" or "val"; see `ImageFolder`."""
    by_class: list[list[str]] = [[] for _ in class_names]
    for path, label in zip(paths, labels, strict=True):
        by_class[label].append(path)
    held_out: set[str] = set()
    for name, members in zip(class_names, by_class, strict=True):
        held_out |= hold_out(members, val_share, name)
    return [i for i, path in enumerate(paths) if (path in held_out) == (part == "val")]


def hold_out(paths: Sequence[str], share: float, name: str) -> set[str]:
    """Paths of one class, relative to the folder of classes, that are held out for validation."""
    if len(paths) < 2:
        raise DataError(
            f"class '{name}' holds {len(paths)} image(s), and two are the least where some are held out for "
            "validation: add images, or lay out train and val folders" + zh("two_images_per_class")
        )
    # By checksums rather than a generator: every run holds out the same, and an added image leaves most of
    # the others on their side.
    ranked = sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path)).digest())
    return set(ranked[: held_out_count(len(paths), share)])


def held_out_count(images: int, share: float) -> int:
    """How many images of a class are held out: a share, rounded, but at least one on each side."""
    return min(max(1, round(share * images)), max(images - 1, 0))
