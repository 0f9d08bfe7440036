"""Configuration files to one tree: YAML nodes become `Config`, and `_base_` files are merged below."""

from __future__ import annotations

import os
import re
from typing import Any

import yaml

from passl_sot.config.errors import (
    COMMAND_LINE,
    ConfigError,
    Fault,
    Origin,
    did_you_mean,
    join_path,
    nearest,
    show,
)
from passl_sot.config.tree import Config
from passl_sot.config.yaml_text import MAX_DEPTH, compose_text, no_such_tag, scalar_value

# Aliases and references can make a short file enormous; no honest configuration comes near this.
MAX_VALUES = 100_000
_MAX_FILES = 200
_MERGE = "tag:yaml.org,2002:merge"
_WHOLE_NUMBER = re.compile("0|[1-9][0-9]*")


class Builder:
    """Turns YAML nodes of one text into Config trees, collecting faults on the way.

    Args:
        file: Name for the origins; "command line" has no line numbers.
    """

    def __init__(self, file: str):
        self.file = file
        self.faults: list[Fault] = []
        self._count = 0
        self._active: set[int] = set()

    def value(self, node: yaml.Node, path: str) -> Any:
        """The value of a node; aliases give independent copies."""
        self._count += 1
        if self._count > MAX_VALUES:
            raise ConfigError(
                [self._fault(node, "", f"more than {MAX_VALUES} values; do aliases multiply?", "yaml")]
            )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != f"tag:yaml.org,2002:{kind}":
            self.faults.append(self._fault(node, path, no_such_tag(node.tag), "yaml"))
        if id(node) in self._active:
            self.faults.append(
                self._fault(node, path, "an alias (*) stands inside what it stands for", "yaml")
            )
            return None
        if len(self._active) >= MAX_DEPTH:
            raise ConfigError([self._fault(node, "", "nested too deeply", "yaml")])
        self._active.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self.value(item, join_path(path, index)) for index, item in enumerate(node.value)]
        finally:
            self._active.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        try:
            return scalar_value(node)
        except ValueError as err:
            self.faults.append(self._fault(node, path, str(err), "yaml"))
            return None

    def _mapping(self, node: yaml.MappingNode, path: str) -> Config:
        result = Config()
        result.place(self.origin(node), path)
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                self._merge_key(result, value_node, path)
        first: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            place = join_path(path, key)
            if key in first:
                line = first[key].start_mark.line + 1
                also = "" if self.file == COMMAND_LINE else f", first in line {line}"
                message = f"the key '{key}' is given twice{also}; keep one of the two"
                self.faults.append(self._fault(key_node, place, message, "duplicate"))
                continue
            first[key] = key_node
            if key == "_base_" and path:
                message = "'_base_' works only at the top level of a file"
                self.faults.append(self._fault(key_node, place, message, "base"))
            value = self.value(value_node, place)
            if isinstance(value, Config):
                value.place(self.origin(key_node), place)  # its key is what a reader looks for
            result.set_with_origin(key, value, self.origin(key_node))
            result.note_items(key, dict(self._items(value_node, key_node.start_mark.line)))
        return result

    def _key(self, node: yaml.Node, path: str) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
            return str(node.value)
        if isinstance(node, yaml.ScalarNode) and path and _WHOLE_NUMBER.fullmatch(node.value):
            return str(node.value)  # of a schedule, such as {0: 0.4, 260: 0.6}
        if isinstance(node, yaml.ScalarNode):
            kind = {"bool": "true or false", "null": "null"}.get(node.tag.rpartition(":")[2], "a number")
            message = f"keys are text; YAML reads {node.value or 'an empty key'} as {kind}"
            message += f", so write '{node.value}' with the quotes" if node.value else ""
        else:
            message = "a key must be a single word, not a list or mapping (is a '{' or '[' meant as text?)"
        self.faults.append(self._fault(node, path, message, "yaml"))
        return None

    def _merge_key(self, result: Config, node: yaml.Node, path: str) -> None:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for item in nodes:
            part = self.value(item, path)
            if not isinstance(part, Config):
                self.faults.append(
                    self._fault(item, path, "'<<' wants a mapping, or a list of mappings", "yaml")
                )
                continue
            for key in part:  # of several, the first wins
                if key not in result:
                    result.take(key, part[key], part)

    def _items(self, node: yaml.Node, line: int, indices: tuple[int, ...] = ()) -> Any:
        if isinstance(node, yaml.SequenceNode) and len(indices) < MAX_DEPTH:
            for index, item in enumerate(node.value):
                if item.start_mark.line != line:
                    yield (*indices, index), self.origin(item)
                yield from self._items(item, line, (*indices, index))

    def origin(self, node: yaml.Node) -> Origin:
        """Where a node stands."""
        return Origin(self.file, None if self.file == COMMAND_LINE else node.start_mark.line + 1)

    def _fault(self, node: yaml.Node, path: str, message: str, kind: str) -> Fault:
        return Fault(path, message, self.origin(node), kind)


def load_file(path: str) -> tuple[Config, list[Fault]]:
    """Reads a file and all its bases into one tree; references and overrides are still to come.

    Args:
        path: The file, as messages should show it.

    Returns:
        The merged tree, and faults that leave the tree usable (duplicate keys).

    Raises:
        ConfigError: A file cannot be read, is not valid, or the chain of bases is broken.
    """
    loader = _FileLoader()
    config = loader.load(path, (), None)
    if any(fault.kind != "duplicate" for fault in loader.faults):
        raise ConfigError(loader.faults)
    return config, loader.faults


def load_text(text: str, file: str) -> tuple[Config, list[Fault]]:
    """Turns the text of one file into a tree; bases and references are left as they are.

    Returns:
        The tree, and faults of single keys.

    Raises:
        ConfigError: The text is not valid YAML, or not a mapping.
    """
    node = compose_text(text, file)
    if node is None:
        raise ConfigError([Fault("", "the file is empty", Origin(file), "yaml")])
    builder = Builder(file)
    value = builder.value(node, "")
    if isinstance(value, Config):
        return value, builder.faults
    if not builder.faults:
        what = "a list" if isinstance(value, list) else show(value)
        space = " (a space must follow the colon)" if isinstance(value, str) and ":" in value else ""
        message = f"the top level must be keys with values (key: value); it is {what}{space}"
        builder.faults.append(Fault("", message, builder.origin(node), "yaml"))
    raise ConfigError(builder.faults)


class _FileLoader:
    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._files = 0

    def load(self, path: str, chain: tuple[str, ...], place: Origin | None) -> Config:
        """The tree of one file and its bases; `chain` holds the files that led here."""
        self._files += 1
        if self._files > _MAX_FILES:
            raise ConfigError([Fault("_base_", f"more than {_MAX_FILES} files are named", place, "base")])
        try:
            config, faults = load_text(read_text(path), path)
        except ConfigError as err:
            self.faults += err.faults
            return Config()
        self.faults += faults
        return self._with_bases(config, path, (*chain, path))

    def _with_bases(self, config: Config, path: str, chain: tuple[str, ...]) -> Config:
        if "_base_" not in config:
            return config
        named, origin = config["_base_"], config.origin_of("_base_")
        bases = named if isinstance(named, list) else [named]
        merged = Config()
        for index, base in enumerate(bases):
            place = config.origin_of("_base_", index) if isinstance(named, list) else origin
            if not isinstance(base, str) or not base:
                message = f"expected a file name or a list of them, got {show(base)}"
                self.faults.append(Fault("_base_", message, place, "base"))
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(path), base))
            real = [os.path.realpath(file) for file in chain]
            if os.path.realpath(target) in real:
                ring = [*chain[real.index(os.path.realpath(target)) :], target]
                message = "the bases form a cycle: " + " -> ".join(ring)
                self.faults.append(Fault("_base_", message, place, "base"))
                continue
            if not os.path.isfile(target):
                self.faults.append(_no_such_base(base, target, path, place))
                continue
            merged = merge(merged, self.load(target, chain, place), root=True)
        del config["_base_"]
        return merge(merged, config, root=True)


def _no_such_base(base: str, target: str, path: str, place: Origin | None) -> Fault:
    near = None if os.path.isdir(target) else nearby_file(target)
    if near:  # as it would have to be written in this file
        near = os.path.relpath(near, os.path.dirname(path) or ".").replace(os.sep, "/")
    what = "is a folder" if os.path.isdir(target) else "does not exist"
    where = "" if base == target else f" ('{base}' is relative to this file)"
    return Fault("_base_", f"'{target}' {what}{where}{did_you_mean(near)}", place, "base", near)


def merge(base: Config, over: Config, root: bool = False) -> Config:
    """`over` laid on `base`: mappings merge, everything else replaces.

    A node whose `name` changes replaces the whole node, so that no argument of the old class is left over.
    The top level is no such node: there a `name` is a key like others.
    """
    if not root and "name" in base and "name" in over and base["name"] != over["name"]:
        return over
    result = base.copy()
    for key, value in over.items():
        old = base.get(key)
        if isinstance(old, Config) and isinstance(value, Config):
            value = merge(old, value)
        result.take(key, value, over)
    result.place(over.node_origin(), over.node_path())
    return result


def read_text(path: str) -> str:
    """The text of a file: UTF-8, with or without a byte-order mark.

    Raises:
        ConfigError: It cannot be read; for a missing file the nearest existing names are given.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        near = nearby_file(path)
        message = "no such file" + (f"; did you mean '{near}'?" if near else "")
        raise ConfigError([Fault("", message, Origin(path), "file", near)]) from None
    except IsADirectoryError:
        inside = _yaml_files(path, 200)
        message = "this is a folder, not a file" + (f"; it holds {', '.join(inside[:5])}" if inside else "")
        raise ConfigError([Fault("", message, Origin(path), "file")]) from None
    except (OSError, ValueError) as err:
        reason = err.strerror if isinstance(err, OSError) else str(err)
        raise ConfigError([Fault("", f"cannot be read: {reason}", Origin(path), "file")]) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        message = "the file is not UTF-8 text; save it as UTF-8"
        raise ConfigError([Fault("", message, Origin(path, line), "file")]) from None


def nearby_file(path: str) -> str | None:
    """The YAML file most likely meant: one in the same folder, else one below the nearest existing folder."""
    folder = os.path.dirname(path)
    name = os.path.splitext(os.path.basename(path))[0]
    for deep in (False, True, True):
        if os.path.isdir(folder or "."):
            stems: dict[str, str] = {}
            for file in _yaml_files(folder, 2000, deep):
                stems.setdefault(os.path.splitext(os.path.basename(file))[0], file)
            near = name if name in stems else nearest(name, stems)
            if near:
                return stems[near]
        if deep:
            folder = os.path.dirname(folder)
    return None


def _yaml_files(folder: str, limit: int, deep: bool = False) -> list[str]:
    found: list[str] = []
    seen = 0
    for place, folders, files in os.walk(folder or "."):
        folders[:] = sorted(name for name in folders if deep and not name.startswith("."))
        seen += len(files) + len(folders)
        names = sorted(name for name in files if name.endswith((".yaml", ".yml")))
        found += [os.path.normpath(os.path.join(place, name)) for name in names]
        if seen > limit:
            break
    return found
