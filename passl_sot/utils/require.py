"""Says in one sentence what to install when Paddle is missing."""

import importlib.util

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
