"""Reading configuration files: inheritance, references, overrides and the check against a schema."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from passl_sot.config.display import diff, explain, format_tree
from passl_sot.config.errors import ConfigError, Fault, Origin, join_path
from passl_sot.config.overrides import apply_overrides
from passl_sot.config.paths import origin_at
from passl_sot.config.references import resolve
from passl_sot.config.schema import check_section, construct, convert_arguments
from passl_sot.config.signature import Signature
from passl_sot.config.tree import Config
from passl_sot.config.tree_builder import load_file, load_text

_D = TypeVar("_D", bound="Document")

__all__ = [
    "Config",
    "ConfigError",
    "Document",
    "Fault",
    "Origin",
    "diff",
    "explain",
    "format_tree",
    "get_config",
    "load_config",
    "make_document",
    "parse_config",
]


class Document:
    """Base of a dataclass that describes a whole file: an instance keeps the tree it was made from."""

    _tree: Config

    def to_dict(self) -> dict[str, Any]:
        """The resolved file as plain dicts and lists: what is written there, without defaults."""
        return self._tree.to_dict()

    def dump(self) -> str:
        """The resolved file as YAML."""
        return self._tree.dump()

    def origin(self, path: str) -> Origin | None:
        """Where the value at a dotted path was written, or the section nearest to it that was."""
        return origin_at(self._tree, path)


def get_config(
    path: str | os.PathLike[str],
    overrides: Iterable[str] | None = (),
    *,
    schema: Callable[..., Any] | None = None,
    free: bool = False,
) -> Config:
    """Reads a YAML file with its bases, applies overrides and resolves references.

    `_base_: file` or `_base_: [files]` names files, relative to the one that names them, on which it is laid:
    mappings merge, lists and scalars replace, later files win, and a changed `name` replaces its whole node.
    `${dotted.path}` as a whole value stands for another value; `$${` is a literal `${`.

    Args:
        path: The file.
        overrides: "a.b.0.c=value" with the value in YAML. They change keys that exist, or that the schema
            (without one: the class of the named node they stand in) accepts; "+a.b=value" also makes
            sections that don't exist yet, appends to lists, and without a schema adds any key. A changed
            `name` replaces its node before the other overrides inside that node are applied.
        schema: Keyword-only dataclass or function that describes the whole file, which is then checked.
        free: Accept overrides of keys that the file doesn't have; `load_config` will judge them.

    Returns:
        The resolved tree; every value knows its origin.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    config, faults = _read(path, overrides, free=free or schema is not None)
    if schema is not None:
        faults += check_section(schema, config)
    if faults:
        raise ConfigError(faults)
    return config


def load_config(schema: type[_D], path: str | os.PathLike[str], overrides: Iterable[str] | None = ()) -> _D:
    """Reads a YAML file as `get_config` does, checks it once and gives it as an instance of its schema.

    Args:
        schema: Keyword-only dataclass, a `Document`, that describes the whole file.
        path: The file.
        overrides: As for `get_config`; the schema judges keys that don't exist.

    Returns:
        The instance: fixed sections are instances of their dataclasses; a node of a registry is a `Config`
        that its registry builds without a second check.

    Raises:
        ConfigError: Everything that is wrong, at once; or what the schema says against the values.
    """
    config, faults = _read(path, overrides, free=True)
    return _make_document(schema, config, faults)


def make_document(schema: type[_D], tree: Mapping[str, Any]) -> _D:
    """As `load_config`, for a tree that has been read before, such as a checkpoint's."""
    config = Config(copy.deepcopy(dict(tree)))
    place_all(config)
    return _make_document(schema, config, [])


def _make_document(schema: type[_D], config: Config, faults: list[Fault]) -> _D:
    # A test watches this line: one check of a whole document per command.
    logging.getLogger(__name__).debug("checking a whole document as %s", schema.__name__)
    faults = faults + check_section(schema, config)
    if faults:
        raise ConfigError(faults)
    document: _D = construct(schema, convert_arguments(Signature.of(schema), config), config)
    document._tree = config
    return document


def _read(
    path: str | os.PathLike[str], overrides: Iterable[str] | None, free: bool
) -> tuple[Config, list[Fault]]:
    if isinstance(overrides, str):
        raise TypeError("overrides is a list of texts, such as ['epochs=10'], not one text")
    raw, faults = load_file(os.fspath(path))
    faults += apply_overrides(raw, overrides or (), free=free)
    config, broken = resolve(raw)
    place_all(config)
    return config, faults + broken


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
