"""Reads a file of another project key by key, and knows which keys nobody has asked for."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from passl_sot.config import Config, ConfigError, Fault, value_at
from passl_sot.config.tree import walk

_FRACTION = re.compile(r"\s*([0-9.]+)\s*/\s*([0-9.]+)\s*")


def number(value: Any) -> float:
    """A number, which PaddleClas's files may write as a fraction: "1.0/255.0"."""
    if not isinstance(value, str):
        return value + 0  # which no list and no mapping is fit for
    match = _FRACTION.fullmatch(value)
    if match:
        return float(match[1]) / float(match[2])
    return float(value)


class Reading:
    """A file in work: what has been taken from it, and what can't be said or differs.

    Attributes:
        config: The file as `get_config` reads it.
        notes: Lines "key: what differs".
    """

    def __init__(self, config: Config):
        self.config = config
        self.notes: list[str] = []
        self._faults: list[Fault] = []
        self._taken: set[str] = set()
        self._last = ""

    def take(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path, of which only this key itself counts as read."""
        self._taken.add(path)
        self._last = path
        value = value_at(self.config, path)
        return default if value is None else value

    def given(self, path: str, keys: Iterable[str]) -> dict[str, Any]:
        """Of the keys of a section those that the file has, with their values."""
        values = {key: self.take(f"{path}.{key}") for key in keys}
        return {key: value for key, value in values.items() if value is not None}

    def text(self, path: str, default: str | None = None) -> Any:
        """The text at a path; anything else ends the conversion, for much depends on it."""
        value = self.take(path, default)
        if not isinstance(value, str | None):
            raise self.misfit(TypeError("it must be text"))
        return value

    def number(self, path: str, default: float) -> float:
        """The number at a path; anything else is refused."""
        value = self.take(path, default)
        try:
            return number(value)
        except (TypeError, ValueError, ZeroDivisionError):
            self.refuse(path, f"{value!r} is no number")
            return default

    def take_all(self, path: str) -> None:
        """Leaves a section and all in it aside."""
        self._taken.add(f"{path}.*")

    def only(self, path: str, allowed: Sequence[Any], default: Any, why: str) -> Any:
        """The value at a path, which is refused unless it is one of a few."""
        value = self.take(path, default)
        if value not in allowed:
            self.refuse(path, f"{value!r} can't be said here: {why}")
        return value

    def items(self, path: str) -> list[tuple[str, str]]:
        """The names in a list of one-key mappings, PaddleClas's way to call operations, and their paths."""
        self._last = path
        found = value_at(self.config, path) or []
        calls = [(i, item) for i, item in enumerate(found) if isinstance(item, dict)]
        return [(name, f"{path}.{i}.{name}") for i, item in calls for name in item]

    def note(self, path: str, what: str) -> None:
        """Tells a difference that doesn't stop the conversion."""
        self.notes.append(f"{path}: {what}")

    def refuse(self, path: str, why: str) -> None:
        """Tells what can't be said."""
        self._faults.append(Fault(path, why, self.config.origin_near(path)))

    def misfit(self, error: Exception) -> ConfigError:
        """The error of a value, the one taken last, that nothing could be made of."""
        self.refuse(self._last, f"{value_at(self.config, self._last)!r} is of another kind ({error})")
        return ConfigError(self._faults)

    def finish(self) -> None:
        """Raises a ConfigError of all that was refused, and of every key that nobody has taken."""
        for path, parent, key in walk(self.config):
            above = [path[:end] for end in (m.start() for m in re.finditer(r"\.|$", path))]
            known = path in self._taken or any(f"{place}.*" in self._taken for place in above)
            if not known and not _is_section(parent[key]):
                self.refuse(path, f"{parent[key]!r} has no counterpart here")
        if self._faults:
            raise ConfigError(self._faults)


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(i, dict) for i in value))
