"""What command lines and programs name for prediction, as a list of items."""

import contextlib
import errno
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from passl_sot.config import zh
from passl_sot.data.datasets.folders import EXTENSIONS
from passl_sot.data.datasets.string_table import natural_key
from passl_sot.data.errors import DataError, ItemError
from passl_sot.imageio.files import read_text


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
