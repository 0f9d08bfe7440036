"""A configuration for the eye: the tree with the origin of each value, and differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from passl_sot.config.errors import Origin, join_path
from passl_sot.config.tree import Config
from passl_sot.config.yaml_text import dump_yaml

_Rows = Iterator[tuple[str, Origin | None]]


def format_tree(cfg: Mapping[str, Any], *, origins: bool = True) -> str:
    """The configuration as YAML, with the origin of each value as a comment in an aligned column.

    The text is YAML that loads back to an equal configuration.

    Args:
        cfg: A resolved configuration.
        origins: Whether to add the column.
    """
    rows = list(_mapping_rows(cfg, ""))
    width = min(max((len(text) for text, _ in rows), default=0), 80)
    lines = [f"{text:<{width}}  # {place}" if origins and place else text for text, place in rows]
    return "\n".join(line.rstrip() for line in lines) or "{}"


def diff(cfg_a: Mapping[str, Any], cfg_b: Mapping[str, Any]) -> str:
    """The differences between two configurations, one dotted path to a line, as `differences` words them.

    Returns:
        The lines; "" when they are equal.
    """
    return "\n".join(differences(cfg_a, cfg_b).values())


def differences(cfg_a: Mapping[str, Any], cfg_b: Mapping[str, Any]) -> dict[str, str]:
    """The differences between two configurations, by dotted path.

    Returns:
        Lines "~ path: old -> new", "- path: old" (only in `cfg_a`), "+ path: new" (only in `cfg_b`), in the
        order of the files.
    """
    a = leaves(cfg_a)
    b = leaves(cfg_b)
    lines = {}
    for place in {**a, **b}:
        if place not in b:
            lines[place] = f"- {place}: {inline(a[place])}"
        elif place not in a:
            lines[place] = f"+ {place}: {inline(b[place])}"
        # The texts differ where values that are equal to Python do: true and 1, 1 and 1.0.
        elif inline(a[place]) != inline(b[place]):
            lines[place] = f"~ {place}: {inline(a[place])} -> {inline(b[place])}"
    return lines


def leaves(cfg: Any, path: str = "") -> dict[str, Any]:
    """Every value by its dotted path; lists of scalars and empty sections count as values."""
    if not _is_block(cfg):
        return {path: cfg} if path else {}
    found = {}
    for key, item in cfg.items() if isinstance(cfg, dict) else enumerate(cfg):
        found.update(leaves(item, join_path(path, key)))
    return found


def inline(value: Any) -> str:
    """A value as YAML on one line."""
    return dump_yaml({"": value}).partition(":")[2].strip()


def _inline_key(key: str) -> str:
    """A key as YAML; unlike a value it is written as it is, `${` included."""
    return inline(key.replace("${", "\0")).replace("\\0", "${") if "${" in key else inline(key)


def _is_block(value: Any) -> bool:
    """Whether a value takes lines of its own: a section, or a list of sections or lists."""
    if isinstance(value, dict):
        return bool(value)
    return isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list, tuple)) for item in value)


def _mapping_rows(section: Mapping[str, Any], indent: str) -> _Rows:
    for key, item in section.items():
        label = f"{indent}{_inline_key(key)}:"
        if isinstance(item, dict) and item:
            yield label, None
            yield from _mapping_rows(item, indent + "  ")
        elif _is_block(item):
            yield label, None
            yield from _list_rows(item, indent + "  ")
        else:
            yield f"{label} {inline(item)}", section.origin_of(key) if isinstance(section, Config) else None


def _list_rows(items: Any, indent: str) -> _Rows:
    for item in items:
        if not _is_block(item):
            yield f"{indent}- {inline(item)}", None
            continue
        inner = _mapping_rows if isinstance(item, dict) else _list_rows
        # The first row of a block stands behind its item's dash.
        dash = f"{indent}- "
        for text, place in inner(item, indent + "  "):
            yield dash + text[len(dash) :], place
            dash = indent + "  "
