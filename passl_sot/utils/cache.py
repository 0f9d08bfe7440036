"""The folder of things that can be made anew: converted weights, exported models, measured speeds."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOME = "PASSL_SOT_HOME"


def cache_folder() -> Path:
    """The folder that the environment variable PASSL_SOT_HOME names; by default ~/.cache/passl_sot."""
    return Path(os.environ.get(HOME) or "~/.cache/passl_sot").expanduser()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A block in a folder that one process at a time is in; one that is killed holds nobody up.

    Raises:
        OSError: The folder can't be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
