"""Named classes and functions whose signatures are the schema of their configuration nodes."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from passl_sot.config.errors import ConfigError, Fault, RegistryError, did_you_mean, listing, nearest
from passl_sot.config.schema import Checker, construct
from passl_sot.config.signature import Signature
from passl_sot.config.tree import Config

_T = TypeVar("_T", bound=Callable[..., Any])


class Registry:
    """Names of one kind of thing: `BACKBONES = Registry("backbone", "passl_sot.modeling.backbones")`.

    A registered name is the name of the class or function. Its signature says what its configuration node
    may hold, so it must be complete: keyword-only arguments, all with type hints, no `*args`, no `**kwargs`.

    Args:
        kind: What the things are called in messages.
        package: Dotted name of the package (or module) that holds them; it and its direct modules are
            imported when a name is first missed, so nothing depends on the order of imports.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._objects: dict[str, Callable[..., Any]] = {}
        self._failures: dict[str, ImportError] = {}
        self._imported = False

    def __repr__(self) -> str:
        return f"Registry('{self.kind}', '{self.package}')"

    def __deepcopy__(self, memo: dict[int, Any]) -> Registry:
        return self  # it stands in type hints, which tools may copy; there is only one of each

    def register(self) -> Callable[[_T], _T]:
        """Decorator that enters a class or function under its own name.

        Raises:
            RegistryError: The name is taken by another object, or the signature cannot serve as a schema.
        """

        def enter(target: _T) -> _T:
            if not callable(target) or not hasattr(target, "__name__"):
                raise RegistryError(f"@register() belongs on a class or function, not on {target!r}")
            name = target.__name__
            known = self._objects.get(name)
            if known is not None and known is not target:
                raise RegistryError(
                    f"the {self.kind} '{name}' of {target.__module__} is already registered "
                    f"by {known.__module__}; rename one of the two"
                )
            try:
                Signature.verify(target)
            except RegistryError as err:
                raise RegistryError(f"{target.__module__}: the {self.kind} {err}") from None
            if "name" in inspect.signature(target).parameters:
                raise RegistryError(
                    f"{target.__module__}: {name} cannot take 'name', which chooses the class"
                )
            self._objects[name] = target
            return target

        return enter

    def names(self) -> list[str]:
        """All registered names, sorted.

        Raises:
            RegistryError: A module of this registry has a broken import.
        """
        self._import_all()
        return sorted(self._objects)

    def get(self, name: str) -> Callable[..., Any]:
        """The class or function of that name.

        Raises:
            RegistryError: There is none (the message names the nearest), or a module cannot be imported.
        """
        found = self.find(name)
        if found is None:
            raise RegistryError(self.unknown(name)[0]) from next(iter(self._failures.values()), None)
        return found

    def find(self, name: str) -> Callable[..., Any] | None:
        """As `get`, but None for an unknown name."""
        if name not in self._objects:
            self._import_all()
        return self._objects.get(name)

    def unknown(self, name: object) -> tuple[str, str | None]:
        """The sentence about a name that is not registered, and the nearest name that is."""
        names = sorted(self._objects)
        near = nearest(str(name), names)
        known = f" (known: {listing(names)})" if names else " (none is registered)"
        if not self._failures:
            return f"no {self.kind} is named '{name}'{did_you_mean(near)}{known}", near
        # It may well be in a module that could not be imported: never blame the name alone.
        reasons = "; ".join(f"{module}: {err}" for module, err in self._failures.items())
        return f"no {self.kind} '{name}' could be loaded, but not all modules were ({reasons}){known}", near

    def check(self, cfg: Mapping[str, Any], path: str | None = None) -> list[Fault]:
        """Everything that `build` would find wrong, without building; `cfg` is not changed.

        Args:
            cfg: A node with a `name` and the arguments of that class.
            path: Where the node stands, for the messages; by default where it was loaded from.
        """
        path = self._path(cfg) if path is None else path
        checker = Checker(cfg, path)
        checker.node(self, cfg, path)
        return checker.faults()

    def build(self, cfg: Mapping[str, Any], /, **runtime: Any) -> Any:
        """Checks the node, unless it comes from a checked document, and calls its class with the node's keys.

        Sections that are dataclasses arrive as instances; nested nodes of registries as `Config` copies.

        Args:
            cfg: A node with a `name`; never changed.
            **runtime: Further arguments, which the constructor must accept and the node must not hold.

        Raises:
            ConfigError: All faults of the node at once; or an objection of the constructor to the values, by
                a ValueError.
            RegistryError: A runtime argument is not accepted, or is in the node too.
        """
        path = self._path(cfg)
        arguments = cfg.checked_arguments(self) if isinstance(cfg, Config) else None
        checker = Checker(cfg, path)
        if arguments is None:
            node = checker.node(self, cfg, path, given=frozenset(runtime))
            faults = checker.faults()
            if faults:
                raise ConfigError(faults)
            arguments = node.checked_arguments(self)
        target = self.get(cfg["name"])
        parameters = Signature.of(target).parameters
        for key in runtime:
            if key not in parameters:
                near = did_you_mean(nearest(key, parameters))
                raise RegistryError(f"{cfg['name']} has no argument '{key}', which the caller passes{near}")
            if key in cfg:
                raise RegistryError(
                    f"{path}.{key} is set in the config, but the program passes its own '{key}'"
                )
        return construct(target, {**arguments, **runtime}, path, checker.origin(path))

    def _path(self, cfg: object) -> str:
        return (isinstance(cfg, Config) and cfg.node_path()) or self.kind

    def _import_all(self) -> None:
        if self._imported:
            return
        self._failures = {}
        package = self._import(self.package)
        for info in pkgutil.iter_modules(getattr(package, "__path__", [])):
            if info.name != "__main__":
                self._import(f"{self.package}.{info.name}")
        self._imported = True

    def _import(self, module: str) -> ModuleType | None:
        try:
            return importlib.import_module(module)
        except ImportError as err:
            # What the module had registered before it failed would clash when it is tried again.
            for name in [name for name, obj in self._objects.items() if obj.__module__ == module]:
                del self._objects[name]
            root = self.package.partition(".")[0]
            if (err.name or "").partition(".")[0] == root:
                raise RegistryError(
                    f"{module}, a module of the {self.kind} registry, cannot be imported: "
                    f"{type(err).__name__}: {err}"
                ) from err
            # A package from elsewhere is missing. Names that do not need it still work; `get` tells of it.
            self._failures[module] = err
            logging.getLogger(__name__).warning(
                "%s is left out of the %s registry: %s", module, self.kind, err
            )
            return None
