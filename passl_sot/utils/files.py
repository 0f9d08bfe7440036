"""Files and folders that are there whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def temporary_name(path: Path) -> Path:
    """A new name beside `path` that nobody can foresee, and so put a link or a file of their own at."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        # Not by hashlib.file_digest, which Python 3.10 lacks.
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def replace_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file under another name in its folder, and only then gives it its own.

    Whoever reads `path` finds the old file or the new one, after a power cut too. `write` may read
    what it has flushed; where it raises, `path` is untouched and nothing is left behind.
    """
    temporary = temporary_name(path)
    try:
        # "x" makes a new file, and follows no link to another one.
        with temporary.open("x+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # else the new name could survive a power cut, and the bytes not
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_replaced(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` at the end of the block, if that is reached."""
    folder = folder.resolve()  # where a link leads is written to, the link stays
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = temporary_name(folder)
    old = temporary_name(folder)
    new.mkdir()
    try:
        yield new
        try:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
