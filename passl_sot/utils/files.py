"""Files that are there whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def temporary_name(path: Path) -> Path:
    """A new name beside `path` that nobody can foresee, and so put a link or a file of their own at."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")


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
