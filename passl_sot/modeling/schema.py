"""The sections of a config file that describe a model."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import paddle

from passl_sot.config import ConfigError, Fault, make_section, model_config
from passl_sot.modeling.backbones import BACKBONES, build_backbone
from passl_sot.modeling.backbones.base import Backbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.heads import HEADS
from passl_sot.utils.memory import machine_memory

# Of one model, ten times as many as the deepest has: small ones would take hours before they fill memory.
_MOST_PARAMETERS = 10_000


@dataclass(kw_only=True)
class ModelSection:
    """`model:` a backbone (PASSL's `architecture`) and the head on it."""

    architecture: Annotated[dict, BACKBONES]
    head: Annotated[dict, HEADS]
    name: Literal["Classifier"] = "Classifier"

    def build(self, copies: int = 1) -> Classifier:
        """The model, with new weights.

        Args:
            copies: How many numbers are kept for each weight, itself included.

        Raises:
            ConfigError: Backbone and head do not fit each other; or these numbers don't fit into memory.
        """
        with _within_memory(copies):
            return Classifier(architecture=self.architecture, head=self.head)

    def build_backbone(self) -> Backbone:
        """The backbone alone, with new weights; a ConfigError as of `build`."""
        with _within_memory(1):
            return build_backbone(self.architecture)


@contextmanager
def _within_memory(copies: int) -> Iterator[None]:
    """A block that builds a model, and is left before its parameters take more memory than there is."""
    create = paddle.nn.Layer.create_parameter
    memory = machine_memory()
    needed = 0
    made = 0

    def counted(layer: paddle.nn.Layer, shape: Sequence[int], *args: Any, **more: Any) -> paddle.Tensor:
        nonlocal needed, made
        needed += 4 * int(copies) * math.prod(shape)
        made += 1
        if made > _MOST_PARAMETERS:
            message = f"the model has over {_MOST_PARAMETERS:,} parameter tensors: build it smaller (depth)"
            raise ConfigError([Fault("model.architecture", message)])
        if needed > memory and paddle.device.get_device() == "cpu":
            kept = "the model's parameters"
            if copies > 1:
                kept += ", their gradients and the optimizer's state"
            message = (
                f"{kept} need more than the {memory / 1e9:.0f} GB of this machine's memory: build it smaller "
                "(embed_dim, depth, img_size, num_classes)"
            )
            raise ConfigError([Fault("model.architecture", message)])
        return create(layer, shape, *args, **more)

    # Paddle says what doesn't fit when it is too late: the system would end processes before.
    paddle.nn.Layer.create_parameter = counted
    try:
        yield
    finally:
        paddle.nn.Layer.create_parameter = create


@dataclass(kw_only=True)
class MetaSection:
    """`meta:` the model card of a leaf config; counts are checked by a test.

    Attributes:
        params_m: Trainable parameters in millions.
        gmacs: Billions of multiply-adds of one forward pass, attention products included; of a model of
            texts for 128 tokens.
        published_top1: On ImageNet-1K, in percent.
        published_imagenet_a: Top-1 on ImageNet-A as SoT's README has it, in percent.
        published_score: Of a model of texts, on the task's development set, in percent.
        score: What that is, as `task.score`.
        license: That of the pre-trained weights, where the authors state one.
        measured_top1: In this project, in percent.
    """

    paper: str
    params_m: float
    gmacs: float
    published_top1: float | None = None
    published_imagenet_a: float | None = None
    published_score: float | None = None
    score: Literal["accuracy", "matthews"] | None = None
    license: str | None = None
    measured_top1: float | str = "not trained here"


def read_model(config: str | Path, overrides: Sequence[str] = ()) -> ModelSection:
    """The `model:` section of a YAML file or a name of `list_models()`, which may lack all other sections.

    Overrides are `a.b=value` strings, as after `-o`. A ConfigError tells what is faulty.
    """
    return make_section(ModelSection, model_config(config, tuple(overrides))["model"], "model")
