"""One walk over a configuration: checks values against signatures and makes arguments of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from passl_sot.config.errors import (
    BROKEN,
    COMMAND_LINE,
    ConfigError,
    Fault,
    Origin,
    did_you_mean,
    join_path,
    listing,
    nearest,
    same_letters,
    same_stem,
    show,
)
from passl_sot.config.signature import Catalog, Hint, Signature, is_finite, is_section, one_of
from passl_sot.config.tree import Config

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Unknown:
    """An unknown key; its message is written last, when all sections of the file have been seen."""

    section: str
    key: str
    value: Any
    owner: str
    takes: str
    near: str | None
    origin: Origin | None


class Checker:
    """Collects the faults of a tree and remembers which section takes which keys.

    Args:
        cfg: The tree, for the origins of its values.
        path: Where messages say that it stands.
    """

    def __init__(self, cfg: object, path: str):
        self.cfg = cfg
        self.path = path
        self._found: list[Fault | _Unknown | None] = []
        self._takes: dict[str, list[str]] = {}

    def faults(self) -> list[Fault]:
        """All faults, in the order of the tree."""
        found = [item for item in self._found if item is not None]
        return [self._explain(item) if isinstance(item, _Unknown) else item for item in found]

    # -- nodes and sections -------------------------------------------------------------------------------
    def node(self, catalog: Catalog, cfg: Any, path: str, given: frozenset[str] = frozenset()) -> Any:
        """Checks a mapping whose `name` chooses a class from `catalog`.

        Args:
            catalog: A registry.
            cfg: The mapping.
            path: Its place.
            given: Arguments that come from the program.

        Returns:
            A copy of it, marked as checked; it means nothing after a fault.
        """
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
            near = nearest("name", map(str, cfg))
            if near and same_letters(near, "name"):
                chosen += f" (is '{near}' meant?)"
            return self._note(path, f"has no 'name'; {chosen}", "missing")
        target = catalog.find(name)
        if target is None:
            message, near = catalog.unknown(name)
            return self._note(join_path(path, "name"), message, "name", near)
        arguments = self._arguments(Signature.of(target), cfg, path, ("name",), given)
        node: Config = copy.deepcopy(cfg) if isinstance(cfg, Config) else Config(copy.deepcopy(dict(cfg)))
        node.mark_checked(catalog, arguments)
        return node

    def section(self, target: Callable[..., Any], cfg: Any, path: str) -> Any:
        """Checks a mapping without a name against a dataclass, class or function, and calls that."""
        signature = Signature.of(target)
        if not isinstance(cfg, Mapping):
            self._takes[path] = list(signature.parameters)
            return self._note(path, f"expected a section with {signature.takes()}; got {show(cfg)}", "type")
        before = len(self._found)
        arguments = self._arguments(signature, cfg, path)
        if len(self._found) > before:
            return None
        try:
            return construct(target, arguments, path, self.origin(path))
        except ConfigError as err:
            self._found += err.faults

    def _arguments(
        self,
        signature: Signature,
        cfg: Mapping[str, Any],
        path: str,
        skip: tuple[str, ...] = (),
        given: frozenset[str] = frozenset(),
    ) -> dict[str, Any]:
        # Readers of a file know its sections by their keys, and not by the names of our dataclasses.
        owner = signature.name if skip or not signature.section else ""
        self._takes[path] = [*skip, *signature.parameters]
        arguments = {}
        suggested = set()
        for key, value in cfg.items():
            place = join_path(path, key)
            if key in signature.parameters:
                arguments[key] = self.value(signature.parameters[key].hint, value, place)
            elif key not in skip:
                near = nearest(str(key), signature.parameters)
                suggested.add(near)
                unknown = _Unknown(path, str(key), value, owner, signature.takes(), near, self.origin(place))
                self._found.append(unknown)
        for key, param in signature.parameters.items():
            if key not in cfg:
                self._foresee(param.hint, join_path(path, key))
        # A misspelt required key is one fault, not two.
        covered = {*cfg, *suggested, *given}
        missing = [
            f"'{k}'" for k, param in signature.parameters.items() if param.required and k not in covered
        ]
        if missing:
            who = owner or (f"'{path.rpartition('.')[2]}'" if path else "the file")
            self._note(path, f"{who} needs {', '.join(missing)}; it takes {signature.takes()}", "missing")
        return arguments

    def _foresee(self, hint: Hint, path: str, depth: int = 4) -> None:
        """Remembers the keys of sections that the file leaves out, for suggestions."""
        for arm in hint.arms:
            if depth and arm.kind == "section":
                signature = Signature.of(arm.type)
                self._takes.setdefault(path, list(signature.parameters))
                for key, param in signature.parameters.items():
                    self._foresee(param.hint, join_path(path, key), depth - 1)

    # -- values ---------------------------------------------------------------------------------------------
    def value(self, hint: Hint, value: Any, path: str) -> Any:
        """Checks one value against one type hint and the rules noted in it.

        Returns:
            The argument that it stands for, which shares nothing with it; it means nothing after a fault.
        """
        if value is BROKEN:
            # Its fault is known already, but no section may be made with it.
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
        if hint.kind == "node" and hint.catalog:
            return self.node(hint.catalog, value, path)
        if hint.kind == "section":
            return self.section(hint.type, value, path)
        if hint.kind == "choice":
            return self._choice(get_args(hint.type), value, path)
        if hint.kind == "any":
            return copy.deepcopy(Config(value=value)["value"])
        if not _fits(hint, value):
            return self._wrong_type(hint, value, path)
        if hint.kind == "mapping":
            return {key: self.value(hint.inner[0], item, join_path(path, key)) for key, item in value.items()}
        if hint.shape == "list":
            hints = hint.inner if hint.kind == "fixed" else hint.inner * len(value)
            made = [self.value(hints[i], item, join_path(path, i)) for i, item in enumerate(value)]
            return made if hint.kind == "list" else tuple(made)
        if hint.kind == "float" and not is_finite(value):
            return self._note(path, f"must be a finite number, got {show(value)}", "value")
        return value

    def _union(self, hint: Hint, value: Any, path: str) -> Any:
        trials = []
        for arm in hint.inner:
            trial = Checker(self.cfg, self.path)
            made = trial.value(arm, value, path)
            if not trial._found:
                self._takes.update(trial._takes)
                return made
            trials.append((arm, trial))
        # A faulty section is told about as that section, not as "neither a section nor null".
        fitting = [trial for arm, trial in trials if _shape_of(value) == arm.shape != "scalar"]
        if fitting:
            best = min(fitting, key=lambda trial: len(trial._found))
            self._takes.update(best._takes)
            self._found += best._found
            return None
        # Of the right type for one of the arms, but out of its range.
        for _, trial in trials:
            if all(isinstance(item, Fault) and item.kind == "value" for item in trial._found):
                self._found += trial._found
                return None
        options = [option for arm in hint.inner if arm.kind == "choice" for option in get_args(arm.type)]
        near = nearest(value, filter(_is_text, options)) if _is_text(value) else None
        return self._wrong_type(hint, value, path, near)

    def _choice(self, options: tuple[Any, ...], value: Any, path: str) -> Any:
        if any(type(value) is type(option) and value == option for option in options):
            return value
        near = nearest(value, map(str, options)) if _is_text(value) else None
        message = f"expected {one_of(options)}; got {show(value)}{did_you_mean(near)}"
        return self._note(path, message, "choice", near)

    def _wrong_type(self, hint: Hint, value: Any, path: str, near: str | None = None) -> None:
        advice = did_you_mean(near) or _advice(hint, value)
        self._note(path, f"expected {hint.describe()}, got {show(value)}{advice}", "type", near)

    # -- faults ----------------------------------------------------------------------------------------------
    def _note(self, path: str, message: str, kind: str, near: str | None = None) -> None:
        self._found.append(Fault(path, message, self.origin(path), kind, near))

    def origin(self, path: str) -> Origin | None:
        """Where the value at a path was written, or the section nearest to it that was."""
        if not isinstance(self.cfg, Config):
            return None
        keys = path.removeprefix(self.path).strip(".").split(".")
        return self.cfg.origin_of(*keys) or self.cfg.node_origin()

    def _explain(self, item: _Unknown) -> Fault:
        text = f"unknown key '{item.key}'"
        if item.owner:
            text = f"{item.owner} has no argument '{item.key}'"
        elif item.section:
            text = f"'{item.section.rpartition('.')[2]}' has no key '{item.key}'"
        path, inner = join_path(item.section, item.key), item.value
        while item.origin == Origin(COMMAND_LINE) and isinstance(inner, Mapping) and len(inner) == 1:
            ((key, inner),) = inner.items()  # `-o Gloabl.epochs=1` made the section; show what was typed
            path = join_path(path, key)
        near, elsewhere = item.near, self._elsewhere(item.key, item.section)
        if not near and not elsewhere and isinstance(item.value, Mapping):
            # `Global: {epochs: 3}` of another framework: say where the keys inside belong.
            inside = [(key, self._elsewhere(str(key), None)) for key in item.value]
            homes = [(key, place) for key, place in inside if place]
            if homes:
                text += "".join(f"; its '{key}' belongs to {_section_name(place)}" for key, place in homes)
                return Fault(path, text, item.origin, "unknown", homes[0][1])
        if not near and not elsewhere:
            own = [name for name in self._takes.get(item.section, []) if name != "name"]
            near = same_stem(item.key, own) or self._farther(item.key)
        text += did_you_mean(near)
        if elsewhere and not (near and same_letters(near, item.key)):
            belongs = f"'{elsewhere.rpartition('.')[2]}' belongs to {_section_name(elsewhere)}"
            text += f" ({belongs})" if near else f"; {belongs}"
        if not near and not elsewhere:
            text += f"; it takes {item.takes or 'no arguments'}"
        return Fault(path, text, item.origin, "unknown", near or elsewhere)

    def _elsewhere(self, key: str, section: str | None) -> str | None:
        """The path of a key of that name in another section."""
        for path, names in self._takes.items():
            for name in names:
                if path != section and name != "name" and same_letters(name, key):
                    return join_path(path, name)
        return None

    def _farther(self, key: str) -> str | None:
        """The path of the most similar key in any section."""
        paths: dict[str, str] = {}
        for path, names in self._takes.items():
            for name in names:
                paths.setdefault(name, join_path(path, name))
        return paths.get(nearest(key, paths, cutoff=0.75) or "")


def _section_name(path: str) -> str:
    return path.rpartition(".")[0] or "the top level of the file"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _shape_of(value: object) -> str:
    if isinstance(value, Mapping):
        return "mapping"
    return "list" if isinstance(value, (list, tuple)) else "scalar"


def _fits(hint: Hint, value: Any) -> bool:
    """Whether a value is of the type that a hint without alternatives names; items are not looked at."""
    if hint.kind == "fixed" and _shape_of(value) == "list":
        return len(hint.inner) == len(value)
    if hint.shape != "scalar":
        return _shape_of(value) == hint.shape
    if isinstance(value, bool):
        return hint.kind == "bool"
    types: dict[str, Any] = {
        "null": type(None),
        "bool": bool,
        "int": int,
        "float": (int, float),
        "str": str,
    }
    return isinstance(value, types[hint.kind])


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
        if kinds & {"int", "float"}:
            try:
                number = float(value)
            except ValueError:
                return ""
            return "; remove the quotes" if "float" in kinds or number.is_integer() else ""
    if isinstance(value, float) and "int" in kinds and value.is_integer():
        return f"; write {int(value)}"
    if isinstance(value, (bool, int, float)) and "str" in kinds:
        return "; put it in quotes"
    only_lists = all((arm.shape == "list" and not arm.catalog) or arm.kind == "null" for arm in hint.arms)
    if only_lists and _shape_of(value) == "scalar":
        return f"; write [{show(value)}]"
    return ""


def construct(target: Callable[..., Any], arguments: dict[str, Any], path: str, origin: Origin | None) -> Any:
    """Calls `target`; its objection to the values becomes a fault of the configuration.

    Only a ValueError that code of the target's own package raised counts as an objection; others pass
    unchanged, with a note of the place (Python 3.11).
    """
    try:
        return target(**arguments)
    except ConfigError:
        raise
    except Exception as err:
        if type(err) is ValueError and _raised_in(err) == target.__module__.partition(".")[0]:
            message = str(err)
            if not is_section(target) and not message.startswith(f"{target.__name__}: "):
                message = f"{target.__name__}: {message}"
            raise ConfigError([Fault(path, message, origin, "value")]) from err
        if hasattr(err, "add_note"):
            place = f" ({origin})" if origin else ""
            err.add_note(f"while building {target.__name__} from {path or 'the config'}{place}")
        raise


def _raised_in(err: BaseException) -> str:
    """The top-level package whose code raised an exception."""
    trace = err.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] if trace else ""


def make_section(cls: Callable[..., _T], cfg: Mapping[str, Any], path: str | None = None) -> _T:
    """Checks a section and calls `cls` with it; sections inside become instances of their dataclasses.

    Args:
        cls: A keyword-only dataclass (or class, or function), fully hinted.
        cfg: The section; not changed. Registry nodes inside are passed on as checked `Config` copies.
        path: Where it stands, for the messages; by default where it was loaded from.

    Raises:
        ConfigError: All faults of the section at once; or an objection of `cls` itself to the values.
        RegistryError: The signature of `cls` cannot serve as a schema.
    """
    if path is None:
        path = cfg.node_path() if isinstance(cfg, Config) else ""
    checker = Checker(cfg, path)
    made: _T = checker.section(cls, cfg, path)
    faults = checker.faults()
    if faults:
        raise ConfigError(faults)
    return made
