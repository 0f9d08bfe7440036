"""YAML texts to one tree of nodes: `_base_` files merged below, then `${references}` resolved."""

from __future__ import annotations

import os
import re
from typing import Any

import yaml

from passl_sot.config.errors import COMMAND_LINE, ConfigError, Fault, Origin, join_path, show
from passl_sot.config.suggest import did_you_mean
from passl_sot.config.tree import BROKEN, Config, Node, suggest_path
from passl_sot.config.yaml_text import MAX_DEPTH, RefusedError, compose_text, nearby_file, read_text, value_of

# Aliases and references can make a short file enormous; no honest configuration comes near this.
_MAX_VALUES = 100_000
_MERGE = "tag:yaml.org,2002:merge"
_WHOLE_NUMBER = re.compile("0|[1-9][0-9]*")
# `\Z` and not `$`, which would also match before a line's end at the end of the text.
_REFERENCE = re.compile(r"\$\{\s*([^${}]*?)\s*\}\Z")


class Builder:
    """Turns PyYAML's nodes of one text into ours; `file` is "command line" where there are no lines."""

    def __init__(self, file: str, faults: list[Fault]):
        self.file = file
        self.faults = faults
        self._count = 0

    def build(self, source: yaml.Node, path: str, around: tuple[yaml.Node, ...] = ()) -> Node:
        """Our node of PyYAML's, which stands inside of `around`; aliases give independent copies."""
        self._count += 1
        if self._count > _MAX_VALUES:
            message = f"more than {_MAX_VALUES} values; do aliases multiply?"
            raise ConfigError([Fault("", message, self.origin(source), "yaml")])
        if len(around) > MAX_DEPTH:
            raise ConfigError([Fault("", "nested too deeply", self.origin(source), "yaml")])
        node = Node(None, self.origin(source))
        inside = (*around, source)
        try:
            if source in around:
                raise RefusedError("an alias (*) stands inside what it stands for")
            node.value = value_of(source)
        except RefusedError as err:
            self._note(source, path, str(err), "yaml")
            return node
        if isinstance(source, yaml.MappingNode):
            node.value = self._mapping(source, path, inside)
        elif isinstance(source, yaml.SequenceNode):
            items = enumerate(source.value)
            node.value = [self.build(item, join_path(path, i), inside) for i, item in items]
        return node

    def _mapping(self, source: yaml.MappingNode, path: str, around: tuple[yaml.Node, ...]) -> dict[str, Node]:
        merged: dict[str, Node] = {}
        result: dict[str, Node] = {}
        for key_node, value_node in source.value:
            if key_node.tag == _MERGE:
                self._merge_key(merged, value_node, path, around)
                continue
            key = self._key(key_node, path)
            place = join_path(path, key)
            if key is None:
                continue
            if key in result:
                line = result[key].origin.line
                also = f", first in line {line}" * bool(line)
                message = f"the key '{key}' is given twice{also}; keep one of the two"
                self._note(key_node, place, message, "duplicate")
                continue
            if key == "_base_" and path:
                self._note(key_node, place, "'_base_' works only at the top level of a file", "base")
            result[key] = self.build(value_node, place, around)
            result[key].origin = self.origin(key_node)  # a key is what a reader looks for
        return {**merged, **result}

    def _key(self, source: yaml.Node, path: str) -> str | None:
        text = source.value
        message = "a key must be a single word, not a list or mapping (is a '{' or '[' meant as text?)"
        if isinstance(source, yaml.ScalarNode):
            # Whole numbers are keys of schedules, such as {0: 0.4, 260: 0.6}.
            if source.tag.endswith(":str") or (path and _WHOLE_NUMBER.fullmatch(text)):
                return str(text)
            kind = {"bool": "true or false", "null": "null"}.get(source.tag.rpartition(":")[2], "a number")
            message = f"keys are text; YAML reads {text or 'an empty key'} as {kind}"
            if text:
                message += f", so write '{text}' with the quotes"
        self._note(source, path, message, "yaml")
        return None

    def _merge_key(
        self, merged: dict[str, Node], source: yaml.Node, path: str, around: tuple[yaml.Node, ...]
    ) -> None:
        for item in source.value if isinstance(source, yaml.SequenceNode) else [source]:
            part = self.build(item, path, around).value
            if isinstance(part, dict):
                merged.update({**part, **merged})  # of several, the first wins
            else:
                self._note(item, path, "'<<' wants a mapping, or a list of mappings", "yaml")

    def origin(self, source: yaml.Node) -> Origin:
        """Where a node of PyYAML stands."""
        if self.file == COMMAND_LINE:
            return Origin(self.file)
        return Origin(self.file, source.start_mark.line + 1)

    def _note(self, source: yaml.Node, path: str, message: str, kind: str) -> None:
        self.faults.append(Fault(path, message, self.origin(source), kind))


def load_text(text: str, file: str, faults: list[Fault]) -> Node:
    """The tree of one text, bases and references as they are; adds to `faults`, or raises for no tree."""
    source = compose_text(text, file)
    if source is None:
        raise ConfigError([Fault("", "the file is empty", Origin(file), "yaml")])
    found: list[Fault] = []
    root = Builder(file, found).build(source, "")
    if isinstance(root.value, dict):
        faults += found
        return root
    value = show(root.value)
    if isinstance(root.value, list):
        value = "a list"
    elif isinstance(root.value, str) and ":" in root.value:
        value += " (a space must follow the colon)"
    message = f"the top level must be keys with values (key: value); it is {value}"
    raise ConfigError(found or [Fault("", message, root.origin, "yaml")])


def load_file(path: str, faults: list[Fault], chain: tuple[str, ...] = ()) -> Node:
    """The tree of one file laid on its bases; `chain` holds the files that led to it. Adds to `faults`."""
    try:
        root = load_text(read_text(path), path, faults)
    except ConfigError as err:
        faults += err.faults
        return Node({}, Origin(path))
    named = root.value.pop("_base_", None)
    if named is None:
        return root
    chain = (*chain, path)
    merged = Node({}, root.origin)
    for base in named.value if isinstance(named.value, list) else [named]:
        target = _base_file(base, chain, faults)
        if target:
            merged = merge(merged, load_file(target, faults, chain), root=True)
    return merge(merged, root, root=True)


def _base_file(base: Node, chain: tuple[str, ...], faults: list[Fault]) -> str | None:
    """The file that a base of the last file in `chain` means; None after a fault."""
    near = None
    message = f"expected a file name or a list of them, got {show(Config.of(base))}"
    if base.value and isinstance(base.value, str):
        folder = os.path.dirname(chain[-1])
        target = os.path.normpath(os.path.join(folder, base.value))
        real = [os.path.realpath(file) for file in (*chain, target)]
        first = real.index(real[-1])
        if first < len(chain):
            message = "the bases form a cycle: " + " -> ".join([*chain[first:], target])
        elif os.path.isfile(target):
            return target
        else:
            message = f"'{target}' is a folder"
            if not os.path.isdir(target):
                message = f"'{target}' does not exist"
                near = nearby_file(target)
            if near:  # as it would have to be written in this file
                near = os.path.relpath(near, folder or ".").replace(os.sep, "/")
            if base.value != target:
                message += f" ('{base.value}' is relative to this file)"
            message += did_you_mean(near)
    faults.append(Fault("_base_", message, base.origin, "base", near))
    return None


def merge(base: Node, over: Node, root: bool = False) -> Node:
    """`over` laid on `base`, both dicts: mappings merge, everything else replaces."""
    old = base.value
    new = over.value
    # With another name no argument of the old class may be left over. At the top a name is a key like others.
    if not root and "name" in old and "name" in new and old["name"].value != new["name"].value:
        return over
    result = Node({**old, **new}, over.origin)  # the base's keys first, in the order of its file
    for key in old.keys() & new.keys():
        if isinstance(old[key].value, dict) and isinstance(new[key].value, dict):
            result.value[key] = merge(old[key], new[key])
    return result


def resolve(root: Node, faults: list[Fault]) -> Node:
    """A copy of a tree in which copies of their targets, or `BROKEN`, stand for references."""
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

    def copy(self, node: Node, path: str, around: tuple[int, ...]) -> Node:
        """The resolved copy of a node; `around` holds the ids of the nodes around it."""
        self._count += 1
        # A target's depth adds to that of its reference, hence the double.
        if self._count > _MAX_VALUES or len(around) > 2 * MAX_DEPTH:
            message = "the references multiply to more than a configuration can hold"
            raise ConfigError([Fault(path, message, node.origin, "reference")])
        value = node.value
        inside = (*around, id(node))
        if isinstance(value, str) and "${" in value:
            value = self._text(node, path, around)
        elif isinstance(value, list):
            value = [self.copy(item, join_path(path, i), inside) for i, item in enumerate(value)]
        elif isinstance(value, dict):
            value = {key: self.copy(item, join_path(path, key), inside) for key, item in value.items()}
        return Node(value, node.origin)

    def _text(self, node: Node, path: str, around: tuple[int, ...]) -> Any:
        """The value of a text that holds "${": the literal text, or a copy of a reference's target."""
        text = node.value
        try:
            if _REFERENCE.match(text):
                target, place = self._follow(node, path, ())
                if id(target) in around:
                    raise _Dangling(f"'{text}' stands inside what it refers to")
                return self.copy(target, place, around).value
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
            chain = (*chain, path)
            ring = chain[chain.index(path) :]
            if len(ring) > 1:
                raise _Dangling("the references form a cycle: " + " -> ".join(ring), ring=frozenset(ring))
            if len(chain) > MAX_DEPTH:
                raise _Dangling("the chain of references is too long")
            node, path = self._locate(match.group(1), chain)
        return node, path

    def _locate(self, path: str, chain: tuple[str, ...]) -> tuple[Node, str]:
        node = self.root
        place = ""
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
