"""Files that are there whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def replace_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file under another name in its folder, and only then gives it its own.

    Whoever reads `path` finds the old file or the new one, after a power cut too. `write` may read what it
    has flushed from the file's `name`; where it raises, `path` is untouched and nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # else the new name could survive a power cut, and the bytes not
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
