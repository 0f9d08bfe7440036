"""Where a model sees a class: a map of relevance over an image, a score for each token of a text.

There is no layer to choose and nothing to reshape: a backbone knows the layer that localizes, its grid and
its prefix tokens. Methods, by name, where a model has several the more faithful first (by
`vis.faithfulness`, on small models of every family that were trained to find a pattern in noise):

* ``grad_sam`` and ``rollout``: see `vis.attention_maps`. The first of all families, of STViT by the stages
  without super tokens. T2T-ViT's performers have no attention weights, and lie before the blocks: its
  scores are of tokens that have already seen what is around them. Roll-outs are of plain backbones and of
  texts; PiT's poolings, Swin's windows and merged tokens, STViT's super tokens and convolutions mix tokens
  by more than attention among all: there they would mean nothing, and are not offered.
* ``grad_cam``, of images (Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv 1610.02391): the output of the
  layer that localizes, each channel times the mean over the map of the logit's gradient there, summed; what
  is negative becomes 0.
* ``hires_cam``, of images (Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations
  of convolutional neural networks", arXiv 2011.08891): the same with the gradient of each place in place of
  the mean, which tells more where the head is none on a mean of words.
* ``gradient_input``, of texts: what the embeddings give times the logit's gradient there, summed over the
  channels, and 0 where it is negative. Its absolute value and the length of the gradient alone, which
  others draw, do not tell words for a class from words against it, and were half as faithful.

Legend: B batch, H and W rows and columns of tokens, L tokens of a text, K classes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F

from passl_sot.modeling.backbones.base import ImageBackbone
from passl_sot.modeling.backbones.plain import PlainBackbone
from passl_sot.modeling.backbones.text_backbone import TextBackbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.nn.post_norm import Packing
from passl_sot.vis.attention_maps import Attentions
from passl_sot.vis.gradients import (
    ALL,
    Classes,
    ExplainError,
    Leaf,
    as_classes,
    as_inputs,
    at_rest,
    gradients,
    logits_of,
    picked,
)

_BY_ATTENTION = ("grad_sam", "rollout")


@dataclass(frozen=True)
class Relevance:
    """Where a batch's items speak for a class.

    Attributes:
        maps: float32 ``[B, H, W]``, on a grid of tokens; of texts ``[B, L]``, 0 for
            special tokens and padding. Not below 0, and in no unit.
        classes: int64 ``[B]``, the class of each.
        logits: float32 ``[B, K]``, of the part that was asked for.
        probabilities: float32 ``[B, K]``, their softmax.
    """

    maps: np.ndarray
    classes: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray


def methods_of(model: Classifier) -> tuple[str, ...]:
    """The methods that a model has, the one to take first."""
    backbone = model.backbone
    if isinstance(backbone, TextBackbone):
        return ("grad_sam", "gradient_input", "rollout")
    if not isinstance(backbone, ImageBackbone):
        return ()
    if isinstance(backbone, PlainBackbone):
        return ("grad_sam", "hires_cam", "grad_cam", "rollout")
    if backbone.attentions():
        return ("grad_sam", "grad_cam", "hires_cam")
    return ("grad_cam", "hires_cam")


def parts_of(model: Classifier) -> tuple[str, ...]:
    """What of a model's logits can be explained: "all", and of a fused head "ClassT" and "WordT"."""
    return (ALL, *getattr(model.head, "parts", ()))


def explain(
    model: Classifier,
    inputs: paddle.Tensor | Sequence[paddle.Tensor],
    classes: Classes = None,
    *,
    method: str | None = None,
    part: str = ALL,
    special_ids: Collection[int] = (),
) -> Relevance:
    """Maps of what speaks for a class in each item of a batch; the model stays as it was.

    Args:
        model: Of images, planned for their size (``model.resize``), or of texts.
        inputs: What the model's call takes: images ``[B, C, H, W]``, normalized; or a sequence of input_ids,
            attention_mask and, where the model has them, token_type_ids, ``[B, L]`` each.
        classes: One for each item, one for all, or None for the class that each is taken for.
        method: One of `methods_of`, by default the first.
        part: One of `parts_of`.
        special_ids: Of texts, numbers of the tokenizer's special tokens.

    Raises:
        ExplainError: The model has no such method or class.
        ValueError: The head has no such part, or the inputs are not the model's.
    """
    inputs = as_inputs(inputs)
    methods = methods_of(model)
    method = method or next(iter(methods), "")
    if method not in methods:
        known = ", ".join(methods) or "none"
        raise ExplainError(f"{type(model.backbone).__name__} has no method {method!r}; it has: {known}")
    with at_rest(model):
        if method in _BY_ATTENTION:
            scores, logits, chosen = _by_attention(model, inputs, classes, part, method)
        else:
            scores, logits, chosen = _by_gradient(model, inputs, classes, part, method)
        # Weights may be of fewer bits.
        logits = logits.detach().astype("float32")
        if isinstance(model.backbone, TextBackbone):
            maps = _of_texts(model.backbone, scores, inputs, special_ids)
        else:
            maps = scores.astype("float32").numpy()
    return Relevance(maps, chosen, logits.numpy(), F.softmax(logits).numpy())


def _by_gradient(
    model: Classifier, inputs: Sequence[paddle.Tensor], classes: Classes, part: str, method: str
) -> tuple[paddle.Tensor, paddle.Tensor, np.ndarray]:
    """Scores ``[B, H, W]``, of texts of all their tokens; logits; classes."""
    backbone = model.backbone
    stage, layer = backbone.localizing_layer()
    leaf = Leaf()
    hook = leaf.after(layer)
    try:
        logits = logits_of(model, inputs, part)
    finally:
        hook.remove()
    chosen = as_classes(classes, logits)
    (grad,) = gradients(picked(logits, chosen), [leaf.x])
    activation = leaf.x.detach()
    if isinstance(backbone, TextBackbone):
        return F.relu((activation * grad).sum(axis=-1)).flatten(), logits, chosen
    activation, grad = (backbone.as_map(stage, tokens) for tokens in (activation, grad))
    if method == "grad_cam":
        grad = grad.mean(axis=[2, 3], keepdim=True)
    return F.relu((grad * activation).sum(axis=1)), logits, chosen


def _by_attention(
    model: Classifier, inputs: Sequence[paddle.Tensor], classes: Classes, part: str, method: str
) -> tuple[paddle.Tensor, paddle.Tensor, np.ndarray]:
    """The same."""
    attentions = Attentions(model.backbone)
    with attentions.recording():
        logits = logits_of(model, inputs, part)
    chosen = as_classes(classes, logits)
    score = picked(logits, chosen)
    scores = attentions.rollout(score) if method == "rollout" else attentions.grad_sam(score)
    return scores, logits, chosen


def _of_texts(
    backbone: TextBackbone,
    scores: paddle.Tensor,
    inputs: Sequence[paddle.Tensor],
    special_ids: Collection[int],
) -> np.ndarray:
    """Scores of all tokens, or of the real ones in the backbone's own order, as float32 ``[B, L]``."""
    real = _real_tokens(inputs)
    # Texts of one length come as a block, others as their real tokens in a row.
    if scores.size == real.size:
        scores = scores.reshape(real.shape)
    else:
        scores = Packing(real).unpack(scores.unsqueeze(-1)).squeeze(-1)
    return scores.astype("float32").numpy() * word_mask(backbone, inputs, special_ids)


def _real_tokens(inputs: Sequence[paddle.Tensor]) -> np.ndarray:
    ids = inputs[0].numpy()
    return np.ones(ids.shape, bool) if len(inputs) == 1 else inputs[1].numpy() > 0


def word_mask(
    backbone: TextBackbone, inputs: Sequence[paddle.Tensor], special_ids: Collection[int]
) -> np.ndarray:
    """Which tokens of texts are words, bool ``[B, L]``: neither padding nor the class token nor special.

    Args:
        backbone: It knows where its class token stands.
        inputs: input_ids ``[B, L]`` and, unless all are tokens, attention_mask.
        special_ids: As for `explain`.
    """
    real = _real_tokens(inputs)
    words = real & ~np.isin(inputs[0].numpy(), list(special_ids))
    # GPT's class token is the last real one.
    order = backbone.class_first_order(real)
    words[np.arange(len(words)), 0 if order is None else order[:, 0]] = False
    return words


def upsample(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps ``[B, H, W]`` to another size, bilinearly.

    Args:
        maps: float32.
        size: Height and width in pixels.
    """
    height, width = size
    return np.stack([cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR) for grid in maps])
