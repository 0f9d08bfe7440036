"""Images named in a list file (`path label` per line), and files of class names."""

import itertools
import os
from typing import Annotated, Literal, NamedTuple

import numpy as np

from passl_sot.config import Count, zh
from passl_sot.data.datasets.base import DATASETS
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.errors import DataError, stop_at
from passl_sot.data.text_files import not_in_encoding, read_bytes
from passl_sot.data.transforms.image import TRANSFORMS

# Above any real number of classes; larger labels are dates or ids, and would each need a name.
LARGEST_LABEL = 10_000_000
_BLANKS = np.frombuffer(b" \t\v\f", np.uint8)


@DATASETS.register()
class ListFile(LabelledImages):
    """Images and labels from a text file with a line `path<tab or space>label` per image.

    UTF-8 with or without byte-order mark, line ends of Unix or Windows; paths may hold spaces and are
    relative to `dataroot` unless absolute; empty lines and lines that begin with `#` are skipped.

    Other arguments are those of `LabelledImages`.

    Args:
        dataroot: Folder that paths start from.
        list_file: The list.
        class_names: File with the name of each class: one per line in label order, or `label name` lines.
            Without it classes are named "0", "1", ... up to the largest label.
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
        names: list[str] = []
        if class_names is not None:
            names = read_class_names(os.path.expanduser(class_names))
        multi_hot = None
        if not multi_label:
            paths, labels = read_list(self.list_file)
            count = int(labels.max()) + 1
        else:
            lines = _parse(self.list_file, read_bytes(self.list_file))
            read = _read_multi_hot if multi_label == "multi_hot" else _read_labels
            multi_hot = read(self.list_file, lines, len(names))
            paths = StringTable(line.path for line in lines)
            labels = np.zeros(len(paths), np.int64)
            count = multi_hot.shape[1]
        super().__init__(
            root=os.path.expanduser(dataroot),
            paths=paths,
            labels=labels,
            class_names=names or [str(label) for label in range(count)],
            transforms=transforms,
            batch_transforms=batch_transforms,
            apply_exif=apply_exif,
            named=class_names is not None,
            channels=channels,
            multi_hot=multi_hot,
        )


class _Line(NamedTuple):
    where: str  # "list.txt:3"
    text: str
    path: str  # "" where the line has no label
    field: str

    def words(self) -> list[str]:
        return [word.strip() for word in self.field.split(",")]


def read_list(path: str) -> tuple[StringTable, np.ndarray]:
    """Reads paths (backslashes of Windows turned round) and labels, int64 [N], of a list file.

    A line is split at its last tab, or, where it has none, at its last space, so paths may hold spaces.

    Raises:
        DataError: The file can't be read, or a line is wrong; each fault is given as file:line.
    """
    data = read_bytes(path)  # once, as a shell's `<(...)` is a pipe
    plain = _read_plain(data)
    if plain is not None:
        return plain
    lines = _parse(path, data)
    faults = [fault for fault in map(_label_fault, lines) if fault]
    stop_at(faults, f"lines of {path}")
    return StringTable(line.path for line in lines), np.array([int(line.field) for line in lines], np.int64)


def _label_fault(line: _Line) -> str:
    if not line.path:
        return f"{line.where}: no label in {line.text!r}; a line is 'path label'" + zh("list_line_form")
    try:
        label = int(line.field)
    except ValueError:
        return f"{line.where}: label {line.field!r} is not a whole number" + zh("label_not_integer")
    if label < 0:
        return f"{line.where}: label {line.field} is below 0; labels are 0 to classes-1" + zh(
            "labels_from_zero"
        )
    if label > LARGEST_LABEL:
        return f"{line.where}: label {line.field} is too large to be a class number" + zh("label_too_large")
    return ""


def _read_plain(data: bytes) -> tuple[StringTable, np.ndarray] | None:
    """Reads a list in ASCII without comments and faults; None where lines have to be looked at one by one."""
    # No Python object for each line: the lists of ImageNet's size are read in a quarter of the time.
    separator = b"\t" if b"\t" in data else b" "
    if not data or not data.isascii() or b"\r" in data or b"\\" in data:
        return None
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(text))
    starts = np.concatenate(([0], ends[:-1] + 1))
    places = np.flatnonzero(text == ord(separator))
    before = np.searchsorted(places, ends) - 1
    if not len(places) or before.min() < 0:
        return None
    last = places[before]
    # Comments, empty lines, and blanks around paths.
    if any((text[starts] == sign).any() for sign in b"#\n \t") or np.isin(text[last - 1], _BLANKS).any():
        return None
    digits = ends - last - 1
    if (last <= starts).any() or digits.min() < 1 or digits.max() > len(str(LARGEST_LABEL)):
        return None
    behind = np.zeros(len(text) + 1, bool)
    for place in range(int(digits.max()) + 2):  # separator, label, end of line
        behind[np.minimum(last + place, ends)] = True
    behind = behind[:-1]
    numbers = text[behind]
    if not np.isin(numbers, np.frombuffer(b"0123456789\n" + separator, np.uint8)).all():
        return None
    labels = np.fromstring(numbers.tobytes(), np.int64, sep=" ")
    if labels.max() > LARGEST_LABEL:
        return None
    return StringTable.from_parts(np.concatenate(([0], np.cumsum(last - starts))), text[~behind]), labels


def _read_labels(path: str, lines: list[_Line], classes: int) -> np.ndarray:
    """Any number of labels for each line, uint8 [N, C]; `classes` is 0 where the largest label tells it."""
    labels = [[] if line.field == "-" else line.words() for line in lines]
    faults = []
    for line, words in zip(lines, labels, strict=True):
        if not line.path or not all(word.isdecimal() and int(word) <= LARGEST_LABEL for word in words):
            faults.append(
                f"{line.where}: {line.text!r} isn't 'path 0,3' (class numbers with commas) or 'path -' (none)"
                + zh("multi_label_line_form")
            )
        elif len(set(map(int, words))) < len(words):
            hint = " (a 0 or 1 for each class, as PaddleClas writes it, is read by multi_label: multi_hot)"
            if not set(words) <= {"0", "1"}:
                hint = ""
            faults.append(f"{line.where}: {line.field!r} names a class twice{hint}" + zh("label_twice"))
    stop_at(faults, f"lines of {path}")
    if not any(labels):
        raise DataError(f"{path} gives no image a label; a line is 'path 0,3'" + zh("list_without_labels"))
    last = max(map(int, itertools.chain(*labels)))
    if classes and last >= classes:
        raise DataError(
            f"{path} has label {last}, and class_names holds {classes}" + zh("label_beyond_classes")
        )
    multi_hot = np.zeros((len(lines), classes or last + 1), np.uint8)
    for row, words in zip(multi_hot, labels, strict=True):
        row[list(map(int, words))] = 1
    return multi_hot


def _read_multi_hot(path: str, lines: list[_Line], classes: int) -> np.ndarray:
    """As `_read_labels`, from a 0 or 1 for every class."""
    rows = [line.words() for line in lines]
    width = len(rows[0])
    faults = []
    for line, row in zip(lines, rows, strict=True):
        if not line.path or not set(row) <= {"0", "1"}:
            faults.append(
                f"{line.where}: {line.text!r} isn't 'path 0,1,0' (a 0 or 1 for each class); class numbers "
                "such as 'path 0,3' are read by multi_label: true" + zh("multi_hot_values")
            )
        elif len(row) != width:
            faults.append(
                f"{line.where}: has {len(row)} zeros and ones, and the first line {width}: one for each class"
                + zh("label_counts_differ")
            )
    stop_at(faults, f"lines of {path}")
    if classes not in (0, width):
        raise DataError(
            f"{path} has {width} zeros and ones a line, and class_names holds {classes}"
            + zh("label_count_not_class_count")
        )
    return np.array(rows).astype(np.uint8)


def _parse(path: str, data: bytes) -> list[_Line]:
    """The lines of images."""
    found = []
    for number, line in _lines(path, data):
        if not line.startswith("#"):
            # From the right, as paths hold spaces and labels do not.
            name, _, field = line.rpartition("\t" if "\t" in line else " ")
            name = name.replace("\\", "/")  # of a list that was written on Windows
            found.append(_Line(f"{path}:{number}", line, name.strip(), field.strip()))
    if not found:
        raise DataError(f"{path} lists no images; a line is 'path label'" + zh("list_is_empty"))
    return found


def read_class_names(path: str) -> list[str]:
    """Reads class names in label order.

    The file has one name per line, or `label name` lines (PaddleClas's `class_id_map`) whose labels are 0 to
    C-1 in any order.

    Raises:
        DataError: The file can't be read or is empty, or a name occurs twice.
    """
    lines = [line for _, line in _lines(path, read_bytes(path))]
    if not lines:
        raise DataError(f"{path} holds no class names")
    # Names may begin with a number ("3 musketeers"): only 0 to C-1, each once, are labels.
    pairs = [line.split(maxsplit=1) for line in lines]
    if all(len(pair) == 2 and pair[0].isdecimal() for pair in pairs):
        named = {int(label): name for label, name in pairs}
        if sorted(named) == list(range(len(lines))):
            lines = [named[label] for label in range(len(lines))]
    # Predictions name classes, so two of one name could not be told apart.
    if len(set(lines)) < len(lines):
        twice = sorted({name for name in lines if lines.count(name) > 1})
        raise DataError(f"{path} gives the class names {twice[:5]} more than once")
    return lines


def _lines(path: str, data: bytes) -> list[tuple[int, str]]:
    """Numbered lines that aren't empty, without line ends or outer blanks."""
    try:
        text = data.decode("utf-8-sig")  # editors on Windows begin a file with a byte-order mark
    except UnicodeDecodeError as error:
        advice = f"; save the file as UTF-8, for example `iconv -f GBK -t UTF-8 {path}`"
        raise not_in_encoding(path, error, advice) from error
    # Not tabs, which separate paths and labels.
    stripped = ((number, line.strip(" \r\n")) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in stripped if line.strip()]
