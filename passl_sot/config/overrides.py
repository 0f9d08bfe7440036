"""Command-line overrides: `a.b.0.c=value`, and `+a.b=value` for a key that does not exist yet."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from passl_sot.config.errors import (
    COMMAND_LINE,
    ConfigError,
    Fault,
    Origin,
    did_you_mean,
    join_path,
    number_of,
    show,
)
from passl_sot.config.schema import catalog_at
from passl_sot.config.signature import Signature
from passl_sot.config.tree import suggest_path
from passl_sot.config.yaml_text import MAX_DEPTH, Builder

_HERE = Origin(COMMAND_LINE)


@dataclass(frozen=True)
class _Override:
    path: str
    parts: tuple[str, ...]  # of the path
    value: Any
    origins: dict[str, Origin]  # of the value and all inside
    add: bool  # whether it may add keys


def apply_overrides(
    tree: dict[str, Any],
    origins: dict[str, Origin],
    texts: Iterable[str],
    schema: type | None,
    faults: list[Fault],
) -> list[str]:
    """Changes a tree in place, references still unresolved; adds the faults of single overrides to `faults`.

    A schema will judge keys that do not exist; without one they are only accepted directly below a node with
    a `name`.

    Returns:
        Lines on settings that a changed `name` has dropped from a node that keeps the others.
    """
    dropped: list[str] = []
    overrides = []
    for text in texts:
        try:
            overrides.append(_parse(text))
        except ConfigError as err:
            faults += err.faults
    for override in _names_first(overrides):
        try:
            _apply(tree, origins, override, schema, dropped)
        except ConfigError as err:
            faults += err.faults
    return dropped


def _parse(text: str) -> _Override:
    """Splits at the first "=" and reads the value as YAML."""
    key, equals, source = text.partition("=")
    path = key.removeprefix("+").strip()
    if not equals:
        raise _refusal("", f"the override {show(text)} is not of the form key=value")
    parts = tuple(path.split("."))
    if not all(parts) or len(parts) > MAX_DEPTH // 2:
        raise _refusal("", f"the override {show(text)} has no proper dotted path before '='")
    if parts[0] == "_base_":
        raise _refusal(path, "'_base_' cannot be overridden; write a file that names the bases")
    try:
        built = Builder(source, COMMAND_LINE, path)
    except ConfigError as err:
        # The line is the command's own, so it is not shown a second time.
        problem = err.faults[0].message.partition("; the line reads")[0]
        raise _refusal(path, f"the value {show(source)}: {problem}") from None
    for fault in built.faults:
        raise _refusal(fault.path, f"in the value {show(source)}: {fault.message}")
    return _Override(path, parts, built.value, {path: _HERE, **built.origins}, key.startswith("+"))


def _names_first(overrides: list[_Override]) -> list[_Override]:
    """Moves a changed `name` before the overrides inside its node, which are meant for the new node.

    It stays behind the overrides that set that node, or a section around it, as a whole.
    """
    ordered: list[_Override] = []
    for override in overrides:
        position = len(ordered)
        if override.parts[-1] == "name":
            home = override.parts[:-1]
            for index in reversed(range(len(ordered))):
                other = ordered[index].parts
                if home[: len(other)] == other or other == override.parts:
                    break
                if other[: len(home)] == home:
                    position = index
        ordered.insert(position, override)
    return ordered


def _apply(
    tree: dict[str, Any],
    origins: dict[str, Origin],
    override: _Override,
    schema: type | None,
    dropped: list[str],
) -> None:
    may_add = override.add or schema is not None
    node: Any = tree
    place = ""
    *sections, last = override.parts
    for part in sections:
        key: Any = part
        if not isinstance(node, dict):
            key = _index(node, part, place, override, append=False)
        elif part not in node:
            if not may_add:
                raise _unknown(tree, override)
            node[part] = None
        place = join_path(place, key)
        if node[key] is None:
            if not may_add:
                message = f"'{place}' is null ({origins[place]}); '+{override.path}=...' makes a section"
                raise _refusal(override.path, message)
            node[key] = {}
            origins[place] = _HERE
        node = node[key]
    # The top level has no constructor that its name could choose, or that could judge its keys.
    named = node is not tree and isinstance(node, dict) and "name" in node
    if not isinstance(node, dict):
        index = _index(node, last, place, override, append=override.add)
        node[index : index + 1] = [override.value]
    elif last in node or may_add or named:
        if last == "name" and named and node["name"] != override.value:
            gone = _rename(node, override.value, catalog_at(schema, sections))
            if gone:
                dropped.append(f"{place}: {override.value} takes no {', '.join(gone)}: left out")
        node[last] = override.value
    else:
        raise _unknown(tree, override)
    origins.update(override.origins)


def _rename(node: dict[str, Any], name: Any, catalog: Any) -> list[str]:
    """Empties a node for another class; where its registry is `alike`, only of what that class doesn't take.

    Returns:
        The keys gone, in the second case.
    """
    target = catalog.find(name) if catalog is not None and catalog.alike and isinstance(name, str) else None
    if target is None:
        node.clear()
        return []
    gone = [key for key in node if key != "name" and key not in Signature.of(target).hints]
    for key in gone:
        del node[key]
    return gone


def _index(node: Any, part: str, place: str, override: _Override, append: bool) -> int:
    """The list index that a part of an override's path means; with `append`, one behind the last will do."""
    if isinstance(node, list) and part in map(str, range(len(node) + append)):
        return int(part)
    if isinstance(node, list) and not part.isdecimal():
        message = f"'{place}' is a list of {len(node)}; its items are '{place}.0' and so on"
    elif isinstance(node, list):
        message = f"'{place}' has {number_of(node, 'item')}"
        if node:
            message += f"; the last is '{place}.{len(node) - 1}'"
        if override.path == f"{place}.{len(node)}":
            message += f"; '+{override.path}=...' appends"
    elif isinstance(node, str) and node.startswith("${"):
        target = node.strip("${}")
        message = f"'{place}' is a reference to '{target}'; override '{target}' or all of '{place}'"
    else:
        message = f"'{place}' is {show(node)}, which has nothing inside"
    raise _refusal(override.path, message)


def _unknown(tree: dict[str, Any], override: _Override) -> ConfigError:
    near = suggest_path(tree, override.path)
    hint = did_you_mean(near) or f"; the top level has {', '.join(tree)}"
    message = f"there is no such key{hint} ('+{override.path}=...' adds one)"
    return _refusal(override.path, message, near)


def _refusal(path: str, message: str, near: str | None = None) -> ConfigError:
    return ConfigError([Fault(path, message, _HERE, "override", near)])
