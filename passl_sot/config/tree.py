"""`Config`: a dict with attribute access that knows where each of its values was written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from passl_sot.config.errors import Origin, nearest
from passl_sot.config.yaml_text import dump_yaml


class Config(dict[str, Any]):
    """A real `dict` whose keys are attributes too: `cfg.model.head.num_classes`.

    Mappings stored in it (also inside lists) become `Config`; lists stay plain lists. Where each value was
    written is kept beside the items: it never shows up among the keys and survives copying and pickling.
    A key that is also a method of dict ("items", "copy", ...) is reached as `cfg["items"]`.
    """

    __slots__ = ("_checked", "_node_origin", "_node_path", "_origins")
    _checked: tuple[object, str] | None
    _node_origin: Origin | None
    _node_path: str
    _origins: dict[tuple[Any, ...], Origin]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()
        object.__setattr__(self, "_origins", {})
        object.__setattr__(self, "_node_origin", None)
        object.__setattr__(self, "_node_path", "")
        object.__setattr__(self, "_checked", None)
        if len(args) == 1 and isinstance(args[0], Config):
            self._adopt(args[0])
            for key, value in args[0].items():
                dict.__setitem__(self, key, value)
            self._origins.update(args[0]._origins)
            self.update(**kwargs)
        else:
            self.update(*args, **kwargs)

    # -- attribute access ---------------------------------------------------------------------------
    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        # Names like __deepcopy__ or _repr_html_ are asked for by libraries: no suggestions for them.
        near = None if key.startswith("_") else nearest(key, map(str, self))
        where = f" in '{self._node_path}'" if self._node_path else ""
        hint = f"; did you mean '{near}'?" if near else ""
        raise AttributeError(f"the config has no key '{key}'{where}{hint}")

    def __setattr__(self, key: str, value: Any) -> None:
        if hasattr(type(self), key):
            raise AttributeError(f"'{key}' is a name that dict uses itself; write cfg['{key}'] = ... instead")
        self[key] = value

    def __delattr__(self, key: str) -> None:
        if key not in self:
            self.__getattr__(key)
        del self[key]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(key for key in self if key.isidentifier())]

    def __repr__(self) -> str:
        return f"Config({super().__repr__()})"

    # -- dict methods that store ----------------------------------------------------------------------
    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _as_config(value))
        for where in [where for where in self._origins if where[0] == key]:
            del self._origins[where]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As `dict.update`; the new values have no origin."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As `dict.setdefault`."""
        if key not in self:
            self[key] = default
        return self[key]

    def __or__(self, other: Any) -> Config:  # type: ignore[override]
        if not isinstance(other, Mapping):
            return NotImplemented
        result = self.copy()
        result.update(other)
        return result

    def __ior__(self, other: Any) -> Config:  # type: ignore[override,misc]
        self.update(other)
        return self

    # -- copies -----------------------------------------------------------------------------------------
    def copy(self) -> Config:
        """A shallow copy, with origins."""
        return copy.copy(self)

    def __copy__(self) -> Config:
        return Config(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Config:
        result = Config()
        memo[id(self)] = result
        result._adopt(self)
        for key, value in self.items():
            dict.__setitem__(result, key, copy.deepcopy(value, memo))
        result._origins.update(self._origins)
        return result

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = {"origins": self._origins, "node_origin": self._node_origin, "node_path": self._node_path}
        return Config, (), state, None, iter(self.items())

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__setattr__(self, "_origins", dict(state["origins"]))
        object.__setattr__(self, "_node_origin", state["node_origin"])
        object.__setattr__(self, "_node_path", state["node_path"])

    def _adopt(self, other: Config) -> None:
        object.__setattr__(self, "_node_origin", other._node_origin)
        object.__setattr__(self, "_node_path", other._node_path)
        object.__setattr__(self, "_checked", other._checked)

    # -- origins ------------------------------------------------------------------------------------------
    def origin_of(self, key: str, *indices: int) -> Origin | None:
        """Where the value of `key` was written.

        Args:
            key: A key of this mapping.
            *indices: Position inside the list that the key holds; an item without a place of its own has
                its list's.

        Returns:
            File and line, or "command line"; None for a value that was set in Python.
        """
        if key not in self:
            return None
        for length in range(len(indices), -1, -1):
            origin = self._origins.get((key, *indices[:length]))
            if origin is not None:
                return origin
        return None

    def set_with_origin(self, key: str, value: Any, origin: Origin | None) -> None:
        """Stores a value together with the place it came from."""
        self[key] = value
        if origin is not None:
            self._origins[(key,)] = origin

    def set_item_origin(self, key: str, indices: tuple[int, ...], origin: Origin | None) -> None:
        """Notes where an item of the list under `key` came from, forgetting what was known inside it."""
        place = (key, *indices)
        for where in [where for where in self._origins if where[: len(place)] == place]:
            del self._origins[where]
        if origin is not None:
            self._origins[place] = origin

    def note_items(self, key: str, origins: dict[tuple[int, ...], Origin]) -> None:
        """Notes where items of the list under `key` came from, by position."""
        self._origins.update({(key, *indices): origin for indices, origin in origins.items()})

    def take(self, key: str, value: Any, other: Config) -> None:
        """Stores a value under `key` with the origins that `other` has for that key."""
        self[key] = value
        self._origins.update({where: origin for where, origin in other._origins.items() if where[0] == key})

    def node_origin(self) -> Origin | None:
        """Where this mapping itself was written."""
        return self._node_origin

    def node_path(self) -> str:
        """The dotted path this mapping had in its file ("" at the top, or for one made in Python)."""
        return self._node_path

    def place(self, origin: Origin | None, path: str) -> None:
        """Notes where this mapping stands."""
        object.__setattr__(self, "_node_origin", origin)
        object.__setattr__(self, "_node_path", path)

    # -- the mark of a checked node -----------------------------------------------------------------------
    def mark_checked(self, registry: object) -> None:
        """Notes that this node, as it is now, has passed the check of a registry."""
        object.__setattr__(self, "_checked", (registry, repr(self)))

    def is_checked(self, registry: object) -> bool:
        """Whether this node has passed the check of that registry and was not changed since."""
        # The text of all values tells 1 from 1.0 and True, and sees changes inside lists.
        return self._checked is not None and self._checked == (registry, repr(self))

    # -- out ------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists all the way down; nothing is shared with this object."""
        return {key: _as_plain(value) for key, value in self.items()}

    def dump(self) -> str:
        """YAML text that loads back to an equal Config; keys keep their order.

        Raises:
            TypeError: A value has no YAML form (the message names its path).
        """
        return dump_yaml(self.to_dict())


def _as_config(value: Any) -> Any:
    if isinstance(value, Config):
        return value
    if isinstance(value, dict):
        return Config(value)
    # A list is kept as the same object unless a mapping inside has to be turned into a Config.
    if isinstance(value, list) and _holds_plain_dict(value):
        return [_as_config(item) for item in value]
    return value


def _holds_plain_dict(value: Any) -> bool:
    if isinstance(value, list):
        return any(_holds_plain_dict(item) for item in value)
    return isinstance(value, dict) and not isinstance(value, Config)


def _as_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_as_plain(item) for item in value)
    return copy.deepcopy(value)
