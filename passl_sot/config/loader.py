"""Reading configuration files: inheritance, overrides, references, and the check against a schema."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any, TypeVar

from passl_sot.config.errors import ConfigError, Fault, Origin
from passl_sot.config.overrides import apply_overrides
from passl_sot.config.schema import make_section
from passl_sot.config.tree import Config
from passl_sot.config.tree_builder import load_file, load_text, resolve

_D = TypeVar("_D", bound="Document")
_Path = str | os.PathLike[str]


class Document:
    """Base of a dataclass that describes a whole file: an instance keeps the tree it was made from."""

    _tree: Config

    def to_dict(self) -> dict[str, Any]:
        """The resolved file as plain dicts and lists, as it was written: without defaults."""
        return self._tree.to_dict()

    def dump(self) -> str:
        """The resolved file as YAML."""
        return self._tree.dump()

    def origin(self, path: str) -> Origin | None:
        """Where the value at a dotted path was written, or the section nearest to it that was."""
        return self._tree.origin_of(*path.split("."))


def get_config(path: _Path, overrides: Iterable[str] | None = (), *, free: bool = False) -> Config:
    """Reads a YAML file with its bases, applies overrides and resolves references.

    `_base_: file` or `_base_: [files]` names files, relative to the one that names them, on which it is laid:
    mappings merge, lists and scalars replace, later files win, and a changed `name` replaces its whole node.
    `${dotted.path}` as a whole value stands for another value; `$${` is a literal `${`.

    Args:
        path: The file.
        overrides: "a.b.0.c=value" with the value in YAML. They change keys that exist, or that the class of
            the named node they stand in accepts; "+a.b=value" also makes sections that don't exist yet,
            appends to lists, and adds any key. A changed `name` replaces its node before the other overrides
            inside that node are applied.
        free: Accept overrides of keys that the file doesn't have, as a later `load_config` will judge them.

    Returns:
        The resolved tree; every value knows its origin.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    faults: list[Fault] = []
    config = _read(path, overrides, free, faults)
    if faults:
        raise ConfigError(faults)
    return config


def load_config(schema: type[_D], path: _Path, overrides: Iterable[str] | None = ()) -> _D:
    """Reads a YAML file as `get_config` does, checks it once and gives it as an instance of its schema.

    Args:
        schema: Keyword-only dataclass, a `Document`, that describes the whole file. Its sections become
            instances too; a node of a registry becomes a `Config` that is built without a second check.
        path: The file.
        overrides: As for `get_config`; the schema judges keys that don't exist.

    Raises:
        ConfigError: Everything that is wrong, at once; or the schema's ValueError about the values.
    """
    faults: list[Fault] = []
    config = _read(path, overrides, True, faults)
    # Tests count these lines: a command checks one whole document once.
    logging.getLogger(__name__).debug("checking a whole document as %s", schema.__name__)
    document = make_section(schema, config, "", faults)
    document._tree = config
    return document


def parse_config(text: str, file: str = "text") -> Config:
    """Reads YAML text (without `_base_`), as `Config.dump` writes it; `file` names it in a ConfigError."""
    faults: list[Fault] = []
    config: Config = Config.of(resolve(load_text(text, file, faults), faults))
    if faults:
        raise ConfigError(faults)
    return config


def _read(path: _Path, overrides: Iterable[str] | None, free: bool, faults: list[Fault]) -> Config:
    if isinstance(overrides, str):
        raise TypeError("overrides is a list of texts, such as ['epochs=10'], not one text")
    root = load_file(os.fspath(path), faults)
    # With a part of the tree missing, further faults would mislead.
    if any(fault.kind != "duplicate" for fault in faults):
        raise ConfigError(faults)
    apply_overrides(root, overrides or (), free, faults)
    # References last, so that overrides reach what is referred to.
    config: Config = Config.of(resolve(root, faults))
    return config
