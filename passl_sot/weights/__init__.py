"""Files of weights: reading what others wrote without running any of it. NumPy only."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from passl_sot.config import UserError


class CheckpointError(UserError, ValueError):
    """A file of weights can't be written or read; the message names the file and the cure."""


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """A block that reads a file, whose errors begin with "it ..." or a place in it; they get the file's name.

    Raises:
        CheckpointError: As in the block; or the system can't read the file.
    """
    try:
        yield
    except CheckpointError as error:
        text = str(error)
        if str(path) in text:
            raise
        link = " " if text.startswith("it ") else ": "
        raise CheckpointError(f"{path}{link}{text.removeprefix('it ')}") from error
    except OSError as error:
        raise CheckpointError(f"can't read {path}: {error.strerror or error}") from error
