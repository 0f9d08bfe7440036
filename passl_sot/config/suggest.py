"""The nearest valid name to one that is not known."""

import difflib
import re
from collections.abc import Iterable


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
