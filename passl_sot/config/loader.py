"""Reading configuration files: inheritance, overrides, references, and the check against a schema."""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from passl_sot.config.errors import ConfigError, Fault, Origin, did_you_mean, join_path, show
from passl_sot.config.overrides import apply_overrides
from passl_sot.config.schema import Checker, make_section
from passl_sot.config.shipped import find_config, nearby_shipped, shipped_config
from passl_sot.config.tree import BROKEN, Config, child, suggest_path
from passl_sot.config.yaml_text import MAX_DEPTH, MAX_VALUES, Builder, dump_yaml, nearby_file, read_text

_D = TypeVar("_D", bound="Document")
_Path = str | os.PathLike[str]
# `\Z` and not `$`, which would also match before a line's end at the end of the text.
_REFERENCE = re.compile(r"\$\{\s*([^${}]*?)\s*\}\Z")
# Plain values, and the place of each by its dotted path; the table may hold paths that are no more.
_Tree = tuple[dict[str, Any], dict[str, Origin]]


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
        return self._tree.origin_near(path)


def get_config(
    path: _Path,
    overrides: Iterable[str] | None = (),
    *,
    schema: type | None = None,
    stored: Mapping[str, Any] | None = None,
) -> Config:
    """Reads a YAML file with its bases, applies overrides and resolves references.

    `_base_: file` or `_base_: [files]` names files, relative to the one that names them, on which it is laid,
    or shipped ones (`sot_small`, `configs/sot/sot_small.yaml`) where no such file lies: mappings merge, lists
    and scalars replace, later files win, and a changed `name` replaces its whole node. `${dotted.path}` as a
    whole value stands for another value; `$${` is a literal `${`. Every value knows where it was written.

    Args:
        path: The file.
        overrides: "a.b.0.c=value" with the value in YAML. They change keys that exist, or that the class of
            the named node they stand in accepts; "+a.b=value" also makes sections that don't exist yet,
            appends to lists, and adds any key. A changed `name` replaces its node before the other overrides
            inside that node are applied.
        schema: What a later `load_config` will check the file by: overrides of keys that the file doesn't
            have are left to it, and a changed `name` keeps what registries that are `alike` say.
        stored: The resolved tree that `path`, which isn't YAML, holds: a checkpoint's.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    faults: list[Fault] = []
    config, _ = _read(path, overrides, schema, stored, faults)
    if faults:
        raise ConfigError(faults)
    return config


def load_config(
    schema: type[_D],
    path: _Path,
    overrides: Iterable[str] | None = (),
    *,
    stored: Mapping[str, Any] | None = None,
) -> _D:
    """Reads a YAML file as `get_config` does, checks it once and gives it as an instance of its schema.

    The schema is a keyword-only dataclass, which also judges overrides of keys that don't exist. Its sections
    become instances too; a node of a registry becomes a `Config` that is built without a second check.

    Raises:
        ConfigError: Everything that is wrong, at once; or the schema's ValueError about the values.
    """
    faults: list[Fault] = []
    config, dropped = _read(path, overrides, schema, stored, faults)
    for line in dropped:
        logging.getLogger(__name__).warning("%s", line)
    # Tests count these lines: a command checks one whole document once.
    logging.getLogger(__name__).debug("checking a whole document as %s", schema.__name__)
    document = make_section(schema, config, "", faults)
    document._tree = config
    return document


def known_keys(schema: type[_D], path: _Path, overrides: Iterable[str] | None = ()) -> list[str]:
    """The dotted path of every setting that a file may have by its schema, whether it has it or not.

    Raises:
        ConfigError: The file can't be read; faults of single values don't matter.
    """
    config = _read(path, overrides, schema, None, [])[0]
    checker = Checker(config)
    checker.section(schema, config, "")
    return checker.places()


def model_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Reads a config of which only the `model:` section is needed; a ConfigError if it has none."""
    cfg = get_config(find_config(path), overrides)
    if "model" not in cfg:
        raise ConfigError([Fault("model", f"{path} has no such section")])
    return cfg


def _read(
    path: _Path,
    overrides: Iterable[str] | None,
    schema: type | None,
    stored: Mapping[str, Any] | None,
    faults: list[Fault],
) -> tuple[Config, list[str]]:
    """The tree with all faults that are found, and lines on what overrides dropped."""
    if isinstance(overrides, str):
        raise TypeError("overrides is a list of texts, such as ['epochs=10'], not one text")
    if stored is None:
        tree, origins = _load_file(os.fspath(path), faults)
    else:
        tree, origins = _load_text(dump_yaml(stored), os.fspath(path), faults, base=False)
        origins = dict.fromkeys(origins, Origin(os.fspath(path)))  # it has no lines to look at
    # With a part of the tree missing, further faults would mislead.
    if any(fault.kind != "duplicate" for fault in faults):
        raise ConfigError(faults)
    dropped = apply_overrides(tree, origins, overrides or (), schema, faults)
    # References last, so that overrides reach what is referred to.
    resolver = _Resolver(tree, origins)
    config: Config = resolver.copy(tree)
    faults += resolver.faults.values()
    return config, dropped


def _load_file(path: str, faults: list[Fault], chain: tuple[str, ...] = ()) -> _Tree:
    """The tree of one file laid on its bases; `chain` holds the files that led to it."""
    try:
        tree, origins = _load_text(read_text(path), path, faults, base=bool(chain))
    except ConfigError as err:
        faults += err.faults
        return {}, {}
    if "_base_" not in tree:
        return tree, origins
    bases = tree.pop("_base_")
    if not isinstance(bases, list):
        bases = [bases]
    below: dict[str, Any] = {}
    below_origins: dict[str, Origin] = {}
    for index, base in enumerate(bases):
        origin = origins.get(f"_base_.{index}", origins["_base_"])
        target = _base_file(base, origin, (*chain, path), faults)
        if target:
            base_tree, base_origins = _load_file(target, faults, (*chain, path))
            below = _merge(below, base_tree, root=True)
            below_origins |= base_origins
    return _merge(below, tree, root=True), {**below_origins, **origins}


def _load_text(text: str, file: str, faults: list[Fault], base: bool = False) -> _Tree:
    # A file of someone else's may name any file of this machine as its base: none is quoted.
    built = Builder(text, file, quote=not base)
    if not built.origins:
        raise ConfigError([Fault("", "the file is empty", Origin(file), "yaml")])
    tree = built.value
    if isinstance(tree, dict):
        faults += built.faults
        return tree, built.origins
    value = show(tree)
    if isinstance(tree, list):
        value = "a list"
    elif isinstance(tree, str) and ":" in tree:
        value += " (a space must follow the colon)"
    if base:
        value = "no mapping"
    message = f"the top level must be keys with values (key: value); it is {value}"
    raise ConfigError(built.faults or [Fault("", message, built.origins[""], "yaml")])


def _base_file(base: Any, origin: Origin, chain: tuple[str, ...], faults: list[Fault]) -> str | None:
    """The file that a base of the last file in `chain` means; None after a fault."""
    near = None
    message = f"expected a file name or a list of them, got {show(base)}"
    if base and isinstance(base, str):
        folder = os.path.dirname(chain[-1])
        target = os.path.normpath(os.path.join(folder, base))
        real = [os.path.realpath(file) for file in (*chain, target)]
        first = real.index(real[-1])
        if first < len(chain):
            message = "the bases form a cycle: " + " -> ".join([*chain[first:], target])
        elif os.path.isfile(target):
            return target
        elif shipped := shipped_config(base):
            return str(shipped)
        else:
            message = f"'{target}' is a folder"
            if not os.path.isdir(target):
                message = f"'{target}' does not exist"
                near = nearby_file(target)
            if near:  # as it would have to be written in this file
                near = os.path.relpath(near, folder or ".").replace(os.sep, "/")
            elif not os.path.isdir(target):
                near = nearby_shipped(base)
            if base != target:
                message += f" ('{base}' is relative to this file)"
            message += did_you_mean(near)
    faults.append(Fault("_base_", message, origin, "base", near))
    return None


def _merge(base: dict[str, Any], over: dict[str, Any], root: bool = False) -> dict[str, Any]:
    """`over` laid on `base`: mappings merge, everything else replaces."""
    # With another name no argument of the old class may be left over. At the top a name is a key like others.
    if not root and "name" in base and "name" in over and base["name"] != over["name"]:
        return over
    result = {**base, **over}  # the base's keys first, in the order of its file
    for key in base.keys() & over.keys():
        if isinstance(base[key], dict) and isinstance(over[key], dict):
            result[key] = _merge(base[key], over[key])
    return result


class _Resolver:
    """Copies a tree into a Config, in which copies of their targets, or `BROKEN`, stand for references."""

    def __init__(self, tree: dict[str, Any], origins: dict[str, Origin]):
        self.tree = tree
        self.origins = origins
        # Each is told of once, though a section is copied for each reference, and a cycle met by all in it.
        self.faults: dict[object, Fault] = {}
        self._placed: dict[str, Origin] = {}
        self._count = 0

    def copy(self, value: Any, source: str = "", path: str = "", around: tuple[str, ...] = ()) -> Any:
        """A copy, to stand at `path`, of a value that stands at `source`, inside of the sources `around`."""
        self._count += 1
        # A target's depth adds to that of its reference, hence the double.
        if self._count > MAX_VALUES or len(around) > 2 * MAX_DEPTH:
            message = "the references multiply to more than a configuration can hold"
            raise ConfigError([Fault(source, message, self.origins[source], "reference")])

        def inside(item: Any, key: object) -> Any:
            return self.copy(item, join_path(source, key), join_path(path, key), (*around, source))

        if isinstance(value, str) and "${" in value:
            value = self._text(value, source, path, around)
        elif isinstance(value, list):
            value = [inside(item, index) for index, item in enumerate(value)]
        elif isinstance(value, dict):
            value = Config.of({key: inside(item, key) for key, item in value.items()}, path, self._placed)
        self._placed[path] = self.origins[source]
        return value

    def _text(self, text: str, source: str, path: str, around: tuple[str, ...]) -> Any:
        """The value of a text that holds "${": the literal text, or a copy of a reference's target."""
        try:
            if _REFERENCE.match(text):
                target, place = self._follow(text, source, ())
                if place in around:
                    raise self._broken(source, f"'{text}' stands inside what it refers to")
                return self.copy(target, place, path, around)
            if "${" in text.replace("$${", ""):
                message = f"'{text}': a reference must be the whole value, as in ${{model.head.num_classes}}"
                raise self._broken(source, f"{message}; for a literal '${{' write '$${{'")
        except LookupError:
            return BROKEN
        return text.replace("$${", "${")

    def _follow(self, value: Any, path: str, chain: tuple[str, ...]) -> tuple[Any, str]:
        """What a possible reference at `path` stands for, and its place; those in `chain` led here."""
        while isinstance(value, str) and (match := _REFERENCE.match(value)):
            chain = (*chain, path)
            ring = chain[chain.index(path) :]
            if len(ring) > 1:
                message = "the references form a cycle: " + " -> ".join(ring)
                raise self._broken(chain[0], message, key=frozenset(ring))
            value, path = self._locate(match.group(1), chain)
        return value, path

    def _locate(self, path: str, chain: tuple[str, ...]) -> tuple[Any, str]:
        value: Any = self.tree
        place = ""
        for part in path.split("."):
            value, place = self._follow(value, place, chain)
            try:
                value = child(value, part)
            except LookupError:
                near = suggest_path(self.tree, path)
                hint = did_you_mean(near)
                if not near and isinstance(value, dict) and "name" in value:
                    hint = "; a default must be written out to be referred to"
                raise self._broken(chain[0], f"'${{{path}}}' refers to nothing{hint}", near) from None
            place = join_path(place, part)
        return value, place

    def _broken(self, path: str, message: str, near: str | None = None, key: object = None) -> LookupError:
        fault = Fault(path, message, self.origins[path], "reference", near)
        self.faults.setdefault(key or fault, fault)
        return LookupError(message)
