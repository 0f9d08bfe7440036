"""Finding the images of an ImageNet-layout folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from passl_sot.config.chinese import CHINESE
from passl_sot.data.datasets.string_table import natural_key
from passl_sot.data.errors import DataError

EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".webp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
)
LAYOUT = """Expected layout (one folder per class):
    data/train/<class>/*.jpg
    data/val/<class>/*.jpg
and dataroot: data/train for training, data/val for validation.
""" + CHINESE["folder_layout"]

# Folders that programs leave among the classes; hidden ones are left out anyway.
_CLUTTER = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
_SPLITS = {"train", "training", "val", "valid", "validation", "test"}


@dataclass
class FolderScan:
    """What `scan_folder` found.

    Attributes:
        class_names: Names of the class folders, in natural order.
        paths: Files relative to the root, class by class.
        labels: Number of each file's class.
        ignored_files: How many files were left out: hidden, or not named like an image.
    """

    class_names: list[str]
    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ignored_files: int = 0


def scan_folder(root: str, extensions: Sequence[str] = EXTENSIONS, *, progress: bool = False) -> FolderScan:
    """Lists the class folders of `root` and the images in them.

    Args:
        root: The folder.
        extensions: Endings that count as images, with the dot.
        progress: Draw a progress bar over the classes.

    Raises:
        DataError: The folder is missing or empty, or isn't laid out by classes; it shows the layout.
    """
    endings = tuple(_ending(extension) for extension in extensions)
    folders = list_classes(root, extensions)
    splits = [name for name in folders if name.lower() in _SPLITS]
    if len(splits) > 1 and len(splits) == len(folders):
        raise DataError(
            f"{root} holds the folders {', '.join(splits)}, which are splits, not classes: write "
            f"dataroot: {os.path.join(root, splits[0])} in place of {root}.\n{LAYOUT}"
        )
    scan = FolderScan(folders)
    numbered: Iterable[tuple[int, str]] = enumerate(folders)
    if progress:
        from tqdm import tqdm

        numbered = tqdm(numbered, total=len(folders), desc=f"reading {root}", unit="class")
    for label, name in numbered:
        for path in walk_class(root, name, extensions, scan):
            scan.paths.append(path)
            scan.labels.append(label)
    if not scan.paths:
        raise DataError(
            f"{root} holds {len(folders)} class folders but no images (looked for {' '.join(endings)}; "
            f"{scan.ignored_files} other files).\n{LAYOUT}"
        )
    return scan


def list_classes(root: str, extensions: Sequence[str] = EXTENSIONS) -> list[str]:
    """Names of the class folders of `root`, in natural order.

    Raises:
        DataError: The folder is missing or holds none; it shows the layout.
    """
    folders, files = _top_level(root, tuple(_ending(extension) for extension in extensions))
    if folders:
        return folders
    if files:
        raise DataError(
            f"{root} holds {len(files)} images (such as {files[0]}) but no class folders, so their "
            "classes are unknown. Sort them into one folder per class, or use {name: ListFile} with a "
            f"list of labels.\n{LAYOUT}"
        )
    raise DataError(f"{root} is empty: no class folders in it.\n{LAYOUT}")


def walk_class(root: str, name: str, extensions: Sequence[str], scan: FolderScan) -> Iterator[str]:
    """Yields the images of one class, relative to `root`, and counts in `scan` what it leaves out."""
    endings = tuple(_ending(extension) for extension in extensions)
    return _walk(os.path.join(root, name), name, endings, scan, ())


def _ending(extension: str) -> str:
    return (extension if extension.startswith(".") else "." + extension).lower()


def _top_level(root: str, endings: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Names of the class folders (natural order) and of images that lie beside them."""
    if not os.path.isdir(root):
        kind = "is a file, not a folder" if os.path.exists(root) else "doesn't exist"
        here = "" if os.path.isabs(root) else f" (looked for in {os.getcwd()})"
        raise DataError(f"dataroot {root} {kind}{here}.\n{LAYOUT}")
    folders, files = [], []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _CLUTTER:
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(endings):
                files.append(entry.name)
    return sorted(folders, key=natural_key), sorted(files, key=natural_key)


def _walk(
    folder: str, relative: str, endings: tuple[str, ...], scan: FolderScan, above: tuple[str, ...]
) -> Iterator[str]:
    """Yields the images below `folder`, files before folders, each in order of their names."""
    real = os.path.realpath(folder)
    if real in above:  # a link back to a folder above would go round for ever
        return
    inner = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_dir():
                if not entry.name.startswith(".") and entry.name not in _CLUTTER:
                    inner.append(entry.name)
            elif (
                entry.name.startswith(".") or not entry.name.lower().endswith(endings) or not entry.is_file()
            ):
                scan.ignored_files += 1
            else:
                yield f"{relative}/{entry.name}"
    for name in inner:
        yield from _walk(os.path.join(folder, name), f"{relative}/{name}", endings, scan, (*above, real))
