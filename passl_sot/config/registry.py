"""Named classes and functions whose signatures are the schema of their configuration nodes."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from passl_sot.config.errors import RegistryError, did_you_mean, listing, nearest
from passl_sot.config.schema import Checker, construct
from passl_sot.config.signature import Signature
from passl_sot.config.tree import Config, path_of

_T = TypeVar("_T", bound=Callable[..., Any])


class Registry:
    """Names of one kind of thing in a package or module: `Registry("head", "passl_sot.modeling.heads")`.

    A registered name is the name of the class or function. Its signature is the schema of its configuration
    node, so it must be complete: keyword-only arguments, all with type hints, no `*args`, no `**kwargs`.

    Args:
        kind: The word for one of them in messages.
        package: Package or module whose modules register them.
        alike: Its classes do the same from other sources, and name what they share alike: an override of a
            node's `name` keeps the settings that the new class takes too.
    """

    def __init__(self, kind: str, package: str, *, alike: bool = False):
        self.kind = kind
        self.alike = alike
        self.package = package
        self._objects: dict[str, Callable[..., Any]] = {}
        self._imported = False

    def __repr__(self) -> str:
        return f"Registry('{self.kind}', '{self.package}')"

    def register(self) -> Callable[[_T], _T]:
        """Decorator that enters a class or function under its own name.

        A RegistryError says that another object has it, or that the signature cannot serve as a schema.
        """
        return self._enter

    def _enter(self, target: _T) -> _T:
        if not callable(target) or not hasattr(target, "__name__"):
            raise RegistryError(f"@register() belongs on a class or function, not on {target!r}")
        name = target.__name__
        known = self._objects.get(name, target)
        if known is not target:
            raise RegistryError(
                f"the {self.kind} '{name}' of {target.__module__} is already registered "
                f"by {known.__module__}; rename one of the two"
            )
        try:
            signature = Signature.of(target)
        except RegistryError as err:
            raise RegistryError(f"{target.__module__}: the {self.kind} {err}") from None
        if "name" in signature.hints:
            raise RegistryError(f"{target.__module__}: {name} cannot take 'name', which chooses the class")
        self._objects[name] = target
        return target

    def names(self) -> list[str]:
        """All registered names, sorted; a RegistryError if a module of this registry has a broken import."""
        self._import_all()
        return sorted(self._objects)

    def get(self, name: str) -> Callable[..., Any]:
        """The class or function of a name.

        Args:
            name: As registered.

        Raises:
            RegistryError: There is none; names the nearest.
        """
        found = self.find(name)
        if found is None:
            raise RegistryError(self.unknown(name)[0])
        return found

    def find(self, name: str) -> Callable[..., Any] | None:
        """As `get`, but None for an unknown name."""
        if name not in self._objects:
            self._import_all()
        return self._objects.get(name)

    def unknown(self, name: str) -> tuple[str, str | None]:
        """The sentence about a name that is not registered, and the nearest name that is."""
        near = nearest(name, sorted(self._objects))
        known = f" (known: {listing(sorted(self._objects))})" if self._objects else " (none is registered)"
        return f"no {self.kind} is named '{name}'{did_you_mean(near)}{known}", near

    def build(self, cfg: Mapping[str, Any], /, **runtime: Any) -> Any:
        """Checks the node, unless it comes from a checked document, and calls its class with the node's keys.

        Args:
            cfg: A node with a `name`; never changed. Sections in it that are dataclasses arrive as instances,
                nodes of registries as `Config` copies.
            **runtime: Further arguments, which the constructor must accept and the node must not hold.

        Raises:
            ConfigError: All faults of the node at once; or the constructor's ValueError about the values.
            RegistryError: A runtime argument is not accepted, or is in the node too.
        """
        path = path_of(cfg) or self.kind
        checker = Checker(cfg)
        arguments = cfg.checked_arguments(self) if isinstance(cfg, Config) else None
        if arguments is None:
            node = checker.node(self, cfg, path, given=frozenset(runtime))
            checker.finish()
            arguments = node.checked_arguments(self)
        target = self.get(cfg["name"])
        accepted = Signature.of(target).hints
        for key in runtime:
            if key not in accepted:
                near = did_you_mean(nearest(key, accepted))
                raise RegistryError(f"{cfg['name']} has no argument '{key}', which the caller passes{near}")
            if key in cfg:
                place = f"{path}.{key}"
                raise RegistryError(f"{place} is set in the config, but the program passes its own '{key}'")
        return construct(target, {**arguments, **runtime}, path, checker.origin(path))

    def _import_all(self) -> None:
        # Modules are imported when a name is first missed, so nothing depends on the order of imports.
        if self._imported:
            return
        package = self._import(self.package)
        for info in pkgutil.iter_modules(getattr(package, "__path__", []), f"{self.package}."):
            self._import(info.name)
        self._imported = True

    def _import(self, module: str) -> ModuleType:
        try:
            return importlib.import_module(module)
        except ImportError as err:
            # What the module had registered before it failed would clash when it is tried again.
            for name in [name for name, obj in self._objects.items() if obj.__module__ == module]:
                del self._objects[name]
            place = f"{module}, a module of the {self.kind} registry,"
            raise RegistryError(f"{place} cannot be imported: {type(err).__name__}: {err}") from err
