"""Reading configuration files: inheritance, references, overrides and the check against a schema."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from passl_sot.config.display import diff, explain, format_tree
from passl_sot.config.errors import ConfigError, Fault, Origin, join_path
from passl_sot.config.overrides import apply_overrides
from passl_sot.config.references import resolve
from passl_sot.config.schema import check_section
from passl_sot.config.tree import Config
from passl_sot.config.tree_builder import load_file, load_text

__all__ = [
    "Config",
    "ConfigError",
    "Fault",
    "Origin",
    "diff",
    "explain",
    "format_tree",
    "get_config",
    "parse_config",
]


def get_config(
    path: str | os.PathLike[str],
    overrides: Iterable[str] | None = (),
    *,
    schema: Callable[..., Any] | None = None,
) -> Config:
    """Reads a YAML file with its bases, applies overrides, resolves references and checks the result.

    `_base_: file` or `_base_: [files]` names files, relative to the one that names them, on which it is laid:
    mappings merge, lists and scalars replace, later files win, and a changed `name` replaces its whole node.
    `${dotted.path}` as a whole value stands for another value; `$${` is a literal `${`.

    Args:
        path: The file.
        overrides: "a.b.0.c=value" with the value in YAML. They change keys that exist, or that the schema
            (without one: the class of the named node they stand in) accepts; "+a.b=value" also makes
            sections that don't exist yet, appends to lists, and without a schema adds any key. A changed
            `name` replaces its node before the other overrides inside that node are applied.
        schema: Keyword-only dataclass or function that describes the whole file.

    Returns:
        The resolved tree; every value knows its origin.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    if isinstance(overrides, str):
        raise TypeError("overrides is a list of texts, such as ['epochs=10'], not one text")
    raw, faults = load_file(os.fspath(path))
    faults += apply_overrides(raw, overrides or (), free=schema is not None)
    config, broken = resolve(raw)
    faults += broken
    place_all(config)
    if schema is not None:
        faults += check_section(schema, config)
    if faults:
        raise ConfigError(faults)
    return config


def parse_config(text: str, file: str = "text") -> Config:
    """Reads a configuration from YAML text (without `_base_`), as `Config.dump` writes it.

    Args:
        text: YAML.
        file: Name for origins and messages.

    Raises:
        ConfigError: Everything that is wrong with the text, at once.
    """
    raw, faults = load_text(text, file)
    config, broken = resolve(raw)
    if faults or broken:
        raise ConfigError([*faults, *broken])
    place_all(config)
    return config


def place_all(value: Any, path: str = "") -> None:
    """Tells every section in a tree its dotted path."""
    if isinstance(value, Config):
        value.place(value.node_origin(), path)
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        place_all(item, join_path(path, key))
