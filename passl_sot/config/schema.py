"""Checks configuration nodes against signatures and turns them into arguments."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

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
from passl_sot.config.ranges import is_finite
from passl_sot.config.signature import (
    Catalog,
    Signature,
    arms_of,
    describe,
    is_section,
    is_union,
    kind_of,
    rules_of,
    unwrap,
)
from passl_sot.config.tree import Config

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Spot:
    """A place in the configuration: its dotted path, and how to find the line."""

    path: str
    owner: Config | None = None
    key: str = ""
    indices: tuple[int, ...] = ()
    fallback: Origin | None = None

    def origin(self) -> Origin | None:
        found = self.owner.origin_of(self.key, *self.indices) if self.owner is not None else None
        return found or self.fallback

    def item(self, index: int) -> _Spot:
        return _Spot(join_path(self.path, index), self.owner, self.key, (*self.indices, index), self.fallback)

    def child(self, node: Mapping[str, Any], key: str, origin: Origin | None) -> _Spot:
        owner = node if isinstance(node, Config) else None
        return _Spot(join_path(self.path, key), owner, key, (), origin)


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
    """Collects the faults of a tree of nodes and remembers which section takes which keys."""

    def __init__(self) -> None:
        self._found: list[Fault | _Unknown] = []
        self._takes: dict[str, list[str]] = {}

    def faults(self) -> list[Fault]:
        """All faults, in the order of the tree."""
        return [self._explain(item) if isinstance(item, _Unknown) else item for item in self._found]

    # -- nodes and sections -------------------------------------------------------------------------------
    def node(
        self,
        catalog: Catalog,
        cfg: Any,
        path: str,
        given: frozenset[str] = frozenset(),
        spot: _Spot | None = None,
    ) -> None:
        """Checks a mapping whose `name` chooses a class from `catalog`; `given` comes from the program."""
        if cfg is BROKEN:
            return None
        spot = spot or _Spot(path, fallback=cfg.node_origin() if isinstance(cfg, Config) else None)
        if not isinstance(cfg, Mapping):
            named = f"; write {{name: {cfg}}}" if isinstance(cfg, str) and catalog.find(cfg) else ""
            message = f"expected a {catalog.kind} section with a name, got {show(cfg)}{named}"
            return self._add(spot, message, "type")
        origin = self._node_origin(cfg, spot)
        name = cfg.get("name")
        if name is BROKEN:
            return None
        if not isinstance(name, str):
            what = "has no 'name'" if "name" not in cfg else f"'name' is {show(name)}"
            message = (
                f"{what}; a {catalog.kind} is chosen by its name: {listing(catalog.names()) or 'none known'}"
            )
            near = nearest("name", map(str, cfg)) if "name" not in cfg else None
            if near and same_letters(near, "name"):
                message += f" (is '{near}' meant?)"
            place = spot if "name" not in cfg else spot.child(cfg, "name", origin)
            return self._add(dataclasses.replace(place, fallback=origin), message, "missing")
        target = catalog.find(name)
        if target is None:
            message, near = catalog.unknown(name)
            return self._add(spot.child(cfg, "name", origin), message, "name", near)
        signature = Signature.of(target)
        self._arguments(signature, cfg, spot, origin, skip=("name",), given=given)

    def section(
        self, target: Callable[..., Any] | Signature, cfg: Any, path: str, spot: _Spot | None = None
    ) -> None:
        """Checks a mapping without a name against a dataclass, class or function."""
        signature = target if isinstance(target, Signature) else Signature.of(target)
        spot = spot or _Spot(path, fallback=cfg.node_origin() if isinstance(cfg, Config) else None)
        if not isinstance(cfg, Mapping):
            self._takes[spot.path] = list(signature.parameters)
            message = f"expected a section with {signature.takes()}; got {show(cfg)}"
            return self._add(spot, message, "type")
        self._arguments(signature, cfg, spot, self._node_origin(cfg, spot))

    def _arguments(
        self,
        signature: Signature,
        cfg: Mapping[str, Any],
        spot: _Spot,
        origin: Origin | None,
        skip: tuple[str, ...] = (),
        given: frozenset[str] = frozenset(),
    ) -> None:
        names = [*skip, *signature.parameters]
        self._takes[spot.path] = names
        owner = signature.name if skip or not signature.section else ""
        suggested = set()
        for key, value in cfg.items():
            if key in skip:
                continue
            child = spot.child(cfg, key, origin)
            if key in signature.parameters:
                self.value(signature.parameters[key].annotation, value, child)
                continue
            near = nearest(str(key), signature.parameters)
            suggested.add(near)
            takes = signature.takes()
            self._found.append(_Unknown(spot.path, str(key), value, owner, takes, near, child.origin()))
        for key, param in signature.parameters.items():
            if key not in cfg:
                self._foresee(param.annotation, join_path(spot.path, key))
        # A misspelt required key is one fault, not two.
        absent = [key for key, param in signature.parameters.items() if param.required and key not in cfg]
        missing = [f"'{key}'" for key in absent if key not in suggested and key not in given]
        if missing:
            who = owner or (f"'{spot.path.rpartition('.')[2]}'" if spot.path else "the file")
            text = f"{who} needs {', '.join(missing)}; it takes {signature.takes()}"
            self._add(dataclasses.replace(spot, owner=None, fallback=origin), text, "missing")

    def _foresee(self, hint: Any, path: str, depth: int = 4) -> None:
        """Remembers the keys of sections that the file leaves out, for suggestions."""
        for arm in arms_of(unwrap(hint)[0]):
            if depth and is_section(arm):
                signature = Signature.of(arm)
                self._takes.setdefault(path, list(signature.parameters))
                for key, param in signature.parameters.items():
                    self._foresee(param.annotation, join_path(path, key), depth - 1)

    # -- values ---------------------------------------------------------------------------------------------
    def value(self, hint: Any, value: Any, spot: _Spot) -> None:
        """Checks one value against one type hint and the rules noted in it."""
        before = len(self._found)
        self._typed(hint, value, spot)
        if value is BROKEN or len(self._found) > before:
            return
        for rule in rules_of(hint):
            complaint = rule.complaint(value)
            if complaint:
                return self._add(spot, complaint, "value")

    def _typed(self, hint: Any, value: Any, spot: _Spot) -> None:
        inner, catalog = unwrap(hint)
        # What a broken reference stands for is unknown, so nothing is said about its type.
        if inner is Any or value is BROKEN:
            return
        if is_union(inner):
            arms = [Annotated[arm, catalog] if catalog else arm for arm in get_args(inner)]
            return self._union(arms, hint, value, spot)
        origin, args = get_origin(inner), get_args(inner)
        if catalog is not None and kind_of(inner) != "null":
            if kind_of(inner) != "list":
                return self.node(catalog, value, spot.path, spot=spot)
            if not isinstance(value, (list, tuple)):
                return self._wrong_type(hint, value, spot)
            for index, item in enumerate(value):
                self.node(catalog, item, join_path(spot.path, index), spot=spot.item(index))
            return
        if is_section(inner):
            return self.section(inner, value, spot.path, spot=spot)
        if origin is Literal:
            return self._choice(args, value, spot)
        if kind_of(inner) == "list":
            return self._list(hint, origin, args, value, spot)
        if kind_of(inner) == "mapping":
            return self._mapping(hint, args, value, spot)
        if not _is_scalar(inner, value):
            return self._wrong_type(hint, value, spot)
        if inner is float and not is_finite(value):
            self._add(spot, f"must be a finite number, got {show(value)}", "value")

    def _union(self, arms: list[Any], hint: Any, value: Any, spot: _Spot) -> None:
        trials = []
        for arm in arms:
            trial = Checker()
            trial.value(arm, value, spot)
            if not trial._found:
                self._takes.update(trial._takes)
                return
            trials.append((arm, trial))
        shape = (
            "mapping"
            if isinstance(value, Mapping)
            else "list"
            if isinstance(value, (list, tuple))
            else "scalar"
        )
        # A faulty section is told about as that section, not as "neither a section nor null".
        fitting = [trial for arm, trial in trials if shape != "scalar" and kind_of(arm) == shape]
        if fitting:
            best = min(fitting, key=lambda trial: len(trial._found))
            self._takes.update(best._takes)
            self._found.extend(best._found)
            return
        # Of the right type for one of the arms, but out of its range.
        refused = [trial for _, trial in trials if all(_is_value_fault(item) for item in trial._found)]
        if refused:
            self._found.extend(refused[0]._found)
            return
        options = [arg for arm in arms if get_origin(arm) is Literal for arg in get_args(arm)]
        near = nearest(value, [o for o in options if isinstance(o, str)]) if isinstance(value, str) else None
        self._wrong_type(hint, value, spot, near)

    def _list(self, hint: Any, origin: Any, args: tuple[Any, ...], value: Any, spot: _Spot) -> None:
        if not isinstance(value, (list, tuple)):
            return self._wrong_type(hint, value, spot)
        each: tuple[Any, ...]
        if origin is tuple and Ellipsis not in args:
            if len(args) != len(value):
                return self._wrong_type(hint, value, spot)
            each = args
        else:
            each = (args[0] if args else Any,) * len(value)
        for index, (item_hint, item) in enumerate(zip(each, value, strict=True)):
            self.value(item_hint, item, spot.item(index))

    def _mapping(self, hint: Any, args: tuple[Any, ...], value: Any, spot: _Spot) -> None:
        if not isinstance(value, Mapping):
            return self._wrong_type(hint, value, spot)
        origin = self._node_origin(value, spot)
        for key, item in value.items():
            self.value(args[1] if args else Any, item, spot.child(value, key, origin))

    def _choice(self, options: tuple[Any, ...], value: Any, spot: _Spot) -> None:
        if any(type(value) is type(option) and value == option for option in options):
            return
        near = nearest(str(value), map(str, options)) if isinstance(value, str) else None
        choices = ", ".join(show(option) for option in options)
        one_of = "one of " if len(options) > 1 else ""
        self._add(spot, f"expected {one_of}{choices}; got {show(value)}{did_you_mean(near)}", "choice", near)

    def _wrong_type(self, hint: Any, value: Any, spot: _Spot, near: str | None = None) -> None:
        advice = did_you_mean(near) or _advice(hint, value)
        self._add(spot, f"expected {describe(hint)}, got {show(value)}{advice}", "type", near)

    # -- faults ----------------------------------------------------------------------------------------------
    def _add(self, spot: _Spot, message: str, kind: str, near: str | None = None) -> None:
        self._found.append(Fault(spot.path, message, spot.origin(), kind, near))

    @staticmethod
    def _node_origin(cfg: Mapping[str, Any], spot: _Spot) -> Origin | None:
        return spot.origin() or (cfg.node_origin() if isinstance(cfg, Config) else None)

    def _explain(self, item: _Unknown) -> Fault:
        if item.owner:
            text = f"{item.owner} has no argument '{item.key}'"
        elif item.section:
            text = f"'{item.section.rpartition('.')[2]}' has no key '{item.key}'"
        else:
            text = f"unknown key '{item.key}'"
        path, inner = join_path(item.section, item.key), item.value
        while item.origin == Origin(COMMAND_LINE) and isinstance(inner, Mapping) and len(inner) == 1:
            ((key, inner),) = inner.items()  # `-o Gloabl.epochs=1` made the section; show what was typed
            path = join_path(path, key)
        near, elsewhere = item.near, self._elsewhere(item.key, item.section)
        if not near and not elsewhere and isinstance(item.value, Mapping):
            # `Global: {epochs: 3}` of another framework: say where the keys inside belong.
            inside = [(key, self._elsewhere(str(key), None)) for key in item.value]
            homes = [f"; its '{key}' belongs to {_section_name(place)}" for key, place in inside if place]
            if homes:
                first = next(place for _, place in inside if place)
                return Fault(path, text + "".join(homes), item.origin, "unknown", first)
        if not near and not elsewhere:
            own = [name for name in self._takes.get(item.section, []) if name != "name"]
            near = same_stem(item.key, own) or self._farther(item.key)
        text += did_you_mean(near)
        if elsewhere and not (near and same_letters(near, item.key)):
            name, home = elsewhere.rpartition(".")[2], _section_name(elsewhere)
            text += f" ('{name}' belongs to {home})" if near else f"; '{name}' belongs to {home}"
        if not near and not elsewhere:
            text += f"; it takes {item.takes}" if item.takes else "; it takes no arguments"
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
        near = nearest(key, paths, cutoff=0.75)
        return paths[near] if near else None


def _section_name(path: str) -> str:
    return path.rpartition(".")[0] or "the top level of the file"


def _is_scalar(hint: Any, value: Any) -> bool:
    if hint is None or hint is type(None):
        return value is None
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float))
    return isinstance(value, hint)


def _is_value_fault(item: Fault | _Unknown) -> bool:
    return isinstance(item, Fault) and item.kind == "value"


def _advice(hint: Any, value: Any) -> str:
    """What to change, when a value of the wrong type shows it."""
    arms = [unwrap(arm)[0] for arm in arms_of(unwrap(hint)[0])]
    if value is None:
        return " (an empty value is null)"
    if isinstance(value, str):
        if type(None) in arms and value.lower() in ("none", "null", "nil"):
            return "; write null"
        if bool in arms and value.lower() in ("true", "false"):
            return "; remove the quotes"
        if {int, float} & set(arms):
            try:
                number = float(value)
            except ValueError:
                return ""
            return "; remove the quotes" if float in arms or number.is_integer() else ""
    if isinstance(value, float) and int in arms and value.is_integer():
        return f"; write {int(value)}"
    if isinstance(value, (bool, int, float)) and str in arms:
        return "; put it in quotes"
    nodes = any(unwrap(arm)[1] for arm in (hint, *arms_of(unwrap(hint)[0])))
    only_lists = all(kind_of(arm) in ("list", "null") for arm in arms)
    if only_lists and not nodes and not isinstance(value, (list, tuple, Mapping)):
        return f"; write [{show(value)}]"
    return ""


# -- arguments -----------------------------------------------------------------------------------------------
def convert_arguments(
    signature: Signature, cfg: Mapping[str, Any], skip: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The keyword arguments that a checked node stands for; nothing is shared with the node."""
    return {
        key: _convert(signature.parameters[key].annotation, value)
        for key, value in cfg.items()
        if key not in skip
    }


def _convert(hint: Any, value: Any) -> Any:
    inner, catalog = unwrap(hint)
    if catalog is not None:
        return _checked_nodes(catalog, value)
    if is_union(inner):
        for arm in get_args(inner):
            if unwrap(arm)[1] is not None and isinstance(value, Mapping):
                return _convert(arm, value)
            trial = Checker()
            trial.value(arm, value, _Spot(""))
            if not trial._found:
                return _convert(arm, value)
    origin, args = get_origin(inner), get_args(inner)
    if is_section(inner):
        return construct(inner, convert_arguments(Signature.of(inner), value), value)
    if (origin or inner) in (list, tuple):
        if origin is tuple and Ellipsis not in args:
            return tuple(_convert(*pair) for pair in zip(args, value, strict=True))
        items = [_convert(args[0] if args else Any, item) for item in value]
        return tuple(items) if (origin or inner) is tuple else items
    if origin is dict:
        return {key: _convert(args[1], item) for key, item in value.items()}
    if isinstance(value, Mapping) and not isinstance(value, Config):
        return Config(copy.deepcopy(dict(value)))
    if isinstance(value, (list, tuple)):
        return [_convert(Any, item) for item in value]
    return copy.deepcopy(value)


def _checked_nodes(catalog: Catalog, value: Any) -> Any:
    """A copy of one or several checked nodes, marked so that the registry need not check them again."""
    if isinstance(value, (list, tuple)):
        return [_checked_nodes(catalog, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    node = copy.deepcopy(value) if isinstance(value, Config) else Config(copy.deepcopy(dict(value)))
    node.mark_checked(catalog)
    return node


def construct(
    target: Callable[..., Any], arguments: dict[str, Any], cfg: Mapping[str, Any], path: str | None = None
) -> Any:
    """Calls `target`; what it refuses about the values becomes a fault of the configuration.

    Only a ValueError that code of the target's own package raised counts as such a refusal; others pass
    unchanged, with a note of the place (Python 3.11).
    """
    path = _path_of(cfg, path)
    origin = cfg.node_origin() if isinstance(cfg, Config) else None
    try:
        return target(**arguments)
    except ConfigError:
        raise
    except Exception as err:
        if type(err) is ValueError and _raised_in(err) == target.__module__.partition(".")[0]:
            who = f"{target.__name__}: "
            who = "" if is_section(target) or str(err).startswith(who) else who
            raise ConfigError([Fault(path, f"{who}{err}", origin, "value")]) from err
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


def check_section(target: Callable[..., Any], cfg: Mapping[str, Any], path: str | None = None) -> list[Fault]:
    """Checks a mapping without a `name` against the signature of a dataclass, class or function.

    Args:
        target: Describes the section: keyword-only, fully hinted.
        cfg: The section; not changed.
        path: Where it stands, for the messages; by default where it was loaded from.

    Returns:
        All faults, also those of the sections and registry nodes inside; empty if there are none.

    Raises:
        RegistryError: The signature of `target` cannot serve as a schema.
    """
    checker = Checker()
    checker.section(target, cfg, _path_of(cfg, path))
    return checker.faults()


def make_section(cls: Callable[..., _T], cfg: Mapping[str, Any], path: str | None = None) -> _T:
    """Checks a section and calls `cls` with it; sections inside become instances of their dataclasses.

    Args:
        cls: A keyword-only dataclass (or class, or function).
        cfg: The section; not changed. Registry nodes inside are passed on as `Config` copies.
        path: Where it stands, for the messages; by default where it was loaded from.

    Raises:
        ConfigError: All faults of the section at once; or what `cls` itself says against the values.
    """
    faults = check_section(cls, cfg, path)
    if faults:
        raise ConfigError(faults)
    made: _T = construct(cls, convert_arguments(Signature.of(cls), cfg), cfg, _path_of(cfg, path))
    return made


def _path_of(cfg: object, path: str | None) -> str:
    if path is not None:
        return path
    return cfg.node_path() if isinstance(cfg, Config) else ""
