"""Images in folders of classes: finding them, and holding some of each class out for validation."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np

from passl_sot.config import Count, Range, zh
from passl_sot.data.datasets.base import DATASETS
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.datasets.string_table import StringTable, natural_key
from passl_sot.data.errors import DataError
from passl_sot.data.packed.format import Packed, is_packed
from passl_sot.data.transforms.image import TRANSFORMS
from passl_sot.imageio.decode import ARRAY_ENDING
from passl_sot.utils.logger import progress_bar

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
EXTENSIONS = (*_JPEG, ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_LAYOUT = """Expected layout (one folder per class):
    data/train/<class>/*.{ending}
    data/val/<class>/*.{ending}
and dataroot: data/train for training, data/val for validation.
"""
# Fraction of each class that is held out where there is no folder for validation.
VAL_SHARE = 0.2

# Folders that programs leave among the classes; hidden ones are left out anyway.
_CLUTTER = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "test")


# By the word for an item: a usual ending, and the dataset that reads labels from a list.
_USUAL = {"image": ("jpg", "ListFile"), "text": ("txt", "TextTable")}
_EXTENSIONS: dict[str, tuple[str, ...]] = {"image": EXTENSIONS, "text": (".txt",)}


def _layout(noun: str = "image") -> str:
    ending = _USUAL[noun][0]
    return _LAYOUT.format(ending=ending) + zh("folder_layout", before="", ending=ending)


@DATASETS.register()
class ImageFolder(LabelledImages):
    """A folder with one folder of images per class, as ImageNet has it: `dataroot/<class>/**/*.jpg`.

    Classes are numbered in natural order of their folders' names (0, 1, 2, 10). Folders inside a class folder
    belong to it, links to folders are followed; hidden files and files with other endings are left out and
    counted in `ignored_files`.

    Other arguments are those of `LabelledImages`.

    Args:
        dataroot: The folder that holds the class folders, such as `data/imagenet/train`.
        extensions: Endings of image files, in any case.
        part: "all" images; or, for a folder without splits of its own, those for "train" or for "val", by a
            rule that depends on the paths alone (`choose_part`).
        val_share: Fraction of each class that is for "val".
    """

    folder_per_class = True

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
        paths, labels = scan.part_of(part, val_share)
        self.ignored_files = scan.ignored_files
        super().__init__(
            root=root,
            paths=StringTable(paths),
            labels=labels,
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

    def part_of(self, part: str, val_share: float) -> tuple[list[str], np.ndarray]:
        """Paths and labels of "all" files, or of a part of them; see `choose_part`."""
        labels = np.array(self.labels, np.int64)
        if part == "all":
            return self.paths, labels
        kept = choose_part(self.paths, labels, self.class_names, part, val_share)
        return [self.paths[i] for i in kept], labels[kept]


def scan_folder(
    root: str, extensions: Sequence[str] = EXTENSIONS, *, progress: bool = False, noun: str = "image"
) -> FolderScan:
    """Lists the class folders of `root` and the files in them.

    Args:
        root: The folder.
        extensions: Endings of the files.
        progress: Draw a bar over the classes.
        noun: "image" or "text", for messages.

    Raises:
        DataError: The folder is missing or empty, or isn't laid out by classes; it shows the layout.
    """
    folders = list_classes(root, extensions, noun)
    # The commonest slip: the folder above train and val, which would be trained on as two classes.
    splits = [name for name in folders if name.lower() in TRAIN + VAL]
    if len(splits) > 1 and len(splits) == len(folders):
        raise DataError(
            f"{root} holds the folders {', '.join(splits)}, which are splits, not classes: write "
            f"dataroot: {os.path.join(root, splits[0])} in place of {root}.\n{_layout(noun)}"
        )
    scan = FolderScan(folders)
    with progress_bar(folders, desc=f"reading {root}", unit="class", shown=progress) as bar:
        for label, name in enumerate(bar):
            for path in walk_class(root, name, extensions):
                if path is None:
                    scan.ignored_files += 1
                else:
                    scan.paths.append(path)
                    scan.labels.append(label)
    if not scan.paths:
        raise DataError(
            f"{root} holds {len(folders)} class folders but no {noun}s (looked for "
            f"{' '.join(_endings(extensions))}; {scan.ignored_files} other files).\n{_layout(noun)}"
        )
    return scan


def list_classes(root: str, extensions: Sequence[str] = EXTENSIONS, noun: str = "image") -> list[str]:
    """Names of the class folders of `root`, in natural order; arguments as of `scan_folder`.

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
        raise DataError(f"dataroot {root} {kind}{here}.\n{_layout(noun)}")
    with os.scandir(root) as entries:
        shown = [entry for entry in entries if not _is_clutter(entry.name)]
    folders = [entry.name for entry in shown if _is_folder(entry)]
    if folders:
        return sorted(folders, key=natural_key)
    files = [entry.name for entry in shown if entry.name.lower().endswith(_endings(extensions))]
    if files:
        raise DataError(
            f"{root} holds {len(files)} {noun}s (such as {min(files, key=natural_key)}) but no class "
            "folders, so their classes are unknown. Sort them into one folder per class, or use "
            f"{{name: {_USUAL[noun][1]}}} with a list of labels.\n{_layout(noun)}"
        )
    raise DataError(f"{root} is empty: no class folders in it.\n{_layout(noun)}")


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
            if _is_folder(entry):
                if not _is_clutter(entry.name):
                    inner.append(path)
            elif not entry.name.startswith(".") and path.lower().endswith(endings) and _is_there(entry):
                yield path
            else:
                yield None
    # Files before folders, so that the order doesn't hang on which of them a file system lists first.
    for path in inner:
        yield from walk_class(root, path, extensions, (*above, real))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that can't be followed
        return False


def _is_there(entry: os.DirEntry) -> bool:
    # A link to nothing is no image; one that can't be followed is an image that can't be read, as a pipe is.
    try:
        if entry.is_symlink():
            os.stat(entry.path)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name in _CLUTTER


def _endings(extensions: Sequence[str]) -> tuple[str, ...]:
    return tuple("." + extension.lower().removeprefix(".") for extension in extensions)


def choose_part(
    paths: Sequence[str], labels: np.ndarray, class_names: Sequence[str], part: str, val_share: float
) -> np.ndarray:
    """Which images are those of one part, "train" or "val"; see `ImageFolder`.

    Raises:
        DataError: A class has fewer than two images.
    """
    # By checksums rather than a generator: every run holds out the same, and an added image leaves most of
    # the others on their side.
    images = [
        label.to_bytes(8, "big") + hashlib.sha256(os.fsencode(path)).digest()
        for label, path in zip(labels.tolist(), paths, strict=True)
    ]
    ranked = sorted(images)
    held_out: set[bytes] = set()
    start = 0
    for name, count in zip(class_names, np.bincount(labels, minlength=len(class_names)), strict=True):
        if count < 2:
            raise DataError(
                f"class '{name}' holds {count} item(s), and two are the least where some are held out for "
                "validation: add some, or lay out train and val folders" + zh("two_items_per_class")
            )
        held_out.update(ranked[start : start + held_out_count(int(count), val_share)])
        start += count
    return np.flatnonzero([(image in held_out) == (part == "val") for image in images])


def held_out_count(images: int, share: float) -> int:
    """How many of a class's items are held out."""
    # A share, rounded, but at least one on each side.
    return min(max(1, round(share * images)), max(images - 1, 0))


@dataclass(frozen=True)
class OwnFolder:
    """The splits of a user's folder."""

    train: str  # the folder of the training classes
    val: str  # that of validation; the same where some of each class is to be held out
    class_names: list[str]  # of training, in natural order
    packed: Packed | None = None  # the training images, where the folder is a packed copy
    noun: str = "image"  # or "text"
    kind: str = "folder"

    @property
    def held_out(self) -> bool:
        """Whether validation images are to be taken from the training folder."""
        return self.train == self.val

    def class_counts(self) -> Iterable[int]:
        """Items of each class, with those that are held out."""
        if self.packed is not None:
            return np.bincount(self.packed.labels, minlength=len(self.class_names)).tolist()
        endings = _EXTENSIONS[self.noun]
        walks = (walk_class(self.train, name, endings) for name in self.class_names)
        return (sum(path is not None for path in walk) for walk in walks)

    def count_items(self, at_most: int, val_share: float) -> int:
        """Items to train on, without those held out; counting stops when there are `at_most`."""
        total = 0
        for images in self.class_counts():
            total += images
            if self.held_out:
                total -= held_out_count(images, val_share)
            if total >= at_most:  # ImageNet has a thousand folders, and a batch is full after one
                break
        return total


def find_splits(root: str, noun: str = "image") -> OwnFolder:
    """Finds the training and validation images, or texts, in a user's own folder.

    Two layouts: `train` and `val` (also valid, validation, test) with one folder per class each; or one
    folder per class alone, of which a fraction of each class is held out for validation. Packed copies have
    the same two.

    Raises:
        DataError: It is missing or empty, holds no class folders or one alone, or no images.
    """
    root = os.path.expanduser(root)
    packed = _find_packed(root)
    if packed is not None:
        return packed
    endings = _EXTENSIONS[noun]
    folders = list_classes(root, endings, noun)
    train = first_of(TRAIN, folders)
    val = first_of(VAL, folders)
    train_root = val_root = root
    # A class of one's own may be called "train", beside others.
    if train is not None and (val is not None or len(folders) == 1):
        train_root = os.path.join(root, train)
        val_root = os.path.join(root, val or train)
        folders = list_classes(train_root, endings, noun)
    if len(folders) < 2:
        raise DataError(
            f"{train_root} holds one class folder, '{folders[0]}', and a classifier needs two or more: give "
            f"each class a folder of its own.\n{_layout(noun)}"
        )
    found = OwnFolder(train_root, val_root, folders, noun=noun)
    if not found.count_items(1, 0.5):
        raise DataError(
            f"{train_root} holds {len(folders)} class folders ({', '.join(folders[:5])}) but no {noun}s "
            f"(looked for {' '.join(endings)}).\n{_layout(noun)}"
        )
    return found


def first_of(names: tuple[str, ...], folders: list[str]) -> str | None:
    """The first of some names that is among folders, in any case."""
    # Of train and Train the first counts.
    by_name = {folder.lower(): folder for folder in reversed(folders)}
    return next((by_name[name] for name in names if name in by_name), None)


def _find_packed(root: str) -> OwnFolder | None:
    """The splits of a packed copy; None where the folder is none."""
    train = os.path.join(root, TRAIN[0])
    val = os.path.join(root, VAL[0])
    if is_packed(root):
        train = val = root
    elif not is_packed(train):
        return None
    elif os.path.isdir(val) and not is_packed(val):
        raise DataError(
            f"{train} is a packed copy and {val} isn't: pack it too (tools/make_cache.py {val} ... "
            "--tile-only keeps every pixel), or name both in a config" + zh("splits_packed_differently")
        )
    elif not is_packed(val):
        val = train
    packed = Packed(train)
    return OwnFolder(train, val, packed.class_names, packed)
