"""How far a map of relevance can be trusted: insertion and deletion curves.

Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018,
arXiv 1806.07421, section 4.2. Deletion takes away what a map calls relevant, the most relevant first: the
class's probability falls soon where the map is right, and the area below its curve is small. Insertion puts
it back, into a blurred image: the area is large. As published, pixels taken away become the mean colour,
and the blur is a Gaussian of 11 pixels with std 5, whatever the image's size. Of texts words become another
token in both.

An area means little by itself, as models differ in how little they need to see. Beside it stands that of a
random map on the same grid, the same for an item each time.

Legend: B batch, n places of an item: pixels of an image, tokens of a text, K classes.
"""

import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F

from passl_sot.modeling.backbones.text_backbone import TextBackbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.vis.gradients import ALL, ExplainError, as_inputs, at_rest, logits_of
from passl_sot.vis.relevance import upsample, word_mask

# A greater area of the one speaks for a map, of the other against it.
KINDS = {"insertion": 1, "deletion": -1}
_SEED = 0
_BLUR = (11, 11)
_BLUR_STD = 5.0


class Faithfulness(NamedTuple):
    """Probability of each item's class, float32 ``[B, steps + 1]``, as places are put back or taken away.

    Attributes:
        insertion: From the blurred image to the whole one.
        random_insertion: The same by a random map.
        deletion: From the whole image to an empty one.
        random_deletion: The same by a random map.
    """

    insertion: np.ndarray
    random_insertion: np.ndarray
    deletion: np.ndarray
    random_deletion: np.ndarray

    def areas(self) -> dict[str, np.ndarray]:
        """The area below each curve, ``[B]``, from 0 to 1, by the names of the curves."""
        return {name: (c[..., 1:] + c[..., :-1]).mean(axis=-1) / 2 for name, c in self._asdict().items()}

    def better(self) -> dict[str, np.ndarray]:
        """Whether the map's area is better than the random map's, bool ``[B]``, by the names of `KINDS`."""
        areas = self.areas()
        return {kind: sign * (areas[kind] - areas[f"random_{kind}"]) > 0 for kind, sign in KINDS.items()}


def faithfulness(
    model: Classifier,
    inputs: paddle.Tensor | Sequence[paddle.Tensor],
    maps: np.ndarray,
    classes: np.ndarray,
    *,
    steps: int = 20,
    part: str = ALL,
    baseline: int | None = None,
    special_ids: Collection[int] = (),
    probabilities: Callable[[paddle.Tensor], paddle.Tensor] = F.softmax,
) -> Faithfulness:
    """Insertion and deletion curves of maps, and of random ones: about ``4 * steps`` forward passes.

    Args:
        model, inputs: As for `explain`.
        maps: Of any origin: ``[B, H, W]`` on any grid, or ``[B, L]`` for texts.
        classes: Class of each item, int64 ``[B]``.
        steps: In how many equal steps all places are put back or taken away.
        part: The part of the head whose probabilities count.
        baseline: Of texts, the number of the token that stands for a word taken away: the mask, or padding.
        special_ids: Of texts, as for `explain`; they are never taken away.
        probabilities: Logits ``[B, K]`` to what the curves are of, such as the sigmoid of several labels.

    Raises:
        ExplainError: A text without a baseline; steps below 1.
    """
    inputs = as_inputs(inputs)
    if steps < 1:
        raise ExplainError(f"steps must be at least 1, got {steps}")
    first = inputs[0].numpy()
    if isinstance(model.backbone, TextBackbone):
        if baseline is None:
            raise ExplainError("texts need a baseline: the number of the mask token, or of padding")
        places = word_mask(model.backbone, inputs, special_ids)
        empty = blurred = np.where(places, baseline, first)
    else:
        places = np.ones((len(first), first[0, 0].size), bool)
        empty = np.zeros_like(first)
        blurred = np.stack([_blur(image) for image in first])
    random = np.stack([_random_map(item, maps.shape[1:]) for item in first])

    def curve(scores: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        found = []
        for item in _steps(_ranks(scores, random, first.shape, places), places, steps, start, end):
            outputs = probabilities(logits_of(model, [paddle.to_tensor(item), *inputs[1:]], part))
            found.append(outputs.numpy()[np.arange(len(first)), classes])
        return np.stack(found, axis=1).astype(np.float32)

    with at_rest(model), paddle.no_grad():
        return Faithfulness(
            insertion=curve(maps, blurred, first),
            random_insertion=curve(random, blurred, first),
            deletion=curve(maps, first, empty),
            random_deletion=curve(random, first, empty),
        )


def _steps(
    ranks: np.ndarray, places: np.ndarray, steps: int, start: np.ndarray, end: np.ndarray
) -> Iterator[np.ndarray]:
    """Items on the way from ``start`` to ``end``, place by place in the order of ``ranks`` ``[B, n]``."""
    # A place of an image is a pixel, in all its channels.
    shape = start.shape if start.ndim == 2 else (len(start), 1, *start.shape[2:])
    for step in range(steps + 1):
        # Of each text as many of its own words.
        count = np.round(places.sum(axis=1, keepdims=True) * (step / steps))
        yield np.where((ranks < count).reshape(shape), end, start)


def _blur(image_chw: np.ndarray) -> np.ndarray:
    return (
        cv2.GaussianBlur(image_chw.transpose(1, 2, 0), _BLUR, _BLUR_STD)
        .reshape(*image_chw.shape[1:], -1)
        .transpose(2, 0, 1)
    )


def _random_map(item: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    # By what the item holds, so that it does not depend on the batch it comes in.
    seed = (_SEED, zlib.crc32(np.ascontiguousarray(item).tobytes()))
    return np.random.default_rng(seed).random(shape, np.float32)


def _ranks(scores: np.ndarray, random: np.ndarray, shape: tuple[int, ...], places: np.ndarray) -> np.ndarray:
    """Place of each pixel or token in the order of falling relevance, ``[B, n]``; chance decides ties."""
    if len(shape) == 4:
        scores, random = (upsample(np.asarray(m, np.float32), shape[2:]) for m in (scores, random))
    scores, random = (m.reshape(len(m), -1) for m in (scores, random))
    # Places that stay are the last.
    order = np.stack([np.lexsort(keys) for keys in zip(random, -scores, ~places, strict=True)])
    return np.argsort(order, axis=1)
