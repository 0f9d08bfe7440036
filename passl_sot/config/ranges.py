"""Which values an argument takes beyond its type: notes in `Annotated`, checked with the schema.

`depth: Annotated[int, Range(min=1)]` (or `Count`, for short) makes a configuration's `depth: 0` a fault with
file and line, beside all others. Calls from Python are not checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from passl_sot.config.errors import show


class Rule:
    """A note in a type hint that judges values of the right type."""

    def complaint(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Range(Rule):
    """Bounds of a number; values that are no numbers (null, "auto") are not its business.

    Attributes:
        min: Smallest value.
        max: Largest value.
        above: Number that it must exceed.
        below: Number that it must stay under.
    """

    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None

    def complaint(self, value: Any) -> str | None:
        """As `Rule.complaint`."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        inside = (
            (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        return None if inside else f"must {self._words()}, got {show(value)}"

    def _words(self) -> str:
        low = self.min if self.above is None else self.above
        high = self.max if self.below is None else self.below
        if low is not None and high is not None:
            left, right = "[" if self.above is None else "(", "]" if self.below is None else ")"
            return f"lie in {left}{low}, {high}{right}"
        if low is not None:
            return f"be at least {low}" if self.above is None else f"be above {low}"
        return f"be at most {high}" if self.below is None else f"be below {high}"


@dataclass(frozen=True)
class NotEmpty(Rule):
    """Refuses an empty text and an empty list."""

    def complaint(self, value: Any) -> str | None:
        """As `Rule.complaint`."""
        empty = (isinstance(value, str) and not value.strip()) or (isinstance(value, list) and not value)
        return f"must not be empty, got {show(value)}" if empty else None


Count = Annotated[int, Range(min=1)]
Natural = Annotated[int, Range(min=0)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(min=0)]
UnitInterval = Annotated[float, Range(min=0, max=1)]
# A probability to drop something, or a decay: at 1 nothing would be left.
Share = Annotated[float, Range(min=0, below=1)]


def is_finite(value: float) -> bool:
    """Whether a number is one that a float can hold: not nan, not infinite, no integer beyond 1e308."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
