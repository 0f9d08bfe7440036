"""`Model(cfg_file)`: PASSL's way of building a model from a YAML file."""

from collections.abc import Sequence
from pathlib import Path

from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.schema import read_model


class Model(Classifier):
    """The model that a YAML file, or a name of `list_models()`, describes, with new weights.

    Args:
        cfg_file: The file or the name.
        overrides: `a.b=value` strings, as after `-o`.

    Raises:
        ConfigError: All that is faulty, at once.
    """

    def __init__(self, cfg_file: str | Path, overrides: Sequence[str] = ()):
        section = read_model(cfg_file, overrides)
        super().__init__(architecture=section.architecture, head=section.head)
