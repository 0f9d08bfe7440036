"""`${dotted.path}`: a value that stands for another one of the same tree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from passl_sot.config.errors import BROKEN, ConfigError, Fault, Origin, did_you_mean, join_path
from passl_sot.config.paths import step, suggest_path
from passl_sot.config.tree import Config
from passl_sot.config.tree_builder import MAX_VALUES
from passl_sot.config.yaml_text import MAX_DEPTH

_WHOLE = re.compile(r"\$\{\s*([^${}]*?)\s*\}\Z")


@dataclass(frozen=True)
class _Found:
    """A value of the unresolved tree and its place."""

    value: Any
    path: str
    owner: Config | None = None
    key: str = ""
    indices: tuple[int, ...] = ()

    def origin(self) -> Origin | None:
        return self.owner.origin_of(self.key, *self.indices) if self.owner is not None else None

    def child(self, part: str) -> _Found:
        value = step(self.value, part)
        path = join_path(self.path, part)
        if isinstance(self.value, Config):
            return _Found(value, path, self.value, part)
        return _Found(value, path, self.owner, self.key, (*self.indices, int(part)))


class _Dangling(Exception):
    def __init__(self, message: str, near: str | None = None, ring: frozenset[str] = frozenset()):
        super().__init__(message)
        self.near = near
        self.ring = ring


def resolve(config: Config) -> tuple[Config, list[Fault]]:
    """Replaces every reference by a copy of what it names; `config` is not changed.

    Returns:
        The resolved tree, in which `BROKEN` stands for a broken reference, and the faults.
    """
    resolver = _Resolver(config)
    resolved = resolver.copy(_Found(config, ""), {})
    return resolved, list(dict.fromkeys(resolver.faults))


class _Resolver:
    def __init__(self, root: Config):
        self.root = root
        self.faults: list[Fault] = []
        self._rings: set[frozenset[str]] = set()
        self._count = 0

    def copy(self, found: _Found, active: dict[int, str]) -> Any:
        """The resolved copy of a value; `active` holds the containers it stands in."""
        self._count += 1
        if self._count > MAX_VALUES or len(active) > 2 * MAX_DEPTH:
            message = "the references multiply to more than a configuration can hold"
            raise ConfigError([Fault(found.path, message, found.origin(), "reference")])
        value = found.value
        if isinstance(value, str):
            return self._text(found, active)
        if not isinstance(value, (Config, list)):
            return value
        inside = {**active, id(value): found.path}
        if isinstance(value, list):
            return [self.copy(found.child(str(index)), inside) for index in range(len(value))]
        result = Config()
        result.place(value.node_origin(), found.path)
        for key in value:
            item = self.copy(_Found(value[key], join_path(found.path, key), value, key), inside)
            result.take(key, item, value)
        return result

    def _text(self, found: _Found, active: dict[int, str]) -> Any:
        text: str = found.value
        if "${" not in text:
            return text
        match = _WHOLE.match(text)
        if not match:
            rest = text.replace("$${", "")
            if "${" in rest:
                message = (
                    f"'{text}': a reference must be the whole value, as in ${{model.head.num_classes}}; "
                    "for a literal '${' write '$${'"
                )
                self.faults.append(Fault(found.path, message, found.origin(), "reference"))
                return BROKEN
            return text.replace("$${", "${")
        try:
            target = self._follow(found, ())
            if id(target.value) in active:
                raise _Dangling(f"'{text}' stands inside what it refers to")
        except _Dangling as err:
            if err.ring and err.ring in self._rings:  # each cycle is told of once
                return BROKEN
            self._rings.add(err.ring)
            self.faults.append(Fault(found.path, str(err), found.origin(), "reference", err.near))
            return BROKEN
        return self.copy(target, active)

    def _follow(self, found: _Found, chain: tuple[str, ...]) -> _Found:
        """What a value stands for that may be a reference; `chain` holds the references that led here."""
        while isinstance(found.value, str) and (match := _WHOLE.match(found.value)):
            if found.path in chain:
                ring = [*chain[chain.index(found.path) :], found.path]
                raise _Dangling("the references form a cycle: " + " -> ".join(ring), ring=frozenset(ring))
            chain = (*chain, found.path)
            if len(chain) > MAX_DEPTH:
                raise _Dangling("the chain of references is too long")
            found = self._locate(match.group(1), chain)
        return found

    def _locate(self, path: str, chain: tuple[str, ...]) -> _Found:
        found = _Found(self.root, "")
        for part in path.split("."):
            try:
                found = self._follow(found, chain).child(part)
            except LookupError:
                near = suggest_path(self.root, path)
                unwritten = isinstance(found.value, Config) and "name" in found.value and not near
                hint = did_you_mean(near) or (
                    "; a default must be written out to be referred to" if unwritten else ""
                )
                raise _Dangling(f"'${{{path}}}' refers to nothing{hint}", near) from None
        return found
