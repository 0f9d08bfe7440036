"""A model's gradients at places inside it, and the model left as it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn

from passl_sot.config import UserError
from passl_sot.modeling.backbones.base import Tokens
from passl_sot.modeling.classifier import Classifier
from passl_sot.nn.precision import autocast_off

ALL = "all"
# One for each item, one for all, or None for the class with the greatest logit.
Classes = int | Sequence[int] | np.ndarray | None


class ExplainError(UserError, ValueError):
    """A map that this model does not have, or that was not asked for rightly."""


@contextmanager
def at_rest(model: nn.Layer) -> Iterator[None]:
    """A block in which a model evaluates, and none of its parameters has a gradient.

    Afterwards it is as before: modes of all layers, frozen parameters, recomputation, gradients.
    """
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    learning = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    recompute = model.backbone.recompute
    try:
        model.eval()
        model.backbone.set_recompute(False)
        for parameter in learning:
            parameter.stop_gradient = True
        with autocast_off(), paddle.set_grad_enabled(True):
            yield
    finally:
        for layer, mode in modes:
            layer.training = mode
        for parameter in learning:
            parameter.stop_gradient = False
        model.backbone.set_recompute(recompute)


class Leaf:
    """Where a graph begins: a tensor inside the network, cut off from what made it."""

    x: paddle.Tensor

    def __call__(self, x: paddle.Tensor) -> paddle.Tensor:
        """What stands in the place of a tensor."""
        self.x = x.detach()
        # What comes before takes no part in the backward pass.
        self.x.stop_gradient = False
        return self.x

    def after(self, layer: nn.Layer) -> Any:
        """In place of a layer's output; gives the hook."""
        return layer.register_forward_post_hook(lambda _, inputs, output: self(output))

    def before(self, layer: nn.Layer) -> Any:
        """In place of a layer's first input; gives the hook."""
        hook: Any = lambda _, inputs: (self(inputs[0]), *inputs[1:])  # noqa: E731
        return layer.register_forward_pre_hook(hook)


def as_inputs(inputs: paddle.Tensor | Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
    """The arguments of a model's call, where one may be given alone."""
    if isinstance(inputs, paddle.Tensor):
        return [inputs]
    return list(inputs)


def as_arguments(features: paddle.Tensor | Tokens) -> tuple[Any, ...]:
    """What a backbone gives as the arguments of a head's call."""
    if isinstance(features, Tokens):
        return tuple(features)
    return (features,)


def logits_of(model: Classifier, inputs: Sequence[paddle.Tensor], part: str) -> paddle.Tensor:
    """Logits ``[B, K]`` of the whole head, or of a part of it."""
    if part == ALL:
        return model(*inputs)
    return model.head.forward_part(part, *as_arguments(model.forward_features(*inputs)))


def as_classes(classes: Classes, logits: paddle.Tensor) -> np.ndarray:
    """The class of each item, int64 ``[B]``; by default the one with the greatest logit."""
    batch, count = logits.shape
    if classes is None:
        return logits.argmax(axis=1).numpy().astype(np.int64)
    chosen = np.asarray(classes)
    if chosen.ndim == 0:
        chosen = np.full(batch, chosen)
    if chosen.dtype.kind not in "iu" or chosen.shape != (batch,):
        raise ExplainError(f"classes are {batch} whole numbers, one for each item, or one for all: {classes}")
    wrong = chosen[(chosen < 0) | (chosen >= count)]
    if len(wrong):
        raise ExplainError(f"there is no class {wrong[0]}: this model's are 0 to {count - 1}")
    return chosen.astype(np.int64)


def picked(logits: paddle.Tensor, classes: np.ndarray) -> paddle.Tensor:
    """The sum over a batch of each item's logit, whose gradients are those of each item alone."""
    return paddle.take_along_axis(logits, paddle.to_tensor(classes).unsqueeze(1), axis=1).sum()


def gradients(score: paddle.Tensor, places: Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
    """The gradient at each place; zeros where the score does not depend on it.

    Raises:
        ExplainError: They are not finite.
    """
    found = paddle.grad(score, list(places), allow_unused=True)
    grads = [
        paddle.zeros_like(place) if grad is None else grad for place, grad in zip(places, found, strict=True)
    ]
    # A map of them would be empty, as one of a model that sees nothing in particular.
    if not all(paddle.isfinite(grad).all() for grad in grads):
        raise ExplainError(
            "gradients of these inputs aren't finite, so there is no map: weights are damaged or too large"
        )
    return grads
