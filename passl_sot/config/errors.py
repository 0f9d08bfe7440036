"""Faults of a configuration: their places, their messages, and the nearest valid names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from passl_sot.config.chinese import summary

COMMAND_LINE = "command line"


class UserError(Exception):
    """Ends a command with its message alone, without a traceback.

    Attributes:
        status: Exit status of the command.
    """

    status: ClassVar[int] = 2


class _Broken:
    """Stands for the value of a broken reference until all faults have been found."""

    def __repr__(self) -> str:
        return "(broken reference)"


BROKEN = _Broken()


@dataclass(frozen=True)
class Origin:
    """Where a value was written.

    Attributes:
        file: Path as the user gave it, or "command line".
        line: Line number from 1; None for the command line.
    """

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a configuration.

    Attributes:
        path: Dotted path of the key ("model.head.num_classes"); "" for the file as a whole.
        message: The fault and its cure.
        origin: Where it was written, if known.
        kind: One word for the sort of fault: unknown, missing, type, choice, name, value, file, yaml,
            duplicate, base, reference, override.
        suggestion: The nearest valid name, if there is one.
    """

    path: str
    message: str
    origin: Origin | None = None
    kind: str = ""
    suggestion: str | None = None

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.origin or ""), self.path, self.message) if part)


class ConfigError(UserError, ValueError):
    """All faults of a configuration at once.

    Args:
        faults: At least one fault; `str()` of the error counts them, lists them one to a line, and ends
            with one line in Chinese.
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


def nearest(word: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The candidate most likely meant by `word`, or None when none is near.

    Tried in turn: the same letters apart from case, underscores and hyphens; initials ("bs" for
    "batch_size"); the greatest similarity by `difflib`, at least `cutoff`.
    """
    names = [name for name in dict.fromkeys(candidates) if name != word]
    plain = _plain(word)
    if not plain:
        return None
    for name in names:
        if _plain(name) == plain:
            return name
    for name in names:
        parts = _parts(name)
        if len(parts) > 1 and "".join(part[0] for part in parts).lower() == plain:
            return name
    scored = [(difflib.SequenceMatcher(None, plain, _plain(name)).ratio(), name) for name in names]
    best = max(scored, key=lambda pair: pair[0], default=(0.0, ""))
    return best[1] if best[0] >= cutoff else None


def same_stem(word: str, candidates: Iterable[str]) -> str | None:
    """The first candidate that shares the stem of every part of `word`: "iterations" and "num_iters".

    Two parts share a stem when one of them, without a final "s", begins the other, by at least 4 letters.
    """
    parts = _stems(word)
    for name in candidates:
        others = _stems(name)
        if parts and all(any(_begins(part, other) for other in others) for part in parts):
            return name
    return None


def _parts(word: str) -> list[str]:
    return [part for part in re.split(r"[_\-\s]+", word) if part]


def _stems(word: str) -> list[str]:
    return [part.lower().removesuffix("s") for part in _parts(word)]


def _begins(a: str, b: str) -> bool:
    return a == b or (min(len(a), len(b)) >= 4 and (a.startswith(b) or b.startswith(a)))


def same_letters(a: str, b: str) -> bool:
    """Whether two names are equal apart from case, underscores and hyphens."""
    return _plain(a) == _plain(b)


def _plain(word: str) -> str:
    return re.sub(r"[_\-\s]", "", word).casefold()


def did_you_mean(name: str | None) -> str:
    """The tail of a message: "; did you mean 'x'?", or nothing."""
    return f"; did you mean '{name}'?" if name else ""


def show(value: object, limit: int = 60) -> str:
    """A value as a reader of YAML knows it, on one line and not too long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(show(item) for item in value) + "]"
    else:
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def number_of(things: Sequence[object], noun: str) -> str:
    """A count with its noun: "1 fault", "3 faults"."""
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def join_path(path: str, key: object) -> str:
    """`path` extended by one key or list index."""
    return f"{path}.{key}" if path else str(key)


def listing(names: Iterable[str], limit: int = 20) -> str:
    """Names with commas; beyond `limit` only how many more there are."""
    every = list(names)
    text = ", ".join(every[:limit])
    return text if len(every) <= limit else f"{text} and {len(every) - limit} more"
