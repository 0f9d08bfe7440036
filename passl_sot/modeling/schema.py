"""The sections of a config file that describe a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from passl_sot.config import make_section, model_config
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.heads import HEADS


@dataclass(kw_only=True)
class ModelSection:
    """`model:` a backbone (PASSL's `architecture`) and the head on it."""

    architecture: Annotated[dict, BACKBONES]
    head: Annotated[dict, HEADS]
    name: Literal["Classifier"] = "Classifier"

    def build(self) -> Classifier:
        """The model, with new weights; a ConfigError if backbone and head do not fit each other."""
        return Classifier(architecture=self.architecture, head=self.head)


@dataclass(kw_only=True)
class MetaSection:
    """`meta:` the model card of a leaf config; counts are checked by a test."""

    paper: str
    params_m: float  # trainable parameters in millions
    gmacs: float  # billions of multiply-adds of one forward pass, attention products included
    published_top1: float | None = None  # on ImageNet-1K, in percent
    measured_top1: float | str = "not trained here"  # in this project, in percent
    weights: str = "none released"  # where they come from
    license: str = "not stated"  # of the weights


def read_model(config: str | Path, overrides: Sequence[str] = ()) -> ModelSection:
    """The `model:` section of a YAML file or a name of `list_models()`, which may lack all other sections.

    Overrides are `a.b=value` strings, as after `-o`. A ConfigError tells what is faulty.
    """
    return make_section(ModelSection, model_config(config, tuple(overrides))["model"], "model")
