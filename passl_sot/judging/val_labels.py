"""Labels of ImageNet-1K's validation images by the numbers in their names: lists, and ReaL's."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.config import zh
from passl_sot.data import DataError
from passl_sot.data.errors import stop_at
from passl_sot.data.imagenet import COUNT, imagenet_classes
from passl_sot.utils.require import require_extra

IMAGES = 50_000
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
# Lists by their usual names: Caffe's, PaddleClas's, Kaggle's, TensorFlow's, and that of the authors' devkit.
LISTS = (
    "val.txt", "val_list.txt", "LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt", DEVKIT,
)  # fmt: skip
_LEVELS = 3  # above the images, as in Kaggle's ILSVRC/Data/CLS-LOC/val
_NAME = re.compile(r"ILSVRC2012_val_(\d{8})", re.IGNORECASE)
_ENTRY = re.compile(r"ILSVRC2012_val_(\d{8})(?:\.\w+)?[\s,]+(n\d{8}|\d+)\b", re.IGNORECASE)
_WORD = re.compile(r"n\d{8}|\d+")
# Classes of the first ten images: lists that number classes otherwise, or images, don't have them.
FIRST = (65, 970, 230, 809, 516, 57, 334, 415, 674, 332)


def image_number(path: str) -> int:
    """The number of a validation image, from 1, by its name; 0 for a file that is called otherwise."""
    found = _NAME.search(path.rpartition("/")[2])
    return int(found[1]) if found else 0


def name_of(number: int) -> str:
    """The name of a validation image without its ending."""
    return f"ILSVRC2012_val_{number:08d}"


def beside(root: str, names: Iterable[str]) -> Path | None:
    """The first file of these names in the images' folder, in those above it, or in a devkit's there."""
    folder = Path(root).resolve()
    places = [folder, *list(folder.parents)[:_LEVELS]]
    places += [place / "ILSVRC2012_devkit_t12" / "data" for place in places]
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def check_first(where: object, classes: Mapping[int, int]) -> None:
    """Compares what is said of the first ten images with what they show.

    Args:
        where: Who says so: a list, a folder.
        classes: Of images, by their numbers.

    Raises:
        DataError: Something else: the images or the classes are in another order.
    """
    for number, wanted in enumerate(FIRST, 1):
        given = classes.get(number, wanted)
        if given != wanted:
            said, right = (imagenet_classes()[label] for label in (given, wanted))
            raise DataError(
                f"{where}: {name_of(number)} is of the class {said.id} ({said.name}) there, and of "
                f"{right.id} ({right.name}) in truth: images or classes are in another order"
                + zh("suite_order")
            )


def read_labels(path: Path) -> dict[int, int]:
    """Classes of validation images, 0 to 999, by the images' numbers.

    Lines are `NAME LABEL`, LABEL being an id (n01440764) or a number from 0; or, for all 50,000 images in
    the order of their names, `LABEL`. The devkit's own numbers are turned into these by its meta.mat.

    Raises:
        DataError: A line is wrong, or there are too few or too many; names file and line.
    """
    numbers = {known.id: number for number, known in enumerate(imagenet_classes())}
    if path.name == DEVKIT:
        numbers |= _devkit_numbers(path.with_name("meta.mat"), numbers)
    else:
        numbers |= {str(number): number for number in range(COUNT)}
    labels: dict[int, int] = {}
    faults = []
    bare = 0
    for place, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        entry = _ENTRY.search(line)
        word = line.strip()
        if entry:
            number, word = int(entry[1]), entry[2]
        elif not word or (place == 1 and not _WORD.fullmatch(word)):  # a header, as Kaggle's has one
            continue
        else:
            bare += 1
            number = bare
        if word not in numbers:
            faults.append(f"{path}:{place}: {word!r} is none of the 1,000 classes{_hint(path, word)}")
        elif labels.setdefault(number, numbers[word]) != numbers[word]:
            faults.append(f"{path}:{place}: {name_of(number)} was given another class before")
    stop_at(faults, f"lines of {path}")
    if bare and len(labels) != IMAGES:
        raise DataError(
            f"{path} has {bare:,} labels without names, which must be those of all {IMAGES:,} images in order"
            + zh("suite_list_length")
        )
    check_first(path, labels)
    return labels


def _hint(path: Path, word: str) -> str:
    if word != str(COUNT) or path.name == DEVKIT:
        return ""
    return (
        f"; numbers from 1 to {COUNT} are the devkit's, in another order: keep their list as {DEVKIT}, "
        "with its meta.mat beside it"
    )


def _devkit_numbers(meta: Path, numbers: Mapping[str, int]) -> dict[str, int]:
    """The classes by the devkit's own numbers, 1 to 1,000, which are in another order than the ids."""
    if not meta.is_file():
        raise DataError(
            f"{meta} is missing: {DEVKIT} has the devkit's own class numbers, which it alone explains"
        )
    scipy_io = require_extra("scipy.io", "judging", "reading the devkit's meta.mat")
    try:
        synsets = scipy_io.loadmat(str(meta), squeeze_me=True)["synsets"]
        pairs = zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True)
        # Behind the 1,000 classes come the synsets above them.
        found = {str(number): numbers[str(name)] for number, name in pairs if number <= COUNT}
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{meta} is not the devkit's list of the 1,000 classes ({error})") from error
    if len(found) != COUNT:
        raise DataError(
            f"{meta} explains {len(found):,} of the {COUNT:,} classes: take the devkit's own file"
        )
    return found


def read_real(path: Path) -> list[list[int]]:
    """ReaL's labels of all validation images in order, any number each (Beyer et al., arXiv 2006.07159).

    Raises:
        DataError: The file isn't a list of 50,000 lists of classes, or is in another order.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged, no JSON ({error})") from error
    if not isinstance(content, list) or len(content) != IMAGES:
        size = f"{len(content):,} entries" if isinstance(content, list) else "something else"
        raise DataError(
            f"{path} must be a list of {IMAGES:,} lists of classes, and has {size}" + zh("suite_real_length")
        )
    wrong = next((place for place, entry in enumerate(content) if not _are_classes(entry)), None)
    if wrong is not None:
        raise DataError(
            f"{path}: entry {wrong}, of {name_of(wrong + 1)}, is {str(content[wrong])[:60]}, not a list of "
            f"classes from 0 to {COUNT - 1}"
        )
    # Of the first images the raters found nine as ImageNet has them, or without any label.
    off = [n for n, wanted in enumerate(FIRST) if n != 7 and content[n] and wanted not in content[n]]
    if off:
        raise DataError(
            f"{path}: entry {off[0]} lacks the class {FIRST[off[0]]} of {name_of(off[0] + 1)}: its entries "
            "are in another order" + zh("suite_order")
        )
    return content


def _are_classes(entry: Any) -> bool:
    if not isinstance(entry, list) or not all(type(label) is int and 0 <= label < COUNT for label in entry):
        return False
    return len(set(entry)) == len(entry)


def as_answers(labels: Sequence[Sequence[int]]) -> np.ndarray:
    """Lists of right classes as an array int64 [N, M], filled up with -1."""
    width = max(map(len, labels))
    return np.array([[*entry, *[-1] * (width - len(entry))] for entry in labels], np.int64)
