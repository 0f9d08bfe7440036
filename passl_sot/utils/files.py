"""Files and folders that are there whole or not at all."""

import fcntl
import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    """A new folder that takes the place of `folder` at the end of the block, if that is reached.

    What writers of the same folder left that were killed is deleted then.
    """
    folder = folder.resolve()  # where a link leads is written to, the link stays
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = temporary_name(folder)
    old = temporary_name(folder)
    new.mkdir()
    lock = os.open(new, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the process ends, however it does
        yield new
        try:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
            _remove_unlocked(path)
    finally:
        os.close(lock)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def folder_filled(folder: Path) -> Iterator[Path]:
    """A new folder whose files are moved into `folder` at the end of the block, if that is reached.

    Files of the same names are replaced; whatever else is in `folder` stays.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = temporary_name(folder)
    new.mkdir()
    try:
        yield new
        folder.mkdir(exist_ok=True)
        for path in sorted(new.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _remove_unlocked(folder: Path) -> None:
    """Deletes a folder that no living process writes to."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(opened)
