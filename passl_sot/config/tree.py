"""Trees of values: `Node` while a file is put together, `Config` for programs."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from passl_sot.config.errors import Origin, join_path
from passl_sot.config.suggest import did_you_mean, nearest
from passl_sot.config.yaml_text import dump_yaml


@dataclass
class Node:
    """A scalar, a list of nodes or a dict of nodes."""

    value: Any
    origin: Origin  # the line of its key or list item

    def child(self, part: str) -> Node:
        """The node under one part of a dotted path, or LookupError."""
        if isinstance(self.value, dict):
            return self.value[part]
        if isinstance(self.value, list) and part.isdecimal():
            return self.value[int(part)]
        raise LookupError(part)

    def walk(self, path: str = "") -> Iterator[str]:
        """Every dotted path below this node, in order."""
        items: Any = ()
        if isinstance(self.value, dict):
            items = self.value.items()
        elif isinstance(self.value, list):
            items = enumerate(self.value)
        for key, item in items:
            place = join_path(path, key)
            yield place
            yield from item.walk(place)


class _Broken:
    def __repr__(self) -> str:
        return "(broken reference)"


# Stands for the value of a broken reference until all faults have been found.
BROKEN = _Broken()


def suggest_path(root: Node, path: str) -> str | None:
    """The existing dotted path most likely meant by one that leads nowhere."""
    parts = path.split(".")
    node, depth = _descend(root, parts)
    if depth == len(parts):
        return None
    near = isinstance(node.value, dict) and nearest(parts[depth], node.value)
    if near:
        # The first wrong part is mended where it stands.
        mended = [*parts[:depth], near, *parts[depth + 1 :]]
        if _descend(root, mended)[1] < len(mended):
            mended = mended[: depth + 1]
        return ".".join(mended)
    # No honest file has more; a suggestion is not worth minutes for one that does.
    paths = list(itertools.islice(root.walk(), 2000))
    # The only place where the last key exists, or else the most similar path of all.
    homes = [place for place in paths if place.rpartition(".")[2] == parts[-1] != "name"]
    if len(homes) == 1:
        return homes[0]
    # With the right section and no similar key in it, a key that shares only the section would mislead.
    if depth == len(parts) - 1:
        return None
    return nearest(path, paths)


def _descend(node: Node, parts: Sequence[str]) -> tuple[Node, int]:
    """The last node that a path reaches, and how many of its parts lead there."""
    for depth, part in enumerate(parts):
        try:
            node = node.child(part)
        except LookupError:
            return node, depth
    return node, len(parts)


class Config(dict[str, Any]):
    """A real `dict` whose keys are attributes too: `cfg.model.head.num_classes`.

    Mappings stored in it (also inside lists) become `Config`; lists stay plain lists. Where each value was
    written is kept beside the items: it never shows up among the keys and survives copying and pickling.
    A key that is also a method of dict ("items", "copy", ...) is reached as `cfg["items"]`.
    """

    # Attributes are keys, so these stand in the instance's `__dict__`, written past `__setattr__`.
    _path: str
    _origins: dict[str, Origin]  # by dotted path from the top of the file; shared by all of one file's nodes
    _checked: tuple[str, str, dict[str, Any]] | None

    update = MutableMapping.update  # type: ignore[assignment] # that of dict would store past `__setitem__`

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()
        self.__dict__.update(_path="", _origins={}, _checked=None)
        self.update(*args)
        if args and isinstance(args[0], Config):
            self.__dict__.update(args[0].__dict__, _origins=dict(args[0]._origins))
        self.update(**kwargs)

    @classmethod
    def of(cls, tree: Any, path: str = "", origins: dict[str, Origin] | None = None) -> Any:
        """The Config that a `Node`, or plain dicts and lists, stand for; its sections know their paths."""
        origins = {} if origins is None else origins
        if isinstance(tree, Node):
            origins[path] = tree.origin
            tree = tree.value
        if isinstance(tree, list):
            return [cls.of(item, join_path(path, index), origins) for index, item in enumerate(tree)]
        if not isinstance(tree, dict):
            return tree
        config = cls({key: cls.of(item, join_path(path, key), origins) for key, item in tree.items()})
        config.__dict__.update(_path=path, _origins=origins)
        return config

    # -- dict with attributes -----------------------------------------------------------------------------
    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        # Names like __deepcopy__ or _repr_html_ are asked for by libraries: no suggestions for them.
        near = not key.startswith("_") and nearest(key, self)
        path = self.__dict__.get("_path", "")
        where = f" in '{path}'" * bool(path)
        raise AttributeError(f"the config has no key '{key}'{where}{did_you_mean(near or None)}")

    def __setattr__(self, key: str, value: Any) -> None:
        if hasattr(type(self), key):
            raise AttributeError(f"'{key}' is a name that dict uses itself; write cfg['{key}'] = ... instead")
        self[key] = value

    def __delattr__(self, key: str) -> None:
        if key not in self:
            self.__getattr__(key)
        del self[key]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *filter(str.isidentifier, self)]

    def __repr__(self) -> str:
        return f"Config({super().__repr__()})"

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _as_config(value))
        place = join_path(self._path, key)
        for known in [known for known in self._origins if f"{known}.".startswith(f"{place}.")]:
            del self._origins[known]

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As `dict.setdefault`."""
        if key not in self:
            self[key] = default
        return self[key]

    def __or__(self, other: Any) -> Config:  # type: ignore[override]
        return operator.ior(self.copy(), other)

    def __ior__(self, other: Any) -> Config:  # type: ignore[override,misc]
        self.update(other)
        return self

    # -- copies -----------------------------------------------------------------------------------------
    def copy(self) -> Config:
        """A shallow copy, with origins."""
        return Config(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Config:
        result = Config({key: copy.deepcopy(value, memo) for key, value in self.items()})
        # One table for all nodes of the copy, as the original's nodes have one.
        origins = memo.setdefault(id(self._origins), dict(self._origins))
        result.__dict__.update(self.__dict__, _origins=origins)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return Config, (dict(self),), self.__dict__

    # -- where values come from, and whether they were checked ------------------------------------------
    def origin_of(self, *keys: object) -> Origin | None:
        """Where the value at a key of this mapping, or at further keys and indices, was written.

        One without a place of its own has that of the nearest section or list around it, this mapping
        excluded; None if it was set in Python.
        """
        if keys and keys[0] not in self:
            return None
        found, path = None, self._path
        for key in keys:
            path = join_path(path, key)
            found = self._origins.get(path, found)
        return found

    def node_origin(self) -> Origin | None:
        """Where this mapping itself was written."""
        return self._origins.get(self._path)

    def node_path(self) -> str:
        """The dotted path this mapping had in its file ("" at the top, or for one made in Python)."""
        return self._path

    def mark_checked(self, registry: object, arguments: dict[str, Any]) -> None:
        """Notes that a registry has checked this node as it is now, and the arguments it stands for."""
        # The text of all values tells 1 from 1.0 and True, and shows changes inside lists.
        self.__dict__["_checked"] = (repr(registry), repr(self), arguments)

    def checked_arguments(self, registry: object) -> dict[str, Any] | None:
        """A copy of the noted arguments; None if another registry, or none, checked the node as it is now."""
        if self._checked is None or self._checked[:2] != (repr(registry), repr(self)):
            return None
        return copy.deepcopy(self._checked[2])

    # -- out ------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists all the way down; nothing is shared with this object."""
        return {key: _as_plain(value) for key, value in self.items()}

    def dump(self) -> str:
        """YAML text that loads back to an equal Config; a TypeError names a value that has none."""
        return dump_yaml(self)


def path_of(cfg: object) -> str:
    """The dotted path that a Config had in its file; "" for anything else."""
    return cfg.node_path() if isinstance(cfg, Config) else ""


def _as_config(value: Any) -> Any:
    if isinstance(value, dict) and not isinstance(value, Config):
        return Config(value)
    if isinstance(value, list):
        items = [_as_config(item) for item in value]
        # A list stays the same object unless a mapping inside had to be turned into a Config.
        if any(map(operator.is_not, items, value)):
            return items
    return value


def _as_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_as_plain, value))
    return copy.deepcopy(value)
