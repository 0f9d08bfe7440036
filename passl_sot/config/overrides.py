"""Command-line overrides: `a.b.0.c=value`, and `+a.b=value` for what does not exist yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from passl_sot.config.errors import COMMAND_LINE, ConfigError, Fault, Origin, did_you_mean, join_path, show
from passl_sot.config.paths import is_index, suggest_path
from passl_sot.config.tree import Config
from passl_sot.config.tree_builder import Builder
from passl_sot.config.yaml_text import MAX_DEPTH, compose_text

_HERE = Origin(COMMAND_LINE)


@dataclass(frozen=True)
class Override:
    """One parsed override: path, value, and whether it may add keys."""

    parts: tuple[str, ...]
    value: Any
    add: bool

    @property
    def path(self) -> str:
        """The dotted path."""
        return ".".join(self.parts)


class _Refused(Exception):
    def __init__(self, path: str, message: str, near: str | None = None):
        super().__init__(message)
        self.fault = Fault(path, message, _HERE, "override", near)


def apply_overrides(config: Config, texts: Iterable[str], free: bool) -> list[Fault]:
    """Changes `config` in place.

    Args:
        config: The merged tree, references still unresolved.
        texts: "a.b=value" and "+a.b=value".
        free: Whether a schema will judge keys that do not exist; otherwise they are only accepted directly
            below a node with a `name`.

    Returns:
        Faults of single overrides; the others have been applied.
    """
    faults: list[Fault] = []
    parsed = []
    for text in texts:
        try:
            parsed.append(parse_override(text))
        except _Refused as err:
            faults.append(err.fault)
    for override in _names_first(parsed):
        try:
            _apply(config, override, free)
        except _Refused as err:
            faults.append(err.fault)
    return faults


def parse_override(text: str) -> Override:
    """Splits at the first "=" and reads the value as YAML."""
    if not isinstance(text, str):
        raise TypeError(f"an override is a text such as 'epochs=10', not {text!r}")
    key, equals, source = text.partition("=")
    add = key.startswith("+")
    key = key.removeprefix("+").strip()
    if not equals:
        raise _Refused("", f"the override {show(text)} is not of the form key=value")
    parts = tuple(key.split("."))
    if not all(parts) or len(parts) > MAX_DEPTH // 2:
        raise _Refused("", f"the override {show(text)} has no proper dotted path before '='")
    if parts[0] == "_base_":
        raise _Refused(key, "'_base_' cannot be overridden; write a file that names the bases")
    builder = Builder(COMMAND_LINE)
    try:
        node = compose_text(source, COMMAND_LINE)
        value = None if node is None else builder.value(node, key)
    except ConfigError as err:
        problem = err.faults[0].message.partition("; the line reads")[0]
        raise _Refused(key, f"the value {show(source)}: {problem}") from None
    if builder.faults:
        first = builder.faults[0]
        raise _Refused(first.path, f"in the value {show(source)}: {first.message}")
    return Override(parts, value, add)


def _names_first(overrides: list[Override]) -> list[Override]:
    """Moves a changed `name` before the overrides inside its node, which are meant for the new node.

    It stays behind what sets that node (or a section around it) as a whole.
    """
    ordered: list[Override] = []
    for override in overrides:
        position = len(ordered)
        if override.parts[-1] == "name":
            home = override.parts[:-1]
            start = 0
            for index, other in enumerate(ordered):
                if home[: len(other.parts)] == other.parts or other.parts == override.parts:
                    start = index + 1
            inside = [i for i in range(start, len(ordered)) if ordered[i].parts[: len(home)] == home]
            position = inside[0] if inside else position
        ordered.insert(position, override)
    return ordered


def _apply(config: Config, override: Override, free: bool) -> None:
    node: Any = config
    # Where the list that holds `node`, if any, is stored.
    owner, key, indices = config, "", tuple[int, ...]()
    for position, part in enumerate(override.parts[:-1]):
        place = ".".join(override.parts[:position])
        if isinstance(node, Config):
            if node.get(part) is None:
                _create_section(config, node, part, override, free)
            owner, key, indices = node, part, ()
            node = node[part]
        else:
            index = _index(node, part, place, config, override)
            if index == len(node):
                raise _Refused(override.path, _too_far(node, place))
            indices = (*indices, index)
            if node[index] is None and (override.add or free):
                node[index] = Config()
            node = node[index]
    last, place = override.parts[-1], ".".join(override.parts[:-1])
    if isinstance(node, Config):
        return _set_key(config, node, last, override, free)
    index = _index(node, last, place, config, override)
    if index == len(node):
        if not override.add:
            raise _Refused(override.path, _too_far(node, place) + f"; '+{override.path}=...' appends")
        node.append(override.value)
    else:
        node[index] = override.value
    owner.set_item_origin(key, (*indices, index), _HERE)


def _set_key(root: Config, node: Config, key: str, override: Override, free: bool) -> None:
    # Below a named node the constructor will judge the key; the top level has no constructor to do so.
    named = "name" in node and node is not root
    if key not in node and not (override.add or free or named):
        raise _unknown(root, override, override.path)
    if key == "name" and named and node["name"] != override.value:
        node.clear()
    node.set_with_origin(key, override.value, _HERE)


def _create_section(root: Config, node: Config, part: str, override: Override, free: bool) -> None:
    if not (override.add or free):
        if part in node:
            place = override.path[: override.path.rindex(".")]
            raise _Refused(
                override.path,
                f"'{place}' is null ({node.origin_of(part)}); '+{override.path}=...' makes a section",
            )
        raise _unknown(root, override, override.path)
    section = Config()
    section.place(_HERE, "")
    node.set_with_origin(part, section, _HERE)


def _unknown(root: Config, override: Override, path: str) -> _Refused:
    near = suggest_path(root, path)
    hint = did_you_mean(near) or f"; the top level has {', '.join(map(str, root))}"
    return _Refused(path, f"there is no such key{hint} ('+{override.path}=...' adds one)", near)


def _index(node: Any, part: str, place: str, root: Config, override: Override) -> int:
    if not isinstance(node, list):
        if isinstance(node, str) and node.startswith("${"):
            target = node.strip("${}")
            raise _Refused(
                override.path,
                f"'{place}' is a reference to '{target}'; override '{target}' or all of '{place}'",
            )
        raise _Refused(override.path, f"'{place}' is {show(node)}, which has nothing inside")
    if not is_index(part):
        raise _Refused(
            override.path, f"'{place}' is a list of {len(node)}; its items are '{place}.0' and so on"
        )
    if int(part) > len(node):
        raise _Refused(override.path, _too_far(node, place))
    return int(part)


def _too_far(node: list[Any], place: str) -> str:
    if not node:
        return f"'{place}' is an empty list"
    count = f"{len(node)} item{'s' if len(node) > 1 else ''}"
    return f"'{place}' has {count}; the last is '{join_path(place, len(node) - 1)}'"
