"""Dotted paths into a configuration tree: taking a step, listing all, finding the one that was meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from passl_sot.config.errors import Origin, join_path, nearest
from passl_sot.config.tree import Config

_MISSING = object()


def is_index(part: str) -> bool:
    """Whether a part of a dotted path is a list index: ASCII digits, not absurdly many."""
    return part.isascii() and part.isdigit() and len(part) < 10


def step(value: Any, part: str) -> Any:
    """The item of a mapping or list under one part of a path.

    Raises:
        LookupError: There is none.
    """
    if isinstance(value, Mapping):
        return value[part]
    if isinstance(value, list) and is_index(part):
        return value[int(part)]
    raise LookupError(part)


def look_up(root: Any, path: str) -> Any:
    """The value at a dotted path.

    Raises:
        LookupError: There is none.
    """
    for part in path.split("."):
        root = step(root, part)
    return root


def origin_at(root: Any, path: str) -> Origin | None:
    """Where the value at a dotted path was written, or the section nearest to it that was.

    Args:
        root: A `Config`, or what has been made of one.
        path: Dotted path of keys.
    """
    origin = None
    for part in path.split("."):
        if not isinstance(root, Config):
            break
        origin = root.origin_of(part) or origin
        root = root.get(part)
    return origin


def all_paths(value: Any, path: str = "") -> Iterator[str]:
    """Every dotted path in a tree: sections, lists, items and values, in order."""
    pairs: Any = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    for key, item in pairs:
        place = join_path(path, key)
        yield place
        yield from all_paths(item, place)


def suggest_path(root: Any, path: str, limit: int = 2000) -> str | None:
    """The existing dotted path most likely meant by one that leads nowhere.

    The first wrong part is mended where it stands; failing that, the only place where the last key exists is
    taken, then the most similar path of all.
    """
    value, parts, position = root, path.split("."), 0
    for position, part in enumerate(parts):  # noqa: B007 (where it breaks off is the point)
        try:
            value = step(value, part)
        except LookupError:
            break
    else:
        return None
    if isinstance(value, Mapping):
        near = nearest(part, map(str, value))
        if near:
            mended = ".".join([*parts[:position], near, *parts[position + 1 :]])
            return mended if _exists(root, mended) else ".".join([*parts[:position], near])
    paths = [place for _, place in zip(range(limit), all_paths(root), strict=False)]
    homes = [place for place in paths if place.rpartition(".")[2] == parts[-1] and parts[-1] != "name"]
    if len(homes) == 1:
        return homes[0]
    # With the right section and no similar key in it, a key that shares only the section would mislead.
    return nearest(path, paths) if position < len(parts) - 1 else None


def _exists(root: Any, path: str) -> bool:
    try:
        look_up(root, path)
    except LookupError:
        return False
    return True
