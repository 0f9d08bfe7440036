"""The nearest valid name to one that is not known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def nearest(word: object, candidates: Iterable[object], cutoff: float = 0.6) -> str | None:
    """The candidate most likely meant by `word`, or None when none is near; only texts are.

    Tried in turn: the same letters apart from case, underscores and hyphens; initials ("bs" for
    "batch_size"); the greatest similarity by `difflib`, at least `cutoff`.
    """
    names = {name: _plain(name) for name in candidates if isinstance(name, str) and name != word}
    if not isinstance(word, str) or not _plain(word):
        return None
    plain = _plain(word)
    for name in names:
        if names[name] == plain:
            return name
    for name in names:
        parts = _parts(name)
        if len(parts) > 1 and "".join(part[0] for part in parts).lower() == plain:
            return name
    scores = {name: difflib.SequenceMatcher(None, plain, names[name]).ratio() for name in names}
    best = max(scores, key=scores.__getitem__, default="")
    if scores.get(best, 0.0) < cutoff:
        return None
    return best


def same_stem(word: str, candidates: Iterable[str]) -> str | None:
    """The first candidate that shares the stem of every part of `word`: "iterations" and "num_iters".

    Two parts share a stem when one of them, without a final "s", begins the other, by at least 4 letters.
    """

    def share(part: str, other: str) -> bool:
        short, long = sorted((part.lower().removesuffix("s"), other.lower().removesuffix("s")), key=len)
        return short == long or (len(short) >= 4 and long.startswith(short))

    for name in candidates:
        if _parts(word) and all(any(share(a, b) for b in _parts(name)) for a in _parts(word)):
            return name
    return None


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
