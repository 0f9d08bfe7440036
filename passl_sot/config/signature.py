"""Signatures as schemas: what a class, dataclass or function takes, read from its type hints."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, runtime_checkable

from passl_sot.config.errors import RegistryError, listing, show
from passl_sot.config.ranges import Rule

_SCALARS = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "null"}


@runtime_checkable
class Catalog(Protocol):
    """What the checks need of a registry (which is built on this module)."""

    kind: str

    def names(self) -> list[str]:
        """All names."""
        ...

    def find(self, name: str) -> Callable[..., Any] | None:
        """The class or function of that name, if there is one."""
        ...

    def unknown(self, name: object) -> tuple[str, str | None]:
        """The sentence about a name that does not exist, and the nearest that does."""
        ...


@dataclass(frozen=True)
class Parameter:
    """One argument: its type hint and whether it must be given."""

    annotation: Any
    required: bool


@dataclass(frozen=True)
class Signature:
    """What a class, dataclass or function takes.

    Attributes:
        name: Its name.
        parameters: Arguments in order.
        section: Whether it is a dataclass, that is, a section of the file without a name.
    """

    name: str
    parameters: dict[str, Parameter]
    section: bool

    @classmethod
    def of(cls, target: Callable[..., Any]) -> Signature:
        """Reads the signature, resolving hints that are strings.

        Raises:
            RegistryError: The signature cannot serve as a schema.
        """
        plain = _plain_parameters(target)
        name = _name_of(target)
        try:
            hints = _hints_of(target)
        except NameError as err:
            raise RegistryError(
                f"{name}: a type hint cannot be resolved ({err}); "
                "import the name at the top of the module, not under TYPE_CHECKING or inside a function"
            ) from None
        parameters = {
            key: Parameter(hints.get(key, Any), param.default is inspect.Parameter.empty)
            for key, param in plain.items()
        }
        return cls(name, parameters, dataclasses.is_dataclass(target))

    @classmethod
    def verify(cls, target: Callable[..., Any], seen: frozenset[Any] = frozenset()) -> None:
        """Refuses what cannot serve as a strict schema.

        Hints that name something defined further down in the module are looked at on first use instead.

        Raises:
            RegistryError: `*args`, `**kwargs`, positional arguments, missing or unsupported hints.
        """
        name = _name_of(target)
        for key, param in _plain_parameters(target).items():
            if param.annotation is inspect.Parameter.empty:
                raise RegistryError(
                    f"{name}: the argument '{key}' has no type hint; the hints are the schema"
                )
        try:
            hints = _hints_of(target)
        except NameError:
            return
        for key in _plain_parameters(target):
            _verify_hint(hints.get(key, Any), f"{name}: the argument '{key}'", seen | {target})

    def takes(self, skip: Iterable[str] = ()) -> str:
        """The arguments in a sentence's tail: "depth (required), img_size, ..."."""
        hidden = set(skip)
        rows = [(key, param.required) for key, param in self.parameters.items() if key not in hidden]
        rows.sort(key=lambda row: not row[1])
        return listing([f"{key} (required)" if required else key for key, required in rows], limit=40)


def _name_of(target: Any) -> str:
    return str(getattr(target, "__name__", target))


def _plain_parameters(target: Any) -> dict[str, inspect.Parameter]:
    name = _name_of(target)
    own = ""
    if inspect.isclass(target):
        if target.__init__ is object.__init__:
            return {}
        found = list(inspect.signature(target.__init__).parameters.values())[1:]
        home = next((base for base in target.__mro__ if "__init__" in vars(base)), target)
        own = "" if home is target else f" (the constructor is {home.__name__}'s; give {name} its own)"
    else:
        found = list(inspect.signature(target).parameters.values())
    for param in found:
        if param.kind in (param.VAR_POSITIONAL, param.VAR_KEYWORD):
            stars = "*" if param.kind is param.VAR_POSITIONAL else "**"
            raise RegistryError(
                f"{name} takes {stars}{param.name}; name every argument, or misspelt keys go unnoticed{own}"
            )
        if param.kind is not param.KEYWORD_ONLY:
            raise RegistryError(
                f"{name}: the argument '{param.name}' must be keyword-only "
                + ("(@dataclass(kw_only=True))" if is_section(target) else "(put '*' before it)")
                + own
            )
    return {param.name: param for param in found}


def _hints_of(target: Any) -> dict[str, Any]:
    if inspect.isclass(target) and not dataclasses.is_dataclass(target):
        if target.__init__ is object.__init__:
            return {}
        return typing.get_type_hints(target.__init__, include_extras=True)
    return typing.get_type_hints(target, include_extras=True)


def _verify_hint(hint: Any, where: str, seen: frozenset[Any]) -> None:
    inner, catalog = unwrap(hint)
    if catalog is not None:
        if any(kind_of(arm) not in ("list", "mapping", "null") for arm in arms_of(inner)):
            raise RegistryError(
                f"{where} refers to a registry; write Annotated[dict, ...] or Annotated[list, ...]"
            )
        return
    origin, args = get_origin(inner), get_args(inner)
    if inner is Any or inner in _SCALARS or origin is Literal or inner in (list, tuple, dict):
        return
    if is_union(inner) or origin in (list, tuple):
        for arg in args:
            if arg is not Ellipsis:
                _verify_hint(arg, where, seen)
        return
    if origin is dict and args[0] is str:
        return _verify_hint(args[1], where, seen)
    if is_section(inner):
        if inner not in seen:
            Signature.verify(inner, seen)
        return
    raise RegistryError(f"{where} has the type hint {hint!r}, which a YAML value cannot be checked against")


def unwrap(hint: Any) -> tuple[Any, Catalog | None]:
    """A hint without its notes, and the registry among them, if any."""
    if get_origin(hint) is not Annotated:
        return hint, None
    inner, *notes = get_args(hint)
    return inner, next((note for note in notes if isinstance(note, Catalog)), None)


def rules_of(hint: Any) -> list[Rule]:
    """The rules among the notes of a hint."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return [note for note in notes if isinstance(note, Rule)]


def is_union(hint: Any) -> bool:
    """Whether a hint offers alternatives."""
    return get_origin(hint) in (Union, types.UnionType)


def arms_of(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a hint; itself when it has none."""
    return get_args(hint) if is_union(hint) else (hint,)


def is_section(hint: Any) -> bool:
    """Whether a hint is a dataclass, that is, a section of the file without a name."""
    return inspect.isclass(hint) and dataclasses.is_dataclass(hint)


def kind_of(hint: Any) -> str:
    """Which YAML shape a hint without unions stands for: mapping, list, null, scalar or any."""
    inner, _ = unwrap(hint)
    base = get_origin(inner) or inner
    if inner is Any:
        return "any"
    if base is dict or is_section(inner):
        return "mapping"
    if base in (list, tuple):
        return "list"
    return "null" if inner in (None, type(None)) else "scalar"


def describe(hint: Any) -> str:
    """A type hint in plain words: "a list of 2: a number, a number", "text or null"."""
    inner, catalog = unwrap(hint)
    origin, args = get_origin(inner), get_args(inner)
    if is_union(inner):
        words = [describe(Annotated[arm, catalog] if catalog else arm) for arm in args]
        return " or ".join(dict.fromkeys(sorted(words, key=lambda word: word == "null")))
    if catalog is not None and kind_of(inner) != "null":
        if kind_of(inner) == "list":
            return f"a list of {catalog.kind} sections, each with a name"
        return f"a {catalog.kind} section with a name"
    if inner is None or inner in _SCALARS:
        return _SCALARS[type(None) if inner is None else inner]
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(show(arg) for arg in args)
    plain = {int: "integers", float: "numbers", str: "texts"}
    items = [arg if unwrap(arg)[1] else unwrap(arg)[0] for arg in args]  # rules are told when they are broken
    if origin is tuple and Ellipsis not in args:
        if len(set(items)) == 1 and items[0] in plain:
            return f"a list of {len(args)} {plain[items[0]]}"
        return f"a list of {len(args)}: " + ", ".join(map(describe, args))
    if origin in (list, tuple):
        return "a list of " + plain.get(items[0], f"values, each {describe(args[0])}")
    if inner in (list, tuple):
        return "a list"
    return "anything" if inner is Any else "a section (key: value)"
