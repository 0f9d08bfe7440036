"""One walk over a configuration: checks values against signatures and makes arguments of them."""

import contextlib
import copy
import functools
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_args

from passl_sot.config.errors import (
    COMMAND_LINE,
    ConfigError,
    Fault,
    Origin,
    did_you_mean,
    join_path,
    listing,
    nearest,
    same_letters,
    show,
)
from passl_sot.config.signature import Hint, Signature, is_section
from passl_sot.config.tree import BROKEN, Config, path_of

_T = TypeVar("_T")


class Checker:
    """Collects the faults of a tree, and the keys that its sections take."""

    def __init__(self, cfg: object):
        self.cfg = cfg
        self._takes: dict[str, list[str]] = {}  # by the section's path
        # A fault about an unknown key is worded last, when all sections of the file have been seen; a broken
        # reference, whose fault is known, is None.
        self._found: list[Fault | Callable[[], Fault] | None] = []

    def finish(self, earlier: Sequence[Fault] = ()) -> None:
        """Raises a ConfigError if there are faults, in the order of the tree."""
        faults = [*earlier]
        for item in self._found:
            if isinstance(item, Fault):
                faults.append(item)
            elif item is not None:
                faults.append(item())
        if faults:
            raise ConfigError(faults)

    def places(self) -> list[str]:
        """The dotted path of every key that the sections seen so far take."""
        return [join_path(home, name) for home, names in self._takes.items() for name in names]

    def node(self, catalog: Any, cfg: Any, path: str, given: frozenset[str] = frozenset()) -> Any:
        """A marked copy of a mapping whose `name` chooses a class; the program adds `given` arguments."""
        if not isinstance(cfg, Mapping):
            message = f"expected a {catalog.kind} section with a name, got {show(cfg)}"
            if isinstance(cfg, str) and catalog.find(cfg):
                message += f"; write {{name: {cfg}}}"
            return self._note(path, message, "type")
        name = cfg.get("name")
        if name is BROKEN:
            return self._found.append(None)
        if not isinstance(name, str):
            chosen = f"a {catalog.kind} is chosen by its name: {listing(catalog.names()) or 'none known'}"
            if "name" in cfg:
                return self._note(join_path(path, "name"), f"'name' is {show(name)}; {chosen}", "missing")
            near = nearest("name", cfg, cutoff=1.0)
            if near:
                chosen += f" (is '{near}' meant?)"
            return self._note(path, f"has no 'name'; {chosen}", "missing")
        target = catalog.find(name)
        if target is None:
            message, near = catalog.unknown(name)
            return self._note(join_path(path, "name"), message, "name", near)
        arguments = self._arguments(target, cfg, path, given)
        node = copy.deepcopy(Config(cfg))
        node.mark_checked(catalog, arguments)
        return node

    def section(self, target: Callable[..., Any], cfg: Any, path: str) -> Any:
        """Checks a mapping against a dataclass, and makes an instance of it."""
        if not isinstance(cfg, Mapping):
            takes = Signature.of(target).takes()
            return self._note(path, f"expected a section with {takes}; got {show(cfg)}", "type")
        before = len(self._found)
        arguments = self._arguments(target, cfg, path)
        if len(self._found) > before:
            return None
        try:
            return construct(target, arguments, path, self.origin(path))
        except ConfigError as err:
            self._found += [
                replace(fault, origin=fault.origin or self.origin(fault.path)) for fault in err.faults
            ]

    def _arguments(
        self,
        target: Callable[..., Any],
        cfg: Mapping[str, Any],
        path: str,
        given: frozenset[str] | None = None,  # of a node
    ) -> dict[str, Any]:
        signature = Signature.of(target)
        # Readers of a file know its sections by their keys, not by the names of our dataclasses.
        owner = ""
        if given is not None:
            owner = signature.name
        self._foresee(signature, path)
        arguments = {}
        covered = {*cfg, *(given or ())}
        for key, value in cfg.items():
            if key in signature.hints:
                arguments[key] = self.value(signature.hints[key], value, join_path(path, key))
            elif key != "name" or not owner:
                # A misspelt required key is one fault, not two.
                covered.add(nearest(key, signature.hints) or "")
                fault = functools.partial(self._unknown_key, path, key, value, owner, signature.takes())
                self._found.append(fault)
        missing = [f"'{key}'" for key in signature.required if key not in covered]
        if missing:
            who = owner or "the file"
            if path and not owner:
                who = f"'{path.rpartition('.')[2]}'"
            self._note(path, f"{who} needs {', '.join(missing)}; it takes {signature.takes()}", "missing")
        return arguments

    def _foresee(self, signature: Signature, path: str) -> None:
        """Remembers the keys of a section, and of all in it that the file may leave out, for suggestions."""
        self._takes[path] = list(signature.hints)
        for key, hint in signature.hints.items():
            for arm in hint.arms:
                if arm.kind == "section":
                    self._foresee(Signature.of(arm.type), join_path(path, key))

    def value(self, hint: Hint, value: Any, path: str) -> Any:
        """The argument that a value stands for, by its hint and the rules in that; None after a fault."""
        if value is BROKEN:
            return self._found.append(None)
        before = len(self._found)
        made = self._typed(hint, value, path)
        if len(self._found) > before:
            return None
        for rule in hint.rules:
            complaint = rule.complaint(value)
            if complaint:
                return self._note(path, complaint, "value")
        return made

    def _typed(self, hint: Hint, value: Any, path: str) -> Any:
        if hint.kind == "union":
            return self._union(hint, value, path)
        if hint.kind == "node":
            return self.node(hint.catalog, value, path)
        if hint.kind == "section":
            return self.section(hint.type, value, path)
        if hint.kind == "any":
            # A copy, so that an object can't change the configuration that it was made from.
            return copy.deepcopy(Config(value=value)["value"])
        if not _fits(hint, value):
            return self._wrong_type(hint, value, path)
        if hint.kind == "mapping":
            return {key: self.value(hint.inner[0], item, join_path(path, key)) for key, item in value.items()}
        if hint.shape == "list":
            # One hint for each item of a fixed tuple, or one for all.
            hints = hint.inner * max(1, len(value) // len(hint.inner))
            made = [self.value(hints[i], item, join_path(path, i)) for i, item in enumerate(value)]
            if hint.kind == "list":
                return made
            return tuple(made)
        # No float holds nan, infinity, or an integer beyond 1e308 as a number to count on.
        if hint.kind == "float" and not abs(value) <= sys.float_info.max:
            return self._note(path, f"must be a finite number, got {show(value)}", "value")
        # Larger ones count nothing, and fail wherever they meet a float or a library.
        if hint.kind == "int" and abs(value) >= 2**53:
            return self._note(path, f"must be a number below 2^53, got {show(value)}", "value")
        return value

    def _union(self, hint: Hint, value: Any, path: str) -> Any:
        before = len(self._found)
        told: list[list[Any]] = []
        for arm in hint.inner:
            made = self.value(arm, value, path)
            found = self._found[before:]
            del self._found[before:]
            if not found:
                return made
            # A faulty section is told about as that section, not as "neither a section nor null", and a value
            # of one alternative's type as out of its range.
            if _shape_of(value) == arm.shape != "scalar" or all(
                getattr(item, "kind", "") == "value" for item in found
            ):
                told.append(found)
        if told:
            shortest: list[Any] = min(told, key=len)
            return self._found.extend(shortest)
        return self._wrong_type(hint, value, path)

    def _wrong_type(self, hint: Hint, value: Any, path: str) -> None:
        choices = [choice for arm in hint.arms if arm.kind == "choice" for choice in get_args(arm.type)]
        near = nearest(value, choices)
        advice = did_you_mean(near) or _advice(hint, value)
        if hint.kind == "choice":
            return self._note(path, f"expected {hint.describe()}; got {show(value)}{advice}", "choice", near)
        self._note(path, f"expected {hint.describe()}, got {show(value)}{advice}", "type", near)

    def _note(self, path: str, message: str, kind: str, near: str | None = None) -> None:
        self._found.append(Fault(path, message, self.origin(path), kind, near))

    def origin(self, path: str) -> Origin | None:
        """Where the value at a path was written, or the section nearest to it that was."""
        if isinstance(self.cfg, Config):
            return self.cfg.origin_near(path)
        return None

    def _unknown_key(self, section: str, key: str, value: Any, owner: str, takes: str) -> Fault:
        """The fault of an unknown key, with the key that may be meant, or the section where it belongs."""
        places = [(home, name) for home, names in self._takes.items() for name in names if name != "name"]

        def place_of(word: object) -> tuple[str, str] | None:
            return next((place for place in places if same_letters(place[1], str(word))), None)

        def belongs(place: tuple[str, str]) -> str:
            return f"'{place[1]}' belongs to {place[0] or 'the top level of the file'}"

        text = f"unknown key '{key}'"
        if owner:
            text = f"{owner} has no argument '{key}'"
        elif section:
            text = f"'{section.rpartition('.')[2]}' has no key '{key}'"
        path = join_path(section, key)
        origin = self.origin(path)
        inner = value
        while origin == Origin(COMMAND_LINE) and isinstance(inner, Mapping) and len(inner) == 1:
            ((name, inner),) = inner.items()  # `-o Gloabl.epochs=1` made the section; show what was typed
            path = join_path(path, name)
        meant = place_of(key)
        own = self._takes[section]
        near = nearest(key, own)
        if not near and not meant:
            # A part of a name: "iterations" for "num_iters".
            near = next((name for name in own if nearest(key, name.split("_"), cutoff=0.65)), None)
        # `Global: {epochs: 3}` of another framework: say where the keys inside belong.
        homes = []
        if isinstance(value, Mapping):
            homes = [place for name in value if (place := place_of(name))]
        hint = did_you_mean(near)
        if meant and not near:
            hint = f"; {belongs(meant)}"
        elif meant and not same_letters(near or "", key):
            hint += f" ({belongs(meant)})"
        elif not near and homes:
            meant = homes[0]
            hint = "".join(f"; its {belongs(place)}" for place in homes)
        elif not near:
            meant = place_of(nearest(key, [name for _, name in places], cutoff=0.75))
            hint = did_you_mean(meant and join_path(*meant)) or f"; it takes {takes or 'no arguments'}"
        return Fault(path, text + hint, origin, "unknown", near or (meant and join_path(*meant)))


def _shape_of(value: object) -> str:
    if isinstance(value, Mapping):
        return "mapping"
    if isinstance(value, (list, tuple)):
        return "list"
    return "scalar"


def _fits(hint: Hint, value: Any) -> bool:
    """Whether a value is of the type that a hint without alternatives names; items are not looked at."""
    if hint.shape != "scalar":
        fixed = hint.kind == "fixed"
        return _shape_of(value) == hint.shape and (not fixed or len(value) == len(hint.inner))
    if hint.kind == "choice":
        return any(type(value) is type(option) and value == option for option in get_args(hint.type))
    # To Python true is an integer, but nobody who writes `epochs: true` means 1.
    if isinstance(value, bool):
        return hint.kind == "bool"
    if hint.kind == "float":
        return isinstance(value, (int, float))
    return isinstance(value, hint.type or type(None))


def _advice(hint: Hint, value: Any) -> str:
    """The change to make, when a value of the wrong type shows it."""
    kinds = {arm.kind for arm in hint.arms}
    if value is None:
        return " (an empty value is null)"
    if isinstance(value, str):
        if "null" in kinds and value.lower() in ("none", "null", "nil"):
            return "; write null"
        if "bool" in kinds and value.lower() in ("true", "false"):
            return "; remove the quotes"
        with contextlib.suppress(ValueError):
            whole = float(value).is_integer()
            if "float" in kinds or ("int" in kinds and whole):
                return "; remove the quotes"
    if isinstance(value, float) and "int" in kinds and value.is_integer() and abs(value) < 1e15:
        return f"; write {int(value)}"
    if isinstance(value, (bool, int, float)) and "str" in kinds:
        return "; put it in quotes"
    only_lists = all((arm.shape == "list" and not arm.catalog) or arm.kind == "null" for arm in hint.arms)
    if only_lists and _shape_of(value) == "scalar":
        return f"; write [{show(value)}]"
    return ""


def construct(target: Callable[..., Any], arguments: dict[str, Any], path: str, origin: Origin | None) -> Any:
    """Calls `target`; a ValueError of its own package about the values, or one too large, becomes a fault."""
    try:
        return target(**arguments)
    except ConfigError:
        raise
    except Exception as err:
        # Other errors, NumPy's for instance, are no user's fault: they keep their traceback.
        *_, (frame, _) = traceback.walk_tb(err.__traceback__)
        raised_in = str(frame.f_globals.get("__name__")).partition(".")[0]
        ours = type(err) is ValueError and raised_in == target.__module__.partition(".")[0]
        too_large = isinstance(err, OverflowError)
        if ours or too_large:
            message = "its numbers are too large to compute with" if too_large else str(err)
            if not is_section(target) and not message.startswith(f"{target.__name__}: "):
                message = f"{target.__name__}: {message}"
            raise ConfigError([Fault(path, message, origin, "value")]) from err
        if hasattr(err, "add_note"):
            err.add_note(f"while building {target.__name__} from {path or 'the config'} ({origin})")
        raise


def catalog_at(schema: type | None, parts: Sequence[str]) -> Any:
    """The registry of the node at a path of a document of that schema; None where none stands."""
    target = schema
    catalog = None
    for part in parts:
        if target is None:
            return None
        hint = Signature.of(target).hints.get(part)
        if hint is None:
            return None
        arms = hint.arms
        target = next((arm.type for arm in arms if arm.kind == "section"), None)
        catalog = next((arm.catalog for arm in arms if arm.kind == "node"), None)
    return catalog


def make_section(
    cls: Callable[..., _T], cfg: Mapping[str, Any], path: str | None = None, earlier: Sequence[Fault] = ()
) -> _T:
    """Checks a section and makes an instance of `cls`, a keyword-only dataclass, and of those inside.

    `cfg` is not changed; nodes of registries in it are passed on as checked copies. `path` is its place for
    messages, by default the one that it was loaded from. Faults found earlier are told in the same error.

    Raises:
        ConfigError: All faults of the section at once; or the ValueError of `cls` about the values.
    """
    if path is None:
        path = path_of(cfg)
    checker = Checker(cfg)
    made: _T = checker.section(cls, cfg, path)
    checker.finish(earlier)
    return made
