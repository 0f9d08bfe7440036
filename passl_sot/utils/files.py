"""Files that are written whole or not at all."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def replace_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file under a temporary name beside `path`, and gives it that name once the disk has it.

    `write` may read back what it has written. Whatever fails, a file that stood at `path` stays.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(handle, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(handle)  # else a power cut may leave a renamed file without contents
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
