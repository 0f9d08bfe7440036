"""The sets that classifiers of ImageNet-1K are judged on, in the layouts in which their authors give them.

val: Russakovsky et al., arXiv 1409.0575; real: Beyer et al., 2006.07159; v2: Recht et al., 1902.10811;
sketch: Wang et al., 1905.13549; a: Hendrycks et al., 1907.07174; r: Hendrycks et al., 2006.16241; c, and
c-val, which is made here: Hendrycks and Dietterich, 1903.12261.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from passl_sot.config import UserError, did_you_mean, nearest, zh
from passl_sot.data import DataError
from passl_sot.data.datasets.folders import walk_class
from passl_sot.data.imagenet import COUNT, imagenet_classes
from passl_sot.judging import val_labels
from passl_sot.judging.corrupted import check_packages
from passl_sot.utils.logger import progress_bar


class Kind(NamedTuple):
    """What is known of a set.

    Attributes:
        images: How many it has, or each part of it.
        letter: That of the set's own 200 classes in `ImageNetClass.sets`; "" for all 1,000.
        top5: Whether its authors give top-5 accuracies too.
    """

    title: str
    images: int
    letter: str = ""
    top5: bool = False


KINDS = {
    "val": Kind("ImageNet-1K val", val_labels.IMAGES, top5=True),
    "real": Kind("ImageNet ReaL", val_labels.IMAGES),
    "v2": Kind("ImageNet-V2", 10_000, top5=True),
    "sketch": Kind("ImageNet-Sketch", 50_889, top5=True),
    "a": Kind("ImageNet-A", 7_500, letter="A"),
    "r": Kind("ImageNet-R", 30_000, letter="R"),
    "c": Kind("ImageNet-C", val_labels.IMAGES),
    "c-val": Kind("ImageNet-C made here", val_labels.IMAGES),
}
_NUMBERED = {str(number): number for number in range(COUNT)}
# ImageNet-C's corruptions, by the archives in which they come.
CORRUPTIONS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
SEVERITIES = range(1, 6)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A set, or of `c` and `c-val` one corruption at one severity.

    Attributes:
        name: As in `KINDS`.
        folder: As it was given.
        root: The folder that `paths` start from.
        answers: The right classes of each image, as places in `classes`, int64 [N, M]; -1 fills rows up.
        classes: The classes that compete, as numbers of ImageNet-1K, int64 [K].
        partial: What is missing, as "40 of 50,000 images"; "" for nothing.
        corruption, severity: Of `c` and `c-val`.
    """

    name: str
    folder: str
    root: str
    paths: list[str]
    answers: np.ndarray
    classes: np.ndarray
    partial: str = ""
    corruption: str = ""
    severity: int = 0

    @property
    def kind(self) -> Kind:
        """What is known of the set."""
        return KINDS[self.name]

    @property
    def made_here(self) -> bool:
        """Whether the images are corrupted as they are read."""
        return self.name == "c-val"

    @property
    def title(self) -> str:
        """Its name for people."""
        return " ".join(filter(None, (self.kind.title, self.corruption, str(self.severity or ""))))


def parse_sets(given: list[str]) -> list[tuple[str, str]]:
    """Names and folders of `NAME=FOLDER` words; a UserError where one is something else."""
    pairs = []
    for word in given:
        name, equals, folder = word.partition("=")
        if not equals or not folder:
            raise UserError(
                f"--suite {word}: write NAME=FOLDER, such as val=data/imagenet/val" + zh("suite_form")
            )
        if name not in KINDS:
            hint = did_you_mean(nearest(name, KINDS))
            raise UserError(f"--suite {word}: there is no set {name!r}{hint}; sets are {', '.join(KINDS)}")
        pairs.append((name, os.path.expanduser(folder)))
    return pairs


def find_set(name: str, folder: str, *, partial: bool = False) -> list[ImageSet]:
    """Lists the images of a set with their right classes; of `c` and `c-val` all their 75 parts.

    Args:
        name: One of `KINDS`.
        partial: Take a part of a set, which is marked so.

    Raises:
        DataError: The folder holds another set or only a part of it, or labels that aren't its own.
        MissingExtraError: What makes the images of `c-val` isn't installed.
    """
    if not os.path.isdir(folder):
        raise DataError(f"{KINDS[name].title}: there is no folder {folder}" + zh("suite_no_folder"))
    if name == "c":
        return _corrupted(folder, partial)
    if name == "c-val":
        check_packages()
        clean = _validation("val", folder, partial)
        pairs = [
            (one, severity) for names in CORRUPTIONS.values() for one in names for severity in SEVERITIES
        ]
        return [replace(clean, name=name, corruption=one, severity=severity) for one, severity in pairs]
    if name in ("val", "real"):
        return [_validation(name, folder, partial)]
    return [_by_folders(name, folder, folder, partial)]


def _class_names(name: str) -> dict[str, int]:
    """Names of a set's class folders, and the classes' numbers."""
    if name == "v2":
        return _NUMBERED
    letter = KINDS[name].letter
    return {c.id: number for number, c in enumerate(imagenet_classes()) if letter in c.sets or not letter}


def _by_folders(name: str, folder: str, root: str, partial: bool, **part: str | int) -> ImageSet:
    """A set of one folder for each class; `part` as of `ImageSet`."""
    names = _class_names(name)
    paths, labels = _scan(name, root, names)
    complaint = _check_size(name, root, len(paths), len(set(labels)), partial)
    classes = np.array(sorted(names.values()), np.int64)
    answers = np.searchsorted(classes, np.array(labels, np.int64))[:, None]
    return ImageSet(name, folder, root, paths, answers, classes, complaint, **part)  # type: ignore[arg-type]


def _scan(name: str, root: str, names: Mapping[str, int]) -> tuple[list[str], list[int]]:
    """Files of the class folders, and their classes; a DataError where there are other folders."""
    folders = _folders(root)
    strangers = [folder for folder in folders if folder not in names]
    if strangers or not folders:
        raise DataError(_strange(name, root, folders, strangers))
    paths: list[str] = []
    labels: list[int] = []
    with progress_bar(folders, desc=f"reading {root}", unit="class") as bar:
        for folder in bar:
            found = [path for path in walk_class(root, folder) if path]
            paths += found
            labels += [names[folder]] * len(found)
    return paths, labels


def _folders(root: str) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _strange(name: str, root: str, folders: list[str], strangers: list[str]) -> str:
    """What is wrong with a set's folder by the names of the folders in it."""
    kind = KINDS[name]
    layout = f"{len(_class_names(name)):,} folders named by ids such as {next(iter(_class_names(name)))}"
    if name == "v2":
        layout = "1,000 folders named by number, 0 to 999"
    text = f"{root} is not {kind.title}, which has {layout}"
    if not folders:
        return f"{text}: it holds no folders" + zh("suite_foreign")
    shown = ", ".join(map(repr, strangers[:3]))
    text += f": it holds {shown}" + f" and {len(strangers) - 3} more" * (len(strangers) > 3)
    likely = [other for other in KINDS if set(folders) <= _class_names(other).keys()]
    inside = [
        folder for folder in folders if _class_names(name).keys() & _folders(os.path.join(root, folder))
    ]
    if inside:  # of train and val the latter
        text += f"; the classes seem to be in {max(inside)}: write {name}={os.path.join(root, max(inside))}"
    elif likely:
        # Of two sets that have all these classes the one with fewer classes.
        best = min(likely, key=lambda other: len(_class_names(other)))
        text += f"; by its classes it may be {KINDS[best].title} ({best}={root})"
    return text + zh("suite_foreign")


def _check_size(name: str, root: str, images: int, classes: int, partial: bool) -> str:
    """What is missing of a set, "" for nothing; a DataError where it isn't whole and needs to be."""
    kind = KINDS[name]
    wanted = len(_class_names(name))
    if (images, classes) == (kind.images, wanted):
        return ""
    text = (
        f"{kind.title} has {kind.images:,} images of {wanted:,} classes, and {root} {images:,} of {classes:,}"
    )
    same = [other.title for other in KINDS.values() if other.images == images != kind.images]
    if same:
        text += f", as many as {same[0]}"
    if images > kind.images:
        raise DataError(f"{text}: it is something else" + zh("suite_foreign"))
    if not images:
        raise DataError(f"{text}: unpack it first" + zh("suite_partial"))
    if not partial:
        raise DataError(
            f"{text}: fetch it again, or score what is there with --partial" + zh("suite_partial")
        )
    return f"{images:,} of {kind.images:,} images"


def _validation(name: str, folder: str, partial: bool) -> ImageSet:
    """ImageNet-1K's validation images with their own labels or ReaL's, in class folders or in one folder."""
    names = _class_names("val")
    labels: list[int] = []
    paths = sorted(filter(val_labels.image_number, os.listdir(folder)))
    if paths and name == "val":
        labels = _listed(folder, paths)
    elif not paths:
        paths, labels = _scan("val", folder, names)
        numbers = map(val_labels.image_number, paths)
        val_labels.check_first(folder, dict(zip(numbers, labels, strict=True)))
    missing = _check_size(name, folder, len(paths), len(set(labels)) or COUNT, partial)
    if labels and not missing and set(np.bincount(labels).tolist()) != {val_labels.IMAGES // COUNT}:
        raise DataError(
            f"{folder}: classes of ImageNet-1K val have 50 images each, and some have others here"
        )
    rows = [[label] for label in labels]
    if name == "real":
        paths, rows = _real(folder, paths)
    return ImageSet(name, folder, folder, paths, val_labels.as_answers(rows), np.arange(COUNT), missing)


def _listed(folder: str, files: list[str]) -> list[int]:
    """Labels of validation images that lie in one folder, by a list of them."""
    path = val_labels.beside(folder, val_labels.LISTS)
    if path is None:
        raise DataError(
            f"{folder} holds images without class folders, and no list of their labels lies there or above "
            f"({', '.join(val_labels.LISTS)})" + zh("suite_no_list")
        )
    labels = val_labels.read_labels(path)
    unlisted = [file for file in files if val_labels.image_number(file) not in labels]
    if unlisted:
        raise DataError(
            f"{path} lists no class of {len(unlisted):,} images of {folder}, such as {unlisted[0]}"
        )
    return [labels[val_labels.image_number(file)] for file in files]


def _real(folder: str, paths: list[str]) -> tuple[list[str], list[list[int]]]:
    """The images that have labels in ReaL's file, and these."""
    path = val_labels.beside(folder, ["real.json"])
    if path is None:
        raise DataError(f"ReaL's labels, real.json, are missing: put the file into {folder} or above it")
    numbers = [val_labels.image_number(file) for file in paths]
    if not all(0 < number <= val_labels.IMAGES for number in numbers):
        raise DataError(
            f"{folder}: ReaL's labels go by names such as {val_labels.name_of(1)}.JPEG, and not all have one"
        )
    labels = val_labels.read_real(path)
    pairs = [(file, labels[number - 1]) for file, number in zip(paths, numbers, strict=True)]
    kept = [(file, entry) for file, entry in pairs if entry]
    if not kept:
        raise DataError(f"{path} has no labels for the images of {folder}")
    return [file for file, _ in kept], [entry for _, entry in kept]


def _corrupted(folder: str, partial: bool) -> list[ImageSet]:
    """The parts of ImageNet-C: folders `corruption/severity/class`, below those of the archives or not."""
    roots: dict[str, str] = {}
    lacking = []
    for archive, name in [(archive, name) for archive, names in CORRUPTIONS.items() for name in names]:
        for place in (os.path.join(folder, name), os.path.join(folder, archive, name)):
            if all(os.path.isdir(os.path.join(place, str(severity))) for severity in SEVERITIES):
                roots[name] = place
        lacking += [name] * (name not in roots)
    if lacking and (not partial or not roots):
        raise DataError(
            f"ImageNet-C has 15 corruptions, each with folders 1 to 5 of its severities, and {folder} lacks "
            f"{', '.join(lacking)}: fetch them, score what is there with --partial, or have them made of "
            "validation images: c-val=FOLDER" + zh("suite_partial")
        )
    return [
        _by_folders("c", folder, f"{root}/{severity}", partial, corruption=name, severity=severity)
        for name, root in roots.items()
        for severity in SEVERITIES
    ]
