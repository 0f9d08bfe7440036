"""Signatures as schemas: the arguments of a class, dataclass or function, read from its type hints.

Beyond its type a value can be bounded by a rule in `Annotated`: `depth: Annotated[int, Range(min=1)]` (or
`Count`, for short) makes a configuration's `depth: 0` a fault. Calls from Python are not checked.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, runtime_checkable

from passl_sot.config.errors import RegistryError, listing, show

_SCALARS = {None: "null", type(None): "null", bool: "bool", int: "int", float: "float", str: "str"}
_WORDS = {
    "any": "anything",
    "null": "null",
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "text",
}
_PLURALS = {"int": "integers", "float": "numbers", "str": "texts"}
# Of a Range: the bracket of an interval, and words.
_BOUNDS = {
    "min": ("[", "at least"),
    "above": ("(", "above"),
    "max": ("]", "at most"),
    "below": (")", "below"),
}


class Rule:
    """A note in a type hint that judges values of the right type."""

    def complaint(self, value: Any) -> str | None:
        """The fault of a value in words, or None."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Range(Rule):
    """Bounds of a number; values that are no numbers (null, "auto") are not its business.

    Attributes:
        min: Smallest value.
        max: Largest value.
        above: Number that it must exceed.
        below: Number that it must stay under.
    """

    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None

    def complaint(self, value: Any) -> str | None:
        """As `Rule.complaint`."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        inside = (
            (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        return None if inside else f"must {self._words()}, got {show(value)}"

    def _words(self) -> str:
        given = [(_BOUNDS[name], getattr(self, name)) for name in _BOUNDS if getattr(self, name) is not None]
        if len(given) == 2:
            (left, _), low = given[0]
            (right, _), high = given[1]
            return f"lie in {left}{low}, {high}{right}"
        (_, words), bound = given[0]
        return f"be {words} {bound}"


@dataclass(frozen=True)
class NotEmpty(Rule):
    """Refuses an empty text and an empty list."""

    def complaint(self, value: Any) -> str | None:
        """As `Rule.complaint`."""
        empty = value == [] or (isinstance(value, str) and not value.strip())
        return f"must not be empty, got {show(value)}" if empty else None


Count = Annotated[int, Range(min=1)]
Natural = Annotated[int, Range(min=0)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(min=0)]
UnitInterval = Annotated[float, Range(min=0, max=1)]
# A probability to drop something, or a decay: at 1 nothing would be left.
Share = Annotated[float, Range(min=0, below=1)]


def is_finite(value: float) -> bool:
    """Whether a number is one that a float can hold: not nan, not infinite, no integer beyond 1e308."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


@runtime_checkable
class Catalog(Protocol):
    """The part of a registry (which is built on this module) that the checks need."""

    kind: str

    def names(self) -> list[str]:
        """All names."""

    def find(self, name: str) -> Callable[..., Any] | None:
        """The class or function of that name, if there is one."""

    def unknown(self, name: object) -> tuple[str, str | None]:
        """The sentence about a name that does not exist, and the nearest that does."""


@dataclass(frozen=True)
class Hint:
    """A type hint, taken apart.

    Attributes:
        kind: any, null, bool, int, float, str, choice, list, tuple (of any length), fixed (a tuple of so many
            items), mapping, section (a dataclass), node (of a registry) or union.
        type: The hint without notes.
        inner: Hints of a union's alternatives, of a list's items, or of a mapping's values.
        catalog: The registry of a node, or of a list of nodes.
        rules: The rules among its notes.
    """

    kind: str
    type: Any
    inner: tuple[Hint, ...] = ()
    catalog: Catalog | None = None
    rules: tuple[Rule, ...] = ()

    @classmethod
    def of(cls, hint: Any) -> Hint:
        """Reads a type hint.

        Raises:
            RegistryError: A YAML value cannot be checked against it; the message lacks its subject.
        """
        notes: list[Any] = []
        if get_origin(hint) is Annotated:
            hint, *notes = get_args(hint)
        rules = tuple(note for note in notes if isinstance(note, Rule))
        catalog = next((note for note in notes if isinstance(note, Catalog)), None)
        base, args = get_origin(hint) or hint, get_args(hint)
        make = functools.partial(cls, type=hint, catalog=catalog, rules=rules)
        if base in (Union, types.UnionType):
            arms = [Annotated[arm, catalog] if catalog else arm for arm in args]
            return make("union", inner=tuple(map(cls.of, arms)))
        if base in _SCALARS and not (catalog and _SCALARS[base] != "null"):
            return make(_SCALARS[base])
        if catalog and base is dict:
            return make("node")
        if catalog and base in (list, tuple):
            return make("list", inner=(cls("node", dict, catalog=catalog),))
        if catalog:
            raise RegistryError("refers to a registry; write Annotated[dict, ...] or Annotated[list, ...]")
        if base is Any or base is Literal:
            return make("any" if base is Any else "choice")
        if base is dict and args[:1] in ((), (str,)):
            return make("mapping", inner=(cls.of((*args, Any, Any)[1]),))
        if base is tuple and args and Ellipsis not in args:
            return make("fixed", inner=tuple(map(cls.of, args)))
        if base in (list, tuple):
            return make(base.__name__, inner=(cls.of((*args, Any)[0]),))
        if is_section(hint):
            return make("section")
        raise RegistryError(f"has the type hint {hint!r}, which a YAML value cannot be checked against")

    @property
    def arms(self) -> tuple[Hint, ...]:
        """The alternatives of a union; itself for any other hint."""
        return self.inner if self.kind == "union" else (self,)

    @property
    def shape(self) -> str:
        """The YAML shape it stands for: mapping, list or scalar."""
        shapes = {"mapping": ("mapping", "section", "node"), "list": ("list", "tuple", "fixed")}
        return next((shape for shape, kinds in shapes.items() if self.kind in kinds), "scalar")

    def describe(self) -> str:
        """Itself in plain words: "a list of 2: a number, a number", "text or null"."""
        inner = [hint.describe() for hint in self.inner]
        if self.kind == "union":
            return " or ".join(dict.fromkeys(sorted(inner, key=lambda words: words == "null")))
        if self.kind == "choice":
            return one_of(get_args(self.type))
        if self.kind == "node" and self.catalog:
            return f"a {self.catalog.kind} section with a name"
        if self.shape == "mapping":
            return "a section (key: value)"
        if self.shape == "scalar":
            return _WORDS[self.kind]
        if self.catalog:
            return f"a list of {self.catalog.kind} sections, each with a name"
        count = f" {len(inner)}" * (self.kind == "fixed")
        plural = _PLURALS.get(self.inner[0].kind)
        if plural and len(set(inner)) == 1:
            return f"a list of{count} {plural}"
        if self.kind == "fixed":
            return f"a list of{count}: {', '.join(inner)}"
        return "a list" if self.inner[0].kind == "any" else f"a list of values, each {inner[0]}"


def one_of(options: Sequence[object]) -> str:
    """Choices in words: "one of 'a', 'b'"."""
    return "one of " * (len(options) > 1) + ", ".join(map(show, options))


def is_section(hint: Any) -> bool:
    """Whether a hint is a dataclass, that is, a section of the file without a name."""
    return inspect.isclass(hint) and dataclasses.is_dataclass(hint)


@dataclass(frozen=True)
class Parameter:
    """One argument: its type hint and whether it must be given."""

    hint: Hint
    required: bool


class UnresolvedHintError(RegistryError):
    """A type hint names something that is not defined (yet)."""


@dataclass(frozen=True)
class Signature:
    """The arguments that a class, dataclass or function takes.

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
        """Reads a signature and resolves hints that are strings.

        Raises:
            RegistryError: It cannot serve as a strict schema: `*args`, `**kwargs`, positional arguments,
                missing, unresolved or unsupported hints.
        """
        name = str(getattr(target, "__name__", target))
        parameters = {}
        hints: dict[str, Any] = {}
        plain = _plain_parameters(target, name)
        if plain:
            # A dataclass may inherit fields from another module, where their hints are to be looked up.
            source: Any = target
            if inspect.isclass(target) and not is_section(target):
                source = target.__init__
            try:
                hints = typing.get_type_hints(source, include_extras=True)
            except NameError as err:
                raise UnresolvedHintError(
                    f"{name}: a type hint cannot be resolved ({err}); "
                    "import the name at the top of the module, not under TYPE_CHECKING or inside a function"
                ) from None
        for key, param in plain.items():
            try:
                parameters[key] = Parameter(Hint.of(hints[key]), param.default is inspect.Parameter.empty)
            except RegistryError as err:
                raise RegistryError(f"{name}: the argument '{key}' {err}") from None
        return cls(name, parameters, dataclasses.is_dataclass(target))

    @classmethod
    def verify(cls, target: Callable[..., Any], seen: frozenset[Any] = frozenset()) -> None:
        """Refuses a target that cannot serve as a strict schema, or has such a section inside.

        Raises:
            RegistryError: As for `of`. Hints that name something defined further down in the module are
                looked at on first use instead.
        """
        try:
            signature = cls.of(target)
        except UnresolvedHintError:
            return
        hints = [param.hint for param in signature.parameters.values()]
        for hint in hints:
            hints += hint.inner
            if hint.kind == "section" and hint.type not in seen:
                cls.verify(hint.type, seen | {target})

    def takes(self) -> str:
        """The arguments in a sentence's tail: "depth (required), img_size, ..."."""
        required = [f"{key} (required)" for key, param in self.parameters.items() if param.required]
        others = [key for key, param in self.parameters.items() if not param.required]
        return listing([*required, *others], limit=40)


def _plain_parameters(target: Any, name: str) -> dict[str, inspect.Parameter]:
    """The parameters without `self`, if all of them are keyword-only and have hints."""
    own = ""
    if not inspect.isclass(target):
        found = list(inspect.signature(target).parameters.values())
    elif target.__init__ is object.__init__:
        return {}
    else:
        found = list(inspect.signature(target.__init__).parameters.values())[1:]
        home = next((base for base in target.__mro__ if "__init__" in vars(base)), target)
        if home is not target:
            own = f" (the constructor is {home.__name__}'s; give {name} its own)"
    for param in found:
        if param.kind in (param.VAR_POSITIONAL, param.VAR_KEYWORD):
            stars = str(param).partition(param.name)[0]
            raise RegistryError(
                f"{name} takes {stars}{param.name}; name every argument, or misspelt keys go unnoticed{own}"
            )
        if param.kind is not param.KEYWORD_ONLY:
            cure = "@dataclass(kw_only=True)" if is_section(target) else "put '*' before it"
            raise RegistryError(f"{name}: the argument '{param.name}' must be keyword-only ({cure}){own}")
        if param.annotation is param.empty:
            raise RegistryError(
                f"{name}: the argument '{param.name}' has no type hint; the hints are the schema"
            )
    return {param.name: param for param in found}
