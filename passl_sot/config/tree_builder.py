"""YAML texts to one tree of nodes: `_base_` files merged below, then `${references}` resolved."""

from __future__ import annotations

import os
import re
from typing import Any

import yaml

from passl_sot.config.errors import (
    BROKEN,
    COMMAND_LINE,
    ConfigError,
    Fault,
    Origin,
    did_you_mean,
    join_path,
    show,
)
from passl_sot.config.tree import Config, Node, suggest_path
from passl_sot.config.yaml_text import (
    MAX_DEPTH,
    compose_text,
    nearby_file,
    no_such_tag,
    read_text,
    scalar_value,
)

# Aliases and references can make a short file enormous; no honest configuration comes near these.
_MAX_VALUES = 100_000
_MAX_FILES = 200
_MERGE = "tag:yaml.org,2002:merge"
_WHOLE_NUMBER = re.compile("0|[1-9][0-9]*")
_REFERENCE = re.compile(r"\$\{\s*([^${}]*?)\s*\}\Z")


class Builder:
    """Turns PyYAML's nodes of one text into ours, collecting faults on the way.

    Args:
        file: Name for the origins; "command line" has no line numbers.
    """

    def __init__(self, file: str):
        self.file = file
        self.faults: list[Fault] = []
        self._count = 0
        self._active: set[int] = set()

    def build(self, source: yaml.Node, path: str) -> Node:
        """Our node of PyYAML's; aliases give independent copies."""
        self._count += 1
        if self._count > _MAX_VALUES:
            self._note(source, "", f"more than {_MAX_VALUES} values; do aliases multiply?", "yaml")
            raise ConfigError(self.faults[-1:])
        node = Node(None, self.origin(source))
        if isinstance(source, yaml.ScalarNode):
            try:
                node.value = scalar_value(source)
            except ValueError as err:
                self._note(source, path, str(err), "yaml")
            return node
        if source.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self._note(source, path, no_such_tag(source.tag), "yaml")
        if id(source) in self._active:
            self._note(source, path, "an alias (*) stands inside what it stands for", "yaml")
            return node
        if len(self._active) >= MAX_DEPTH:
            self._note(source, "", "nested too deeply", "yaml")
            raise ConfigError(self.faults[-1:])
        self._active.add(id(source))
        if isinstance(source, yaml.MappingNode):
            node.value = self._mapping(source, path)
        else:
            node.value = [self.build(item, join_path(path, i)) for i, item in enumerate(source.value)]
        self._active.discard(id(source))
        return node

    def _mapping(self, source: yaml.MappingNode, path: str) -> dict[str, Node]:
        result: dict[str, Node] = {}
        for key_node, value_node in source.value:
            if key_node.tag == _MERGE:
                self._merge_key(result, value_node, path)
        first: dict[str, int] = {}
        for key_node, value_node in source.value:
            key = None if key_node.tag == _MERGE else self._key(key_node, path)
            if key is None:
                continue
            place = join_path(path, key)
            if key in first:
                also = "" if self.file == COMMAND_LINE else f", first in line {first[key]}"
                message = f"the key '{key}' is given twice{also}; keep one of the two"
                self._note(key_node, place, message, "duplicate")
                continue
            first[key] = key_node.start_mark.line + 1
            if key == "_base_" and path:
                self._note(key_node, place, "'_base_' works only at the top level of a file", "base")
            result[key] = self.build(value_node, place)
            result[key].origin = self.origin(key_node)  # a key is what a reader looks for
        return result

    def _key(self, source: yaml.Node, path: str) -> str | None:
        text = source.value
        if isinstance(source, yaml.ScalarNode):
            # Whole numbers are keys of schedules, such as {0: 0.4, 260: 0.6}.
            if source.tag == "tag:yaml.org,2002:str" or (path and _WHOLE_NUMBER.fullmatch(text)):
                return str(text)
            kind = {"bool": "true or false", "null": "null"}.get(source.tag.rpartition(":")[2], "a number")
            message = f"keys are text; YAML reads {text or 'an empty key'} as {kind}"
            if text:
                message += f", so write '{text}' with the quotes"
        else:
            message = "a key must be a single word, not a list or mapping (is a '{' or '[' meant as text?)"
        self._note(source, path, message, "yaml")
        return None

    def _merge_key(self, result: dict[str, Node], source: yaml.Node, path: str) -> None:
        items = source.value if isinstance(source, yaml.SequenceNode) else [source]
        for item in items:
            part = self.build(item, path).value
            if not isinstance(part, dict):
                self._note(item, path, "'<<' wants a mapping, or a list of mappings", "yaml")
                continue
            for key in part:  # of several, the first wins
                result.setdefault(key, part[key])

    def origin(self, source: yaml.Node) -> Origin:
        """Where a node of PyYAML stands."""
        return Origin(self.file, None if self.file == COMMAND_LINE else source.start_mark.line + 1)

    def _note(self, source: yaml.Node, path: str, message: str, kind: str) -> None:
        self.faults.append(Fault(path, message, self.origin(source), kind))


def load_text(text: str, file: str, faults: list[Fault]) -> Node:
    """Turns the text of one file into a tree; bases and references are left as they are.

    Args:
        text: YAML.
        file: Its name in origins and messages.
        faults: Extended by faults of single keys.

    Raises:
        ConfigError: The text is not valid YAML, or not a mapping.
    """
    source = compose_text(text, file)
    if source is None:
        raise ConfigError([Fault("", "the file is empty", Origin(file), "yaml")])
    builder = Builder(file)
    root = builder.build(source, "")
    if isinstance(root.value, dict):
        faults += builder.faults
        return root
    if not builder.faults:
        found = "a list" if isinstance(root.value, list) else show(root.value)
        if isinstance(root.value, str) and ":" in root.value:
            found += " (a space must follow the colon)"
        message = f"the top level must be keys with values (key: value); it is {found}"
        builder.faults.append(Fault("", message, root.origin, "yaml"))
    raise ConfigError(builder.faults)


def load_file(path: str, faults: list[Fault]) -> Node:
    """Reads a file and all its bases into one tree; references and overrides are still to come.

    Args:
        path: The file, as messages should show it.
        faults: Extended by faults that leave the tree usable (duplicate keys).

    Raises:
        ConfigError: A file cannot be read, is not valid, or the chain of bases is broken.
    """
    loader = _FileLoader()
    root = loader.load(path, (), None)
    if any(fault.kind != "duplicate" for fault in loader.faults):
        raise ConfigError(loader.faults)
    faults += loader.faults
    return root


class _FileLoader:
    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._files = 0

    def load(self, path: str, chain: tuple[str, ...], place: Origin | None) -> Node:
        """The tree of one file and its bases; `chain` holds the files that led here."""
        self._files += 1
        # Bases may share bases, so without cycles too their number can double with each file.
        if self._files > _MAX_FILES:
            raise ConfigError([Fault("_base_", f"more than {_MAX_FILES} files are named", place, "base")])
        try:
            root = load_text(read_text(path), path, self.faults)
        except ConfigError as err:
            self.faults += err.faults
            return Node({}, Origin(path))
        named = root.value.pop("_base_", None)
        if named is None:
            return root
        bases = named.value if isinstance(named.value, list) else [named]
        merged = Node({}, root.origin)
        for base in bases:
            target = self._target(base, (*chain, path))
            if target:
                merged = merge(merged, self.load(target, (*chain, path), base.origin), root=True)
        return merge(merged, root, root=True)

    def _target(self, base: Node, chain: tuple[str, ...]) -> str | None:
        """The file that one base of the last file in `chain` means; None after a fault."""
        near = None
        if isinstance(base.value, str) and base.value:
            folder = os.path.dirname(chain[-1])
            target = os.path.normpath(os.path.join(folder, base.value))
            real = [os.path.realpath(file) for file in chain]
            if os.path.realpath(target) in real:
                ring = [*chain[real.index(os.path.realpath(target)) :], target]
                message = "the bases form a cycle: " + " -> ".join(ring)
            elif os.path.isfile(target):
                return target
            else:
                found = "is a folder"
                if not os.path.isdir(target):
                    found, near = "does not exist", nearby_file(target)
                if near:  # as it would have to be written in this file
                    near = os.path.relpath(near, folder or ".").replace(os.sep, "/")
                where = "" if base.value == target else f" ('{base.value}' is relative to this file)"
                message = f"'{target}' {found}{where}{did_you_mean(near)}"
        else:
            message = f"expected a file name or a list of them, got {show(Config.of(base))}"
        self.faults.append(Fault("_base_", message, base.origin, "base", near))
        return None


def merge(base: Node, over: Node, root: bool = False) -> Node:
    """`over` laid on `base`, both dicts: mappings merge, everything else replaces.

    A node whose `name` changes replaces the whole node, so that no argument of the old class is left over.
    The top level is no such node: there a `name` is a key like others.
    """
    old, new = base.value, over.value
    if not root and "name" in old and "name" in new and old["name"].value != new["name"].value:
        return over
    result = Node({**old, **new}, over.origin)
    for key in old.keys() & new.keys():
        if isinstance(old[key].value, dict) and isinstance(new[key].value, dict):
            result.value[key] = merge(old[key], new[key])
    return result


def resolve(root: Node, faults: list[Fault]) -> Node:
    """A copy of the tree with every reference replaced by a copy of its target.

    Args:
        root: The tree; not changed.
        faults: Extended by the faults of references, for which `BROKEN` stands in the copy.
    """
    resolver = _Resolver(root)
    resolved = resolver.copy(root, "", ())
    # A section that is referred to is copied several times, and its faults are noted each time.
    faults += dict.fromkeys(resolver.faults)
    return resolved


class _Dangling(Exception):
    """Why a reference cannot be followed; `ring` holds the paths of a cycle."""

    def __init__(self, message: str, near: str | None = None, ring: frozenset[str] = frozenset()):
        super().__init__(message)
        self.near = near
        self.ring = ring


class _Resolver:
    def __init__(self, root: Node):
        self.root = root
        self.faults: list[Fault] = []
        self._rings: set[frozenset[str]] = set()
        self._count = 0

    def copy(self, node: Node, path: str, inside: tuple[int, ...]) -> Node:
        """The resolved copy of a node; `inside` holds the ids of the nodes around it."""
        self._count += 1
        if self._count > _MAX_VALUES or len(inside) > 2 * MAX_DEPTH:
            message = "the references multiply to more than a configuration can hold"
            raise ConfigError([Fault(path, message, node.origin, "reference")])
        value, around = node.value, (*inside, id(node))
        if isinstance(value, str) and "${" in value:
            value = self._text(node, path, inside)
        elif isinstance(value, list):
            value = [self.copy(item, join_path(path, i), around) for i, item in enumerate(value)]
        elif isinstance(value, dict):
            value = {key: self.copy(item, join_path(path, key), around) for key, item in value.items()}
        return Node(value, node.origin)

    def _text(self, node: Node, path: str, inside: tuple[int, ...]) -> Any:
        """The value of a text that holds "${": the literal text, or a copy of a reference's target."""
        text = node.value
        try:
            if _REFERENCE.match(text):
                target, place = self._follow(node, path, ())
                if id(target) in inside:
                    raise _Dangling(f"'{text}' stands inside what it refers to")
                return self.copy(target, place, inside).value
            if "${" in text.replace("$${", ""):
                raise _Dangling(
                    f"'{text}': a reference must be the whole value, as in ${{model.head.num_classes}}; "
                    "for a literal '${' write '$${'"
                )
            return text.replace("$${", "${")
        except _Dangling as err:
            if err.ring not in self._rings:  # each cycle is told of once
                self.faults.append(Fault(path, str(err), node.origin, "reference", err.near))
            if err.ring:
                self._rings.add(err.ring)
            return BROKEN

    def _follow(self, node: Node, path: str, chain: tuple[str, ...]) -> tuple[Node, str]:
        """The node, and its path, that a possible reference stands for; `chain` led here."""
        while isinstance(node.value, str) and (match := _REFERENCE.match(node.value)):
            if path in chain:
                ring = [*chain[chain.index(path) :], path]
                raise _Dangling("the references form a cycle: " + " -> ".join(ring), ring=frozenset(ring))
            chain = (*chain, path)
            if len(chain) > MAX_DEPTH:
                raise _Dangling("the chain of references is too long")
            node, path = self._locate(match.group(1), chain)
        return node, path

    def _locate(self, path: str, chain: tuple[str, ...]) -> tuple[Node, str]:
        node, place = self.root, ""
        for part in path.split("."):
            node, place = self._follow(node, place, chain)
            try:
                node = node.child(part)
            except LookupError:
                near = suggest_path(self.root, path)
                hint = did_you_mean(near)
                if not near and isinstance(node.value, dict) and "name" in node.value:
                    hint = "; a default must be written out to be referred to"
                raise _Dangling(f"'${{{path}}}' refers to nothing{hint}", near) from None
            place = join_path(place, part)
        return node, place
