"""Trees of plain values and their dotted paths, and `Config`, the tree that programs read."""

import copy
import itertools
import operator
from collections.abc import Iterator, MutableMapping
from typing import Any

from passl_sot.config.errors import Origin, did_you_mean, join_path, nearest
from passl_sot.config.yaml_text import dump_yaml, is_block


def child(value: Any, part: str) -> Any:
    """The value under one part of a dotted path, or LookupError."""
    if isinstance(value, list):
        value = dict(zip(map(str, range(len(value))), value, strict=True))
    if not isinstance(value, dict):
        raise LookupError(part)
    return value[part]


def value_at(tree: Any, path: str) -> Any:
    """The value at a dotted path of a tree that may hold anything; None where there is none."""
    try:
        for part in path.split("."):
            tree = child(tree, part)
    except LookupError:
        return None
    return tree


def walk(tree: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """All that is below a section or list, in order and down to lists of scalars: path, parent and key."""
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        place = join_path(path, key)
        yield place, tree, key
        if is_block(tree[key]):
            yield from walk(tree[key], place)


def suggest_path(tree: dict[str, Any], path: str) -> str | None:
    """The existing dotted path most likely meant by one that leads nowhere."""
    section, _, last = path.rpartition(".")
    # No honest file has more; a suggestion is not worth minutes for one that does.
    paths = [place for place, _, _ in itertools.islice(walk(tree), 2000)]
    siblings = [place.rpartition(".")[2] for place in paths if place.rpartition(".")[0] == section]
    near = nearest(last, siblings)
    if near:
        return join_path(section, near)
    # The only place where the last key exists, or else the most similar path of all.
    homes = [place for place in paths if place.rpartition(".")[2] == last != "name"]
    if len(homes) == 1 and not last.isdecimal():
        return homes[0]
    # With the right section and no similar key in it, a key that shares only the section would mislead.
    if siblings or not section:
        return None
    return nearest(path, paths)


class _Broken:
    def __repr__(self) -> str:
        return "(broken reference)"


# Stands for the value of a broken reference until all faults have been found.
BROKEN = _Broken()


class Config(dict[str, Any]):
    """A real `dict` whose keys are attributes too: `cfg.model.head.num_classes`.

    Mappings stored in it (also inside lists) become `Config`; lists stay plain lists. Where each value was
    written is kept beside the items: it never shows up among the keys and survives copying and pickling.
    A key that is also a method of dict ("items", "copy", ...) is reached as `cfg["items"]`.
    """

    # Attributes are keys, so these stand in the instance's `__dict__`, written past `__setattr__`.
    _path: str  # dotted path in its file; "" at the top, or for one made in Python
    _origins: dict[str, Origin]  # by dotted path from the top of the file; shared by all of one file's nodes
    _checked: tuple[str, dict[str, Any]]  # what a registry has checked, and the arguments that it stands for

    update = MutableMapping.update  # type: ignore[assignment] # that of dict would store past `__setitem__`

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()
        self.__dict__.update(_path="", _origins={}, _checked=("", {}))
        self.update(*args)
        if args and isinstance(args[0], Config):
            self.__dict__.update(args[0].__dict__, _origins=dict(args[0]._origins))
        self.update(**kwargs)

    @classmethod
    def of(cls, items: dict[str, Any], path: str, origins: dict[str, Origin]) -> "Config":
        """A section that stands at `path` in its file, whose nodes share `origins`."""
        config = cls(items)
        config.__dict__.update(_path=path, _origins=origins)
        return config

    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        # Names like __deepcopy__ or _repr_html_ are asked for by libraries: no suggestions for them.
        near = None if key.startswith("_") else nearest(key, self)
        path = self.__dict__.get("_path", "")
        where = f" in '{path}'" * bool(path)
        raise AttributeError(f"the config has no key '{key}'{where}{did_you_mean(near)}")

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

    def __or__(self, other: Any) -> "Config":  # type: ignore[override]
        return operator.ior(self.copy(), other)

    def __ior__(self, other: Any) -> "Config":  # type: ignore[override,misc]
        self.update(other)
        return self

    def copy(self) -> "Config":
        """A shallow copy, with origins."""
        return Config(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> "Config":
        result = Config({key: copy.deepcopy(value, memo) for key, value in self.items()})
        # One table for all nodes of the copy, as the original's nodes have one.
        origins = memo.setdefault(id(self._origins), dict(self._origins))
        result.__dict__.update(self.__dict__, _origins=origins)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return Config, (dict(self),), self.__dict__

    def origin_of(self, key: str) -> Origin | None:
        """Where the value at a key or path below this mapping was written; None if it was set in Python."""
        return self._origins.get(join_path(self._path, key))

    def origin_near(self, path: str) -> Origin | None:
        """As `origin_of`, by the path from the top of the file; or of the nearest section or list around."""
        while "." in path and path not in self._origins:
            path = path.rpartition(".")[0]
        return self._origins.get(path)

    def mark_checked(self, registry: object, arguments: dict[str, Any]) -> None:
        """Notes that a registry has checked this node as it is now, and the arguments it stands for."""
        # The text of all values tells 1 from 1.0 and True, and shows changes inside lists.
        self.__dict__["_checked"] = (f"{registry!r}: {self!r}", arguments)

    def checked_arguments(self, registry: object) -> dict[str, Any] | None:
        """A copy of the noted arguments; None if another registry, or none, checked the node as it is now."""
        checked, arguments = self._checked
        return copy.deepcopy(arguments) if checked == f"{registry!r}: {self!r}" else None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists all the way down; nothing is shared with this object."""
        return {key: _as_plain(value) for key, value in self.items()}

    def dump(self) -> str:
        """YAML text that loads back to an equal Config; a TypeError names a value that has none."""
        return dump_yaml(self)


def path_of(cfg: object) -> str:
    """The dotted path that a Config had in its file; "" for anything else."""
    return cfg._path if isinstance(cfg, Config) else ""


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
