"""Faults of a configuration, with their places, the nearest valid names, and the words for values."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from passl_sot.config.chinese import summary

COMMAND_LINE = "command line"


class UserError(Exception):
    """Ends a command with its message alone, without a traceback."""

    status: ClassVar[int] = 2  # exit status of the command


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    file: str  # path as the user gave it, or "command line"
    line: int | None = None  # from 1; None for the command line

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line) if part)


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a configuration."""

    path: str  # dotted path of the key ("model.head.num_classes"); "" for the file as a whole
    message: str  # the fault and its cure
    origin: Origin | None = None  # where it was written, if known
    kind: str = ""  # the sort of fault in one word, a key of `kinds` in chinese.yaml
    suggestion: str | None = None  # the nearest valid name, if there is one

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.origin or ""), self.path, self.message) if part)


class ConfigError(UserError, ValueError):
    """All faults of a configuration at once; `str()` lists them, and ends with a line in Chinese.

    Args:
        faults: Each with the place where it was written, where that is known.
    """

    def __init__(self, faults: Sequence[Fault]):
        # The faults themselves are the exception's argument, so that the error survives pickling.
        super().__init__(list(faults))
        self.faults: list[Fault] = list(faults)

    def __str__(self) -> str:
        kinds = [fault.kind for fault in self.faults]
        meant = [fault.suggestion for fault in self.faults if fault.suggestion]
        lines = [f"{number_of(self.faults, 'fault')} in the configuration:", *map(str, self.faults)]
        return "\n".join([*lines, summary(kinds, meant)]).rstrip("\n")


class RegistryError(UserError, ValueError):
    """A wrong registration, an unknown name, or a module of a registry that cannot be imported."""


def show(value: object, limit: int = 60) -> str:
    """A value as a reader of YAML knows it, on one line and not too long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(map(show, value)) + "]"
    else:
        text = repr(value)
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return text


def number_of(things: Sequence[object], noun: str) -> str:
    """A count with its noun: "1 fault", "3 faults"."""
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def join_path(path: str, key: object) -> str:
    """`path` extended by one key or list index."""
    return f"{path}.{key}" if path else str(key)


def listing(names: Iterable[str], limit: int = 20) -> str:
    """Names with commas; beyond `limit` only how many more there are."""
    every = list(names)
    more = f" and {len(every) - limit} more" * (len(every) > limit)
    return ", ".join(every[:limit]) + more


def nearest(word: object, candidates: Iterable[object], cutoff: float = 0.6) -> str | None:
    """The candidate most likely meant by `word`, or None when none is near; only texts are."""
    plain = _plain(word) if isinstance(word, str) else ""

    def score(name: str) -> float:
        if _plain(name) == plain:
            return 3.0
        # Initials: "bs" for "batch_size".
        if len(_parts(name)) > 1 and "".join(part[0] for part in _parts(name)).lower() == plain:
            return 2.0
        return difflib.SequenceMatcher(None, plain, _plain(name)).ratio()

    scores = {name: score(name) for name in candidates if plain and isinstance(name, str) and name != word}
    best = max(scores, key=scores.__getitem__, default="")
    return best if scores.get(best, 0.0) >= cutoff else None


def same_letters(a: str, b: str) -> bool:
    """Whether two names are equal apart from case, underscores and hyphens."""
    return _plain(a) == _plain(b)


def did_you_mean(name: str | None) -> str:
    """The tail of a message: "; did you mean 'x'?", or nothing."""
    return f"; did you mean '{name}'?" if name else ""


def _plain(word: str) -> str:
    return "".join(_parts(word)).casefold()


def _parts(word: str) -> list[str]:
    return [part for part in re.split(r"[_\-\s]+", word) if part]
