"""Reading list files (`path label` per line) and files of class names."""

from __future__ import annotations

import os

from passl_sot.data.errors import DataError

_SHOWN_FAULTS = 10
# Above any real number of classes; larger labels are dates or ids, and would each need a name.
_LARGEST_LABEL = 10_000_000


def read_list(path: str) -> tuple[list[str], list[int]]:
    """Reads paths and labels.

    A line is split at its last tab, or, where it has none, at its last space, so paths may hold spaces.

    Args:
        path: The list file.

    Returns:
        Paths as written (backslashes of Windows turned round) and their labels, in order.

    Raises:
        DataError: The file can't be read, or a line is wrong; each fault is given as file:line.
    """
    paths: list[str] = []
    labels: list[int] = []
    faults: list[str] = []
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        name, _, label = line.rpartition("\t") if "\t" in line else line.rpartition(" ")
        name = name.strip()
        where = f"{path}:{number}"
        if not name:
            faults.append(f"{where}: no label in {line!r}; a line is 'path label' / 每行应为“路径 标签”")
            continue
        try:
            value = int(label)
        except ValueError:
            faults.append(f"{where}: label {label!r} is not a whole number / 标签必须是整数")
            continue
        if value < 0:
            faults.append(f"{where}: label {value} is below 0; labels are 0 to classes-1 / 标签从 0 开始")
            continue
        if value > _LARGEST_LABEL:
            faults.append(f"{where}: label {value} is too large to be a class number / 标签过大")
            continue
        paths.append(name.replace("\\", "/") if os.sep == "/" and "\\" in name else name)
        labels.append(value)
    if len(faults) > _SHOWN_FAULTS:
        faults = [*faults[:_SHOWN_FAULTS], f"and {len(faults) - _SHOWN_FAULTS} more lines of {path}"]
    if faults:
        raise DataError(faults)
    if not paths:
        raise DataError(f"{path} lists no images; a line is 'path label' / 列表文件为空，每行应为“路径 标签”")
    return paths, labels


def read_labels(path: str) -> tuple[list[str], list[list[int]]]:
    """Reads paths and, for each, any number of labels: `path<tab>0,3`, and `path<tab>-` for none.

    Args:
        path: The list file; split as by `read_list`.

    Raises:
        DataError: The file can't be read, or a line is wrong; each fault is given as file:line.
    """
    paths: list[str] = []
    labels: list[list[int]] = []
    faults: list[str] = []
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        name, _, field = line.rpartition("\t") if "\t" in line else line.rpartition(" ")
        numbers = [] if field.strip() == "-" else field.split(",")
        if not name.strip() or not all(n.strip().isdecimal() and int(n) <= _LARGEST_LABEL for n in numbers):
            faults.append(
                f"{path}:{number}: {line!r} isn't 'path 0,3' (class numbers with commas) or 'path -' (none) "
                "/ 多标签的每行应为“路径 0,3”"
            )
            continue
        paths.append(name.strip())
        labels.append([int(n) for n in numbers])
    if len(faults) > _SHOWN_FAULTS:
        faults = [*faults[:_SHOWN_FAULTS], f"and {len(faults) - _SHOWN_FAULTS} more lines of {path}"]
    if faults:
        raise DataError(faults)
    if not any(labels):
        raise DataError(f"{path} gives no image a label; a line is 'path 0,3' / 列表文件没有标签")
    return paths, labels


def read_class_names(path: str) -> list[str]:
    """Reads class names in label order.

    Args:
        path: A file with one name per line, or with `label name` lines (PaddleClas's `class_id_map`) whose
            labels are 0 to C-1 in any order.

    Raises:
        DataError: The file can't be read or is empty, or a name occurs twice.
    """
    lines = [line for _, line in _lines(path)]
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


def _lines(path: str) -> list[tuple[int, str]]:
    """Numbered lines that aren't empty, without line ends or outer blanks."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror or error}) / 无法读取列表文件") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8; save the file as UTF-8, for example "
            f"`iconv -f GBK -t UTF-8 {path}` / 请将文件保存为 UTF-8 编码"
        ) from error
    stripped = ((number, line.strip(" \r\n")) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in stripped if line.strip()]
