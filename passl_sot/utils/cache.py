"""The folder of things that can be made anew: converted weights, exported models, measured speeds."""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from passl_sot.utils.files import replace_atomically
from passl_sot.utils.logger import get_logger
from passl_sot.version import __version__

HOME = "PASSL_SOT_HOME"


def cache_folder() -> Path:
    """The folder that the environment variable PASSL_SOT_HOME names; by default ~/.cache/passl_sot."""
    return Path(os.environ.get(HOME) or "~/.cache/passl_sot").expanduser()


@contextmanager
def locked(folder: Path, doing: str = "") -> Iterator[None]:
    """A block in a folder that one process at a time is in; one that is killed holds nobody up.

    Args:
        folder: Made where it isn't there.
        doing: What the process does that others wait for, for a line of the log; "" for none.

    Raises:
        OSError: The folder can't be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if doing:
                get_logger().info("waiting for the process that %s", doing)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def versions_of(packages: Iterable[str]) -> list[str]:
    """Versions of the packages that are installed, in their order, and of this project."""
    found = [f"{d.name} {d.version}" for package in packages for d in metadata.distributions(name=package)]
    return list(dict.fromkeys([*found, f"passl_sot {__version__}"]))


def keep_note(file: Path, found: dict[str, Any]) -> None:
    """Writes what was found out to a file for `kept_note`, whole or not at all."""
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    replace_atomically(file, lambda opened: opened.write(text.encode()))


def kept_note(file: Path, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """What was found out before; None where nothing was, or it can't be read.

    Args:
        fits: Whether it is what it should be; it may fail over what isn't.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if fits(found):
            return found
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass
    return None
