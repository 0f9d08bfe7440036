"""A configuration for the eye: the tree with the origin of each value, and differences."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from passl_sot.config.errors import Origin
from passl_sot.config.tree import Config, walk
from passl_sot.config.yaml_text import dump_yaml, is_block


def format_tree(cfg: Mapping[str, Any]) -> str:
    """A resolved configuration as YAML that loads back, with its origins as comments in an aligned column."""
    lines = dump_yaml(cfg).rstrip("\n").split("\n")
    width = min(max(map(len, lines)), 80)
    # Only a key of several lines or very many letters takes two lines.
    rows = itertools.zip_longest(lines, itertools.islice(_line_origins(cfg), len(lines)))
    return "\n".join(f"{text:<{width}}  # {place}" if place else text for text, place in rows)


def _line_origins(cfg: Mapping[str, Any]) -> Iterator[Origin | None]:
    """The origin to stand behind each line of YAML, or None."""
    for _, parent, key in walk(cfg):
        block = is_block(parent[key])
        if isinstance(parent, Config) and not block:
            yield parent.origin_of(key)
        # The first line of an item of a list stands behind its dash.
        elif isinstance(parent, dict) or not block:
            yield None


def diff(cfg_a: Mapping[str, Any], cfg_b: Mapping[str, Any]) -> str:
    """The lines of `differences` as one text; "" when the two are equal."""
    return "\n".join(differences(cfg_a, cfg_b).values())


def differences(cfg_a: Mapping[str, Any], cfg_b: Mapping[str, Any]) -> dict[str, str]:
    """The differences between two configurations in the order of the files, by dotted path.

    Returns:
        Lines "~ path: old -> new", "- path: old" (only in `cfg_a`), "+ path: new" (only in `cfg_b`).
    """
    a = texts(cfg_a)
    b = texts(cfg_b)
    lines = {}
    for place in {**a, **b}:
        if place not in b:
            lines[place] = f"- {place}: {a[place]}"
        elif place not in a:
            lines[place] = f"+ {place}: {b[place]}"
        elif a[place] != b[place]:
            lines[place] = f"~ {place}: {a[place]} -> {b[place]}"
    return lines


def texts(cfg: Mapping[str, Any]) -> dict[str, str]:
    """Every value as YAML on one line, by its dotted path."""
    # These differ where values that are equal to Python do: true and 1, 1 and 1.0.
    return {place: _inline(value) for place, value in leaves(cfg).items()}


def leaves(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Every value by its dotted path; lists of scalars and empty sections count as values."""
    return {place: parent[key] for place, parent, key in walk(cfg) if not is_block(parent[key])}


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    return dump_yaml({"": value}).partition(":")[2].strip()
