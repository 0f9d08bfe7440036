"""Says in one sentence what to install when a package is missing."""

import importlib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType

from passl_sot.config import UserError, zh


class MissingPaddleError(UserError, ImportError):
    """PaddlePaddle is not installed in this environment."""


def require_paddle() -> None:
    """Looks for Paddle without importing it; a MissingPaddleError says what to install."""
    if importlib.util.find_spec("paddle") is None:
        raise MissingPaddleError(
            "PaddlePaddle is not installed: run `pip install paddlepaddle==3.3.1` for a CPU, or see "
            "docs/gpu.md for a GPU" + zh("paddle_missing")
        )


class MissingExtraError(UserError, ImportError):
    """A package that comes with an extra is not installed."""


def check_extra(modules: Iterable[str], extra: str, what: str, advice: str = "") -> None:
    """Looks for modules that come with an extra; a MissingExtraError says how to install them for `what`."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"{what} needs {', '.join(missing)}: run `pip install 'passl_sot[{extra}]'`{advice}"
        )


def require_extra(module: str, extra: str, what: str) -> ModuleType:
    """Imports a module as `check_extra` looks for it."""
    check_extra([module.partition(".")[0]], extra, what)
    with _no_reports():
        return importlib.import_module(module)


@contextmanager
def _no_reports() -> Iterator[None]:
    """Keeps what is imported in the block from reporting its use to its makers, in started processes too."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("NNCF_CI", "1")  # has no other effect than this
    # OpenVINO reports each import, but in CI.
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        del os.environ["CI"]
        if before is not None:
            os.environ["CI"] = before
