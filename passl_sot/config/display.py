"""A configuration for the eye: the tree with the origin of each value, and differences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from passl_sot.config.errors import Origin, join_path
from passl_sot.config.tree import Config
from passl_sot.config.yaml_text import dump_yaml


def format_tree(cfg: Mapping[str, Any]) -> str:
    """A resolved configuration as YAML that loads back, with its origins as comments in an aligned column."""
    lines = dump_yaml(cfg).rstrip("\n").split("\n")
    width = min(max(map(len, lines)), 80)
    # Only a key of several lines or very many letters takes two lines.
    rows = itertools.zip_longest(lines, itertools.islice(_line_origins(cfg), len(lines)))
    return "\n".join(f"{text:<{width}}  # {place}" if place else text for text, place in rows)


def _line_origins(value: Any) -> Iterator[Origin | None]:
    """The origin to stand behind each line of a value's YAML, or None."""
    for key in value if isinstance(value, dict) else range(len(value)):
        block = _is_block(value[key])
        # The first line of an item of a list stands behind its dash.
        if isinstance(value, dict) or not block:
            yield (isinstance(value, Config) and not block and value.origin_of(key)) or None
        if block:
            yield from _line_origins(value[key])


def diff(cfg_a: Mapping[str, Any], cfg_b: Mapping[str, Any]) -> str:
    """The lines of `differences` as one text; "" when the two are equal."""
    return "\n".join(differences(cfg_a, cfg_b).values())


def differences(cfg_a: Mapping[str, Any], cfg_b: Mapping[str, Any]) -> dict[str, str]:
    """The differences between two configurations in the order of the files, by dotted path.

    Returns:
        Lines "~ path: old -> new", "- path: old" (only in `cfg_a`), "+ path: new" (only in `cfg_b`).
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
    for key in cfg if isinstance(cfg, dict) else range(len(cfg)):
        found.update(leaves(cfg[key], join_path(path, key)))
    return found


def inline(value: Any) -> str:
    """A value as YAML on one line."""
    return dump_yaml({"": value}).partition(":")[2].strip()


def _is_block(value: Any) -> bool:
    """Whether a value takes lines of its own: a section, or a list of sections or lists."""
    if isinstance(value, dict):
        return bool(value)
    return isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list, tuple)) for item in value)
