"""Reading list files (`path label` per line) and files of class names."""

from __future__ import annotations

import os

import numpy as np

from passl_sot.config.chinese import zh
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.errors import DataError, stop_at

# Above any real number of classes; larger labels are dates or ids, and would each need a name.
LARGEST_LABEL = 10_000_000
_BLANKS = np.frombuffer(b" \t", np.uint8)


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
    """Lines in ASCII of a path, one kind of separator, and a number, without a Python object for each.

    Returns:
        None where a line is anything else, such as a comment or a fault: lines are then read one by one.
    """
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
    digits = ends - last - 1
    # Comments, empty lines, and blanks around paths.
    if any((text[starts] == sign).any() for sign in b"#\n \t") or np.isin(text[last - 1], _BLANKS).any():
        return None
    if (last <= starts).any() or digits.min() < 1 or digits.max() > len(str(LARGEST_LABEL)):
        return None
    labels = np.zeros(len(ends), np.int64)
    for place in range(int(digits.max())):
        there = place < digits
        digit = text[last[there] + 1 + place] - np.uint8(ord("0"))  # what is below "0" wraps around
        if digit.max() > 9:
            return None
        labels[there] = 10 * labels[there] + digit
    if labels.max() > LARGEST_LABEL:
        return None
    kept = np.ones(len(text) + 1, bool)
    for place in range(int(digits.max()) + 2):  # separator, label, end of line
        kept[np.minimum(last + place, ends)] = False
    return StringTable.from_parts(np.concatenate(([0], np.cumsum(last - starts))), text[kept[:-1]]), labels


def read_labels(path: str) -> tuple[list[str], list[list[int]]]:
    """Reads paths and, for each, any number of labels: `path<tab>0,3`, and `path<tab>-` for none.

    Args:
        path: The list file; split as by `read_list`.

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
    return [_forward(name) for _, _, name, _ in lines], labels


def read_multi_hot(path: str) -> tuple[list[str], np.ndarray]:
    """Reads paths and, for each, a 0 or 1 for every class: `path<tab>0,1,0,0,1`, PaddleClas's format.

    Args:
        path: The list file; split as by `read_list`.

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
    return [_forward(name) for _, _, name, _ in lines], np.array(rows).astype(np.uint8)


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
    return name.replace("\\", "/") if os.sep == "/" and "\\" in name else name


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
    twice = sorted({name for name in lines if lines.count(name) > 1}) if len(set(lines)) < len(lines) else []
    if twice:
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
