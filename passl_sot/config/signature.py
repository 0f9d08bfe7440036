"""Signatures as schemas: the arguments of a class, dataclass or function, read from its type hints.

Rules in `Annotated` bound a configuration's values further: `depth: Annotated[int, Range(min=1)]`, or `Count`
for short. Calls from Python are not checked.
"""

import dataclasses
import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from passl_sot.config.errors import RegistryError, listing, show

_SCALARS = {type(None): "null", bool: "bool", int: "int", float: "float", str: "str"}
# In words, one and several.
_WORDS = {
    "any": ("anything", ""),
    "null": ("null", ""),
    "bool": ("true or false", ""),
    "int": ("an integer", "integers"),
    "float": ("a number", "numbers"),
    "str": ("text", "texts"),
}
# Of a Range: the test of a value against a bound, the bracket of an interval, and words.
_BOUNDS = {
    "min": (operator.ge, "[", "at least"),
    "above": (operator.gt, "(", "above"),
    "max": (operator.le, "]", "at most"),
    "below": (operator.lt, ")", "below"),
}


class Rule:
    """A note in a type hint that judges values of the right type."""

    def complaint(self, value: Any) -> str | None:
        """The fault of a value in words, or None."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Range(Rule):
    """Bounds of a number; values that are no numbers (null, "auto") are not its business."""

    # In this order the lower bound comes first in messages. `above` and `below` exclude the bound itself.
    min: float | None = None
    above: float | None = None
    max: float | None = None
    below: float | None = None

    def complaint(self, value: Any) -> str | None:
        """As `Rule.complaint`."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        given = [(*_BOUNDS[name], bound) for name, bound in vars(self).items() if bound is not None]
        if all(holds(value, bound) for holds, _, _, bound in given):
            return None
        _, bracket, words, bound = given[0]
        rule = f"be {words} {bound}"
        for _, closing, _, highest in given[1:]:
            rule = f"lie in {bracket}{bound}, {highest}{closing}"
        return f"must {rule}, got {show(value)}"


@dataclass(frozen=True)
class NotEmpty(Rule):
    """Refuses an empty text and an empty list."""

    def complaint(self, value: Any) -> str | None:
        """As `Rule.complaint`."""
        if value == [] or (isinstance(value, str) and not value.strip()):
            return f"must not be empty, got {show(value)}"
        return None


Count = Annotated[int, Range(min=1)]
Natural = Annotated[int, Range(min=0)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(min=0)]
UnitInterval = Annotated[float, Range(min=0, max=1)]
# Channels: beyond any model, and far below what a slipped zero too many would allocate.
Width = Annotated[int, Range(min=1, max=2**16)]
# A probability to drop something, or a decay: at 1 nothing would be left.
Share = Annotated[float, Range(min=0, below=1)]


@dataclass(frozen=True)
class Hint:
    """A type hint, taken apart."""

    # any, null, bool, int, float, str, choice, list, tuple (of any length), fixed (a tuple of so many items),
    # mapping, section (a dataclass), node (of a registry) or union
    kind: str
    type: Any  # the hint without notes
    catalog: Any = None  # the registry of a node, or of a list of nodes
    rules: tuple[Rule, ...] = ()  # those among its notes
    inner: "tuple[Hint, ...]" = ()  # of a union's alternatives, of a list's items, or of a mapping's values

    @classmethod
    def of(cls, hint: Any, what: str) -> "Hint":
        """Reads the type hint of what a RegistryError, should YAML be none to check by it, shall name."""
        notes: list[Any] = []
        if get_origin(hint) is Annotated:
            hint, *notes = get_args(hint)
        rules = tuple(note for note in notes if isinstance(note, Rule))
        # A Registry, which is built on this module.
        catalog = next((note for note in notes if hasattr(note, "find")), None)
        base, args = get_origin(hint) or hint, get_args(hint)
        make = functools.partial(cls, type=hint, catalog=catalog, rules=rules)
        if base in (Union, types.UnionType):
            arms = [Annotated[arm, catalog] if catalog else arm for arm in args]
            return make("union", inner=tuple(cls.of(arm, what) for arm in arms))
        if catalog and base is dict:
            return make("node")
        if catalog and base in (list, tuple):
            return make("list", inner=(cls("node", dict, catalog),))
        if base in _SCALARS:
            return make(_SCALARS[base])
        if base is Any:
            return make("any")
        if base is Literal:
            return make("choice")
        if base is dict and args[:1] in ((), (str,)):
            return make("mapping", inner=(cls.of((*args, Any, Any)[1], what),))
        if base is tuple and args and Ellipsis not in args:
            return make("fixed", inner=tuple(cls.of(arg, what) for arg in args))
        if base in (list, tuple):
            return make(base.__name__, inner=(cls.of((*args, Any)[0], what),))
        if is_section(hint):
            return make("section")
        wanted = "which a YAML value cannot be checked against"
        raise RegistryError(f"{what} has the type hint {hint!r}, {wanted}")

    @property
    def arms(self) -> "tuple[Hint, ...]":
        """The alternatives of a union; itself for any other hint."""
        return self.inner if self.kind == "union" else (self,)

    @property
    def shape(self) -> str:
        """The YAML shape it stands for: mapping, list or scalar."""
        if self.kind in ("mapping", "section", "node"):
            return "mapping"
        if self.kind in ("list", "tuple", "fixed"):
            return "list"
        return "scalar"

    def describe(self) -> str:
        """Itself in plain words: "a list of 2: a number, a number", "text or null"."""
        inner = [hint.describe() for hint in self.inner]
        if self.kind == "union":
            return " or ".join(dict.fromkeys(sorted(inner, key=lambda words: words == "null")))
        if self.kind == "choice":
            options = get_args(self.type)
            return "one of " * (len(options) > 1) + ", ".join(map(show, options))
        if self.kind == "node":
            return f"a {self.catalog.kind} section with a name"
        if self.shape == "mapping":
            return "a section (key: value)"
        if self.shape == "scalar":
            return _WORDS[self.kind][0]
        if self.catalog:
            return f"a list of {self.catalog.kind} sections, each with a name"
        count = f" {len(inner)}" * (self.kind == "fixed")
        one, several = _WORDS.get(self.inner[0].kind, ("", ""))
        if several and set(inner) == {one}:
            return f"a list of{count} {several}"
        if self.kind == "fixed":
            return f"a list of{count}: {', '.join(inner)}"
        if self.inner[0].kind == "any":
            return "a list"
        return f"a list of values, each {inner[0]}"


def is_section(hint: Any) -> bool:
    """Whether a hint is a dataclass, that is, a section of the file without a name."""
    return inspect.isclass(hint) and dataclasses.is_dataclass(hint)


@dataclass(frozen=True)
class Signature:
    """The arguments of a class, dataclass or function with their hints, and those without a default."""

    name: str
    hints: dict[str, Hint]
    required: list[str]

    @classmethod
    @functools.cache
    def of(cls, target: Callable[..., Any]) -> "Signature":
        """Reads a signature; a RegistryError tells why it cannot serve as a strict schema."""
        name = str(getattr(target, "__name__", target))
        source: Any = target
        own = ""
        if inspect.isclass(target):
            home: Any = next(base for base in target.__mro__ if "__init__" in vars(base))
            # A dataclass may inherit fields from another module, where their hints are to be looked up.
            source = target if is_section(target) else home.__init__
            if home is not target:
                own = f" (the constructor is {home.__name__}'s; give {name} its own)"
        parameters = inspect.signature(target).parameters
        for key, param in parameters.items():
            argument = f"{name}: the argument '{key}'"
            if param.kind in (param.VAR_POSITIONAL, param.VAR_KEYWORD):
                stars = str(param).partition(":")[0]
                cure = "name every argument, or misspelt keys go unnoticed"
                raise RegistryError(f"{name} takes {stars}; {cure}{own}")
            if param.kind is not param.KEYWORD_ONLY:
                cure = "@dataclass(kw_only=True)" if is_section(target) else "put '*' before it"
                raise RegistryError(f"{argument} must be keyword-only ({cure}){own}")
            if param.annotation is param.empty:
                raise RegistryError(f"{argument} has no type hint; the hints are the schema")
        try:
            types_of = typing.get_type_hints(source, include_extras=True) if parameters else {}
        except NameError as err:
            cure = "import the name at the top of the module, not under TYPE_CHECKING or inside a function"
            raise RegistryError(f"{name}: a type hint cannot be resolved ({err}); {cure}") from None
        hints = {key: Hint.of(types_of[key], f"{name}: the argument '{key}'") for key in parameters}
        return cls(name, hints, [key for key, param in parameters.items() if param.default is param.empty])

    def takes(self) -> str:
        """The arguments in a sentence's tail: "depth (required), img_size, ..."."""
        others = [key for key in self.hints if key not in self.required]
        return listing([*(f"{key} (required)" for key in self.required), *others], limit=40)
