"""What command lines and programs name for prediction, as a list of items."""

import contextlib
import errno
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from passl_sot.config import zh
from passl_sot.data.datasets.folders import EXTENSIONS
from passl_sot.data.datasets.string_table import natural_key
from passl_sot.data.datasets.tables import Layout, column_names, decode, form_of, read_rows
from passl_sot.data.errors import DataError, ItemError
from passl_sot.data.text_files import read_bytes
from passl_sot.imageio.files import read_text

# Columns of texts by their usual names, those of GLUE and the SNLI corpus among them.
_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
    ("premise", "hypothesis"),
    ("text", "text_pair"),
    ("sentence",),
    ("text",),
)


def collect_images(arguments: Sequence[str]) -> list[str]:
    """Turns the command line's paths into files: a file, a folder (searched below), a glob or a list.

    `.txt` files hold a path a line (relative ones count from the list's folder), with or without a label
    after it, as make_list writes them; UTF-8 or GB 18030. The order given is kept; folders and globs are
    sorted naturally.

    Raises:
        FileNotFoundError: An argument names nothing.
        DataError: A list is empty or in another encoding.
    """
    files: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if argument and path.is_dir():  # "" is what an unset variable leaves, not this folder
            found = [str(p) for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS]
            complaint = "no image in this folder"
        elif path.is_file() and path.suffix.lower() == ".txt":
            files += _read_list(path)
            continue
        else:
            found = [argument] if path.is_file() else glob.glob(argument, recursive=True)
            complaint = "no such file, folder or pattern"
        if not found:
            raise FileNotFoundError(errno.ENOENT, complaint, argument)
        files += sorted(found, key=natural_key)
    return files


def _read_list(path: Path) -> list[str]:
    try:
        data = read_text(str(path))
    except ItemError as error:
        raise DataError(str(error)) from error
    readings: list[list[str]] = []
    for encoding in ("utf-8-sig", "gb18030"):
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if "\0" not in text:  # UTF-16 without a mark decodes as UTF-8 with zeros
                lines = [line.strip(" \r") for line in text.split("\n")]
                names = [_without_label(line, path.parent) for line in lines if line.strip()]
                readings.append([str(path.parent / name) for name in names])
    if not readings:
        raise DataError(f"{path} is neither UTF-8 nor GBK: save the list as UTF-8" + zh("save_list_utf8"))
    if not readings[0]:
        raise DataError(f"{path} lists no images: write one path a line" + zh("image_list_empty"))
    if readings[0] == readings[-1]:
        return readings[0]
    # The bytes of a few GBK names are valid UTF-8 as well, for other letters: the files that exist decide.
    return max(readings, key=lambda files: sum(map(os.path.exists, files)))


def _without_label(line: str, folder: Path) -> str:
    """The path of a line `path`, `path<tab>label` or `path label`; paths may hold spaces and digits."""
    if "\t" in line:
        return line.rpartition("\t")[0].strip()
    name, _, label = line.rpartition(" ")
    if label.isdecimal() and not os.path.exists(folder / line) and os.path.exists(folder / name.strip()):
        return name.strip()
    return line


def collect_texts(
    arguments: Sequence[str], columns: Sequence[str] = (), own: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Turns the command line's paths into texts: `.txt` files, tables (CSV, TSV, JSONL), or `-`.

    A line of a `.txt` or of standard input (`-`) is a text, or two with a tab between; empty ones are passed
    over. TSV has no quotes, as GLUE's.

    Args:
        arguments: The paths.
        columns: The columns of a table with the texts, one or two.
        own: Those that the model was trained on, which count before the usual ones where a table has them.

    Returns:
        For each text its `text`, perhaps `text_pair`, `path`, and `index`: what a column of that name says,
        else its number in the file, from 0.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: It can't be read, or has no such columns; names file and line.
    """
    found: list[dict[str, str]] = []
    for argument in arguments:
        if argument != "-" and not os.path.isfile(argument):
            raise FileNotFoundError(errno.ENOENT, "no such file", argument)
        if argument == "-" or argument.endswith(".txt"):
            texts = _lines(argument)
        else:
            texts = _rows(argument, columns, own)
        count = len(found)
        for index, text in texts:
            place = {"path": argument, "index": index}
            found.append({**dict(zip(("text", "text_pair"), text, strict=False)), **place})
        if len(found) == count:
            raise DataError(f"{argument} holds no texts" + zh("no_texts"))
    return found


def _lines(path: str) -> Iterator[tuple[str, list[str]]]:
    if path == "-":
        text = decode("standard input", sys.stdin.buffer.read(), "utf-8")
    else:
        text = decode(path, read_bytes(path), "utf-8")
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    for number, line in enumerate(line for line in lines if line.strip()):
        yield str(number), line.split("\t") if line.count("\t") == 1 else [line]


def _rows(path: str, columns: Sequence[str], own: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    form = form_of(path, None)
    names = column_names(path, form, quoting=form == "csv")
    how = "--columns A, or two of a pair by --columns A,B"
    chosen = columns or choose_columns(path, names, own, how)
    text = chosen[0]
    second = chosen[1] if len(chosen) > 1 else None
    index = "index" if "index" in names else None
    layout = Layout(form=form, text=text, second=second, label=index, quoting=form == "csv", loose="longer")
    for number, row in enumerate(read_rows(path, layout).rows):
        yield row.label if index else str(number), [row.text, row.second][: len(chosen)]


def choose_columns(path: str, names: Sequence[str], own: Sequence[str], how: str) -> list[str]:
    """The column of a table's texts, or the two of pairs: the own ones, or those usually named so.

    Args:
        path: The table.
        names: Its columns.
        own: Columns that count if the table has them.
        how: How the user names others.

    Raises:
        DataError: It has none.
    """
    for known in (tuple(own), *_COLUMNS):
        if known and set(known) <= set(names):
            return [*known]
    listed = ", ".join(repr(name[:40]) for name in names[:20])
    raise DataError(
        f"{path} has no column of a usual name, such as 'text' or 'sentence', but {listed}: name it by {how}"
        + zh("name_columns")
    )
