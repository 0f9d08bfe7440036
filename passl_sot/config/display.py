"""A configuration for the eye: the tree with the origin of each value, flat lines, and differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from passl_sot.config.errors import Origin, join_path
from passl_sot.config.tree import Config
from passl_sot.config.yaml_text import dump_yaml


def format_tree(cfg: Mapping[str, Any], *, origins: bool = True) -> str:
    """The configuration as YAML, with the origin of each value as a comment in an aligned column.

    The text is YAML that loads back to an equal configuration.

    Args:
        cfg: A resolved configuration.
        origins: Whether to add the column.
    """
    rows = list(_tree_rows(cfg, 0))
    if not rows:
        return "{}"
    width = min(max(len(text) for text, _ in rows), 80)
    lines = [f"{text:<{width}}  # {place}" if origins and place else text for text, place in rows]
    return "\n".join(line.rstrip() for line in lines)


def explain(cfg: Mapping[str, Any], path: str = "") -> str:
    """One line for each value: dotted path, value, origin, in aligned columns.

    Args:
        cfg: A resolved configuration.
        path: Only this value or section; "" for all.

    Returns:
        The lines; "" when there is nothing at `path`.
    """
    rows = [
        (place, inline(value), str(origin or "set in Python"))
        for place, value, origin in _leaves(cfg, "", None)
        if not path or place == path or place.startswith(path + ".")
    ]
    left = min(max((len(row[0]) for row in rows), default=0), 70)
    middle = min(max((len(row[1]) for row in rows), default=0), 50)
    return "\n".join(f"{place:<{left}} = {value:<{middle}}  {origin}" for place, value, origin in rows)


def diff(cfg_a: Mapping[str, Any], cfg_b: Mapping[str, Any]) -> str:
    """What differs between two configurations, one dotted path to a line, as `differences` says it.

    Returns:
        The lines; "" when they are equal.
    """
    return "\n".join(differences(cfg_a, cfg_b).values())


def differences(cfg_a: Mapping[str, Any], cfg_b: Mapping[str, Any]) -> dict[str, str]:
    """What differs between two configurations, by dotted path.

    Returns:
        Lines "~ path: old -> new", "- path: old" (only in `cfg_a`), "+ path: new" (only in `cfg_b`), in the
        order of the files.
    """
    a, b = leaves(cfg_a), leaves(cfg_b)
    lines = {}
    for place in [*a, *(place for place in b if place not in a)]:
        if place not in b:
            lines[place] = f"- {place}: {inline(a[place])}"
        elif place not in a:
            lines[place] = f"+ {place}: {inline(b[place])}"
        elif inline(a[place]) != inline(b[place]):
            lines[place] = f"~ {place}: {inline(a[place])} -> {inline(b[place])}"
    return lines


def leaves(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Every value by its dotted path; lists of scalars and empty sections count as values."""
    return {place: value for place, value, _ in _leaves(cfg, "", None)}


def inline(value: Any) -> str:
    """A value as YAML on one line."""
    return dump_yaml({"": value}).partition(":")[2].strip()


def _inline_key(key: str) -> str:
    """A key as YAML; unlike a value it is written as it is, `${` included."""
    return inline(key.replace("${", "\0")).replace("\\0", "${") if "${" in key else inline(key)


def _leaves(value: Any, path: str, origin: Origin | None) -> Any:
    """(dotted path, value, origin) of all values; lists of scalars and empty sections count as values."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, join_path(path, key), _origin(value, key) or origin)
    elif _is_block(value):
        for index, item in enumerate(value):
            yield from _leaves(item, join_path(path, index), _node_origin(item) or origin)
    elif path:
        yield path, value, origin


def _origin(node: Any, key: str) -> Origin | None:
    return node.origin_of(key) if isinstance(node, Config) else None


def _node_origin(node: Any) -> Origin | None:
    return node.node_origin() if isinstance(node, Config) else None


def _is_block(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list, tuple)) for item in value)


def _tree_rows(value: Any, depth: int) -> Any:
    indent = "  " * depth
    if isinstance(value, dict):
        for key, item in value.items():
            label = f"{indent}{_inline_key(key)}:"
            yield from _entry(label, item, _origin(value, key), depth + 1)
        return
    for item in value:
        if (isinstance(item, dict) and item) or _is_block(item):
            rows = list(_tree_rows(item, depth + 1))
            first, place = rows[0]
            yield f"{indent}- {first[len(indent) + 2 :]}", place
            yield from rows[1:]
        else:
            yield f"{indent}- {inline(item)}", _node_origin(item)


def _entry(label: str, item: Any, origin: Origin | None, depth: int) -> Any:
    if (isinstance(item, dict) and item) or _is_block(item):
        yield label, None
        yield from _tree_rows(item, depth)
    else:
        yield f"{label} {inline(item)}", origin
