"""Command-line overrides: `a.b.0.c=value`, and `+a.b=value` for a key that does not exist yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from passl_sot.config.errors import COMMAND_LINE, ConfigError, Fault, Origin, join_path, number_of, show
from passl_sot.config.suggest import did_you_mean
from passl_sot.config.tree import Node, suggest_path
from passl_sot.config.tree_builder import Builder
from passl_sot.config.yaml_text import MAX_DEPTH, compose_text

_HERE = Origin(COMMAND_LINE)


@dataclass(frozen=True)
class Override:
    """One parsed override."""

    path: str
    parts: tuple[str, ...]  # of the path
    node: Node
    add: bool  # whether it may add keys


def apply_overrides(root: Node, texts: Iterable[str], free: bool, faults: list[Fault]) -> None:
    """Changes a tree in place, references still unresolved; adds the faults of single overrides to `faults`.

    With `free`, a schema will judge keys that do not exist; otherwise they are only accepted directly below a
    node with a `name`.
    """
    overrides = []
    for text in texts:
        try:
            overrides.append(parse_override(text))
        except ConfigError as err:
            faults += err.faults
    for override in _names_first(overrides):
        try:
            _apply(root, override, free)
        except ConfigError as err:
            faults += err.faults


def parse_override(text: str) -> Override:
    """Splits at the first "=" and reads the value as YAML; a ConfigError tells of a malformed text."""
    if not isinstance(text, str):
        raise TypeError(f"an override is a text such as 'epochs=10', not {text!r}")
    key, equals, source = text.partition("=")
    path = key.removeprefix("+").strip()
    if not equals:
        raise _refusal("", f"the override {show(text)} is not of the form key=value")
    parts = tuple(path.split("."))
    if not all(parts) or len(parts) > MAX_DEPTH // 2:
        raise _refusal("", f"the override {show(text)} has no proper dotted path before '='")
    if parts[0] == "_base_":
        raise _refusal(path, "'_base_' cannot be overridden; write a file that names the bases")
    faults: list[Fault] = []
    node = Node(None, _HERE)
    try:
        composed = compose_text(source, COMMAND_LINE)
        if composed is not None:
            node = Builder(COMMAND_LINE, faults).build(composed, path)
    except ConfigError as err:
        # The line is the command's own, so it is not shown a second time.
        problem = err.faults[0].message.partition("; the line reads")[0]
        raise _refusal(path, f"the value {show(source)}: {problem}") from None
    if faults:
        raise _refusal(faults[0].path, f"in the value {show(source)}: {faults[0].message}")
    return Override(path, parts, node, key.startswith("+"))


def _names_first(overrides: list[Override]) -> list[Override]:
    """Moves a changed `name` before the overrides inside its node, which are meant for the new node.

    It stays behind the overrides that set that node, or a section around it, as a whole.
    """
    ordered: list[Override] = []
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


def _apply(root: Node, override: Override, free: bool) -> None:
    node = root
    place = ""
    may_add = override.add or free
    for part in override.parts[:-1]:
        if not isinstance(node.value, dict):
            node = node.value[_index(node, part, place, override, append=False)]
            if node.value is None and may_add:
                node.value = {}
        elif may_add and (part not in node.value or node.value[part].value is None):
            node.value[part] = Node({}, _HERE)
            node = node.value[part]
        elif part not in node.value:
            raise _unknown(root, override)
        elif node.value[part].value is None:
            home = override.path.rpartition(".")[0]
            message = f"'{home}' is null ({node.value[part].origin}); '+{override.path}=...' makes a section"
            raise _refusal(override.path, message)
        else:
            node = node.value[part]
        place = join_path(place, part)
    last = override.parts[-1]
    if not isinstance(node.value, dict):
        index = _index(node, last, place, override, append=override.add)
        node.value[index : index + 1] = [override.node]
        return
    # Below a named node the constructor will judge the key; the top level has no constructor to do so.
    named = "name" in node.value and node is not root
    if last not in node.value and not (may_add or named):
        raise _unknown(root, override)
    if last == "name" and named and node.value[last].value != override.node.value:
        node.value.clear()
    node.value[last] = override.node


def _index(node: Node, part: str, place: str, override: Override, append: bool) -> int:
    """The list index that a part of an override's path means; with `append`, one behind the last will do."""
    items = node.value
    if isinstance(items, list) and part.isdecimal() and int(part) < len(items) + append:
        return int(part)
    if isinstance(items, list) and not part.isdecimal():
        message = f"'{place}' is a list of {len(items)}; its items are '{place}.0' and so on"
    elif isinstance(items, list):
        message = f"'{place}' is an empty list"
        if items:
            last = join_path(place, len(items) - 1)
            message = f"'{place}' has {number_of(items, 'item')}; the last is '{last}'"
        if int(part) == len(items) and place == override.path.rpartition(".")[0]:
            message += f"; '+{override.path}=...' appends"
    elif isinstance(items, str) and items.startswith("${"):
        target = items.strip("${}")
        message = f"'{place}' is a reference to '{target}'; override '{target}' or all of '{place}'"
    else:
        message = f"'{place}' is {show(items)}, which has nothing inside"
    raise _refusal(override.path, message)


def _unknown(root: Node, override: Override) -> ConfigError:
    near = suggest_path(root, override.path)
    hint = did_you_mean(near) or f"; the top level has {', '.join(root.value)}"
    message = f"there is no such key{hint} ('+{override.path}=...' adds one)"
    return _refusal(override.path, message, near)


def _refusal(path: str, message: str, near: str | None = None) -> ConfigError:
    return ConfigError([Fault(path, message, _HERE, "override", near)])
