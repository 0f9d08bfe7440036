"""Images named in a list file (`path label` per line), and files of class names."""

from __future__ import annotations

import itertools
import os
from typing import Annotated, Literal

import numpy as np

from passl_sot.config import Count
from passl_sot.config.chinese import zh
from passl_sot.data.datasets.base import DATASETS
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.errors import DataError, stop_at
from passl_sot.data.transforms.image import TRANSFORMS

# Above any real number of classes; larger labels are dates or ids, and would each need a name.
LARGEST_LABEL = 10_000_000


@DATASETS.register()
class ListFile(LabelledImages):
    """Images and labels from a text file with a line `path<tab or space>label` per image.

    UTF-8 with or without byte-order mark, line ends of Unix or Windows; paths may hold spaces and are
    relative to `dataroot` unless absolute; empty lines and lines that begin with `#` are skipped.

    Args:
        dataroot: Folder that paths start from.
        list_file: The list.
        transforms: As of `LabelledImages`.
        batch_transforms: As of `LabelledImages`.
        class_names: File with the name of each class: one per line in label order, or `label name` lines.
            Without it classes are named "0", "1", ... up to the largest label.
        apply_exif: Turn photographs upright by their EXIF orientation.
        channels: As of `LabelledImages`.
        multi_label: true: lines give any number of labels, `path<tab>0,3`, or `path<tab>-` for none.
            "multi_hot": lines give a 0 or 1 for each class, `path<tab>0,1,0`, as PaddleClas has them.
    """

    def __init__(
        self,
        *,
        dataroot: str,
        list_file: str,
        transforms: Annotated[list, TRANSFORMS],
        batch_transforms: Annotated[list, TRANSFORMS] | None = None,
        class_names: str | None = None,
        apply_exif: bool = True,
        channels: Count = 3,
        multi_label: bool | Literal["multi_hot"] = False,
    ):
        self.list_file = os.path.expanduser(list_file)
        names = None
        if class_names is not None:
            names = read_class_names(os.path.expanduser(class_names))
        multi_hot = None
        if multi_label:
            read = read_multi_hot if multi_label == "multi_hot" else read_labels
            paths, multi_hot = read(self.list_file, len(names) if names else None)
            labels = np.zeros(len(paths), np.int64)
            count = multi_hot.shape[1]
        else:
            paths, labels = read_list(self.list_file)
            count = int(labels.max()) + 1
        super().__init__(
            root=os.path.expanduser(dataroot),
            paths=paths,
            labels=labels,
            class_names=names or [str(label) for label in range(count)],
            transforms=transforms,
            batch_transforms=batch_transforms,
            apply_exif=apply_exif,
            named=names is not None,
            channels=channels,
            multi_hot=multi_hot,
        )


def read_list(path: str) -> tuple[StringTable, np.ndarray]:
    """Reads paths and labels.

    A line is split at its last tab, or, where it has none, at its last space, so paths may hold spaces.

    Args:
        path: The list file.

    Returns:
        Paths as written (backslashes of Windows turned round) and their labels, int64 [N], in order.

    Raises:
        DataError: The file can't be read, or a line is wrong; each fault is given as file:line.
    """
    data = _read(path)
    plain = _read_plain(data)
    if plain is not None:
        return plain
    lines = _images(path, data)
    labels: list[int] = []
    faults: list[str] = []
    for number, line, name, label in lines:
        where = f"{path}:{number}"
        if not name:
            faults.append(f"{where}: no label in {line!r}; a line is 'path label'" + zh("list_line_form"))
            continue
        try:
            labels.append(int(label))
        except ValueError:
            faults.append(f"{where}: label {label!r} is not a whole number" + zh("label_not_integer"))
            continue
        if labels[-1] < 0:
            faults.append(
                f"{where}: label {label} is below 0; labels are 0 to classes-1" + zh("labels_from_zero")
            )
        elif labels[-1] > LARGEST_LABEL:
            faults.append(f"{where}: label {label} is too large to be a class number" + zh("label_too_large"))
    stop_at(faults, f"lines of {path}")
    return StringTable(_forward(name) for _, _, name, _ in lines), np.array(labels, np.int64)


def _read_plain(data: bytes) -> tuple[StringTable, np.ndarray] | None:
    """Reads a list in ASCII without comments and faults, in half of the time that single lines take.

    Returns:
        None where a line is anything else: lines are then looked at one by one.
    """
    if not data.isascii() or any(sign in data for sign in (b"#", b"\r", b"\\")):
        return None
    text = data.decode().removesuffix("\n")
    separator = "\t" if "\t" in text else " "
    rows = [line.rpartition(separator) for line in text.split("\n")]
    paths = [path.strip() for path, _, _ in rows]
    words = [label for _, _, label in rows]
    if not all(paths) or not all(map(str.isdecimal, words)):
        return None
    labels = np.array(list(map(int, words)))
    if labels.max() > LARGEST_LABEL:
        return None
    return StringTable(paths), labels


def read_labels(path: str, classes: int | None) -> tuple[StringTable, np.ndarray]:
    """Reads paths and any number of labels for each: `path<tab>0,3`, or `path<tab>-` for none.

    Args:
        path: The list file; split as by `read_list`.
        classes: Number C of classes; None for as many as the largest label needs.

    Returns:
        Paths, and uint8 [N, C] of 0 and 1.

    Raises:
        DataError: The file can't be read, or a line is wrong; each fault is given as file:line.
    """
    lines = _images(path, _read(path))
    labels: list[list[int]] = []
    faults: list[str] = []
    for number, line, name, field in lines:
        words = [] if field == "-" else [word.strip() for word in field.split(",")]
        if not name or not all(word.isdecimal() and int(word) <= LARGEST_LABEL for word in words):
            faults.append(
                f"{path}:{number}: {line!r} isn't 'path 0,3' (class numbers with commas) or 'path -' (none)"
                + zh("multi_label_line_form")
            )
            continue
        labels.append([int(word) for word in words])
        if len(set(labels[-1])) < len(words):
            hint = ""
            if set(words) <= {"0", "1"}:
                hint = (
                    " (a 0 or 1 for each class, as PaddleClas writes it, is read by multi_label: multi_hot)"
                )
            faults.append(f"{path}:{number}: {field!r} names a class twice{hint}" + zh("label_twice"))
    stop_at(faults, f"lines of {path}")
    if not any(labels):
        raise DataError(f"{path} gives no image a label; a line is 'path 0,3'" + zh("list_without_labels"))
    last = max(itertools.chain(*labels))
    if classes is not None and last >= classes:
        raise DataError(
            f"{path} has label {last}, and class_names holds {classes}" + zh("label_beyond_classes")
        )
    result = np.zeros((len(labels), classes or last + 1), np.uint8)
    for row, chosen in zip(result, labels, strict=True):
        row[chosen] = 1
    return StringTable(_forward(name) for _, _, name, _ in lines), result


def read_multi_hot(path: str, classes: int | None) -> tuple[StringTable, np.ndarray]:
    """Reads paths and, for each, a 0 or 1 for every class: `path<tab>0,1,0,0,1`, PaddleClas's format.

    Args:
        path: The list file; split as by `read_list`.
        classes: Number of classes that lines must have; None for any.

    Returns:
        Paths, and uint8 [N, C] of 0 and 1.

    Raises:
        DataError: The file can't be read, or a line is wrong; each fault is given as file:line.
    """
    lines = _images(path, _read(path))
    rows = [[word.strip() for word in field.split(",")] for _, _, _, field in lines]
    faults: list[str] = []
    for (number, line, name, _), row in zip(lines, rows, strict=True):
        if not name or not set(row) <= {"0", "1"}:
            faults.append(
                f"{path}:{number}: {line!r} isn't 'path 0,1,0' (a 0 or 1 for each class); class numbers "
                "such as 'path 0,3' are read by multi_label: true" + zh("multi_hot_values")
            )
        elif len(row) != len(rows[0]):
            faults.append(
                f"{path}:{number}: has {len(row)} zeros and ones, and the first line {len(rows[0])}: one for "
                "each class" + zh("label_counts_differ")
            )
    stop_at(faults, f"lines of {path}")
    if classes is not None and len(rows[0]) != classes:
        raise DataError(
            f"{path} has {len(rows[0])} zeros and ones a line, and class_names holds {classes}"
            + zh("label_count_not_class_count")
        )
    return StringTable(_forward(name) for _, _, name, _ in lines), np.array(rows).astype(np.uint8)


def _images(path: str, data: bytes) -> list[tuple[int, str, str, str]]:
    """Number, text, path and label (or labels) of each line of an image; no path where there is no label."""
    found = []
    for number, line in _lines(path, data):
        if not line.startswith("#"):
            name, _, field = line.rpartition("\t") if "\t" in line else line.rpartition(" ")
            found.append((number, line, name.strip(), field.strip()))
    if not found:
        raise DataError(f"{path} lists no images; a line is 'path label'" + zh("list_is_empty"))
    return found


def _forward(name: str) -> str:
    """A path with the backslashes of Windows turned round."""
    return name.replace("\\", "/") if os.sep == "/" else name


def read_class_names(path: str) -> list[str]:
    """Reads class names in label order.

    Args:
        path: A file with one name per line, or with `label name` lines (PaddleClas's `class_id_map`) whose
            labels are 0 to C-1 in any order.

    Raises:
        DataError: The file can't be read or is empty, or a name occurs twice.
    """
    lines = [line for _, line in _lines(path, _read(path))]
    if not lines:
        raise DataError(f"{path} holds no class names")
    pairs = [line.split(maxsplit=1) for line in lines]
    if all(len(pair) == 2 and pair[0].isdecimal() for pair in pairs):
        named = {int(label): name for label, name in pairs}
        if sorted(named) == list(range(len(lines))):
            lines = [named[label] for label in range(len(lines))]
    if len(set(lines)) < len(lines):
        twice = sorted({name for name in lines if lines.count(name) > 1})
        raise DataError(f"{path} gives the class names {twice[:5]} more than once")
    return lines


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(
            f"{path} can't be read ({error.strerror or error})" + zh("list_unreadable")
        ) from error


def _lines(path: str, data: bytes) -> list[tuple[int, str]]:
    """Numbered lines that aren't empty, without line ends or outer blanks."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8; save the file as UTF-8, for example "
            f"`iconv -f GBK -t UTF-8 {path}`" + zh("save_as_utf8")
        ) from error
    stripped = ((number, line.strip(" \r\n")) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in stripped if line.strip()]
