"""passl_sot: second-order and token-based vision transformers on PaddlePaddle, assembled from YAML.

    from passl_sot import Model, create_model, list_models
    model = create_model("sot_small", num_classes=10)

Names are imported when first asked for: `import passl_sot` alone doesn't start Paddle.
"""

import importlib
import warnings
from typing import TYPE_CHECKING

from passl_sot.version import __version__

if TYPE_CHECKING:
    from passl_sot.model import Model
    from passl_sot.predict import Predictor
    from passl_sot.zoo import create_model, list_models

__all__ = ["Model", "Predictor", "__version__", "create_model", "list_models"]

_HOMES = {
    "Model": "passl_sot.model",
    "Predictor": "passl_sot.predict",
    "create_model": "passl_sot.zoo",
    "list_models": "passl_sot.zoo",
}


def __dir__() -> list[str]:
    hidden = {"TYPE_CHECKING", "_HOMES", "importlib", "warnings"}
    return sorted({*globals(), *__all__} - hidden)


# Hidden from type checkers, which would take any misspelt name for an object.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'passl_sot' has no attribute {name!r}")
        # A word of Paddle's own on compiling extensions, of which there are none here.
        warnings.filterwarnings("ignore", message="No ccache found")
        return getattr(importlib.import_module(_HOMES[name]), name)
