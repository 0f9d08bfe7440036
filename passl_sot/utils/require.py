"""Says in one sentence what to install when a package is missing."""

import importlib
import importlib.util
import os
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


def require_extra(module: str, extra: str, what: str) -> ModuleType:
    """Imports a module that comes with an extra; a MissingExtraError says how to install it for `what`."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise MissingExtraError(f"{what} needs {module}: run `pip install 'passl_sot[{extra}]'`")
    decline_reports()
    return importlib.import_module(module)


def decline_reports() -> None:
    """Keeps onnxruntime and NNCF from reporting their use to their makers, unless the user's settings differ.

    Call before one of them is imported, here or in a process that is started.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("NNCF_CI", "1")  # has no other effect than this
