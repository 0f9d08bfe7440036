"""The batch stage: transforms of a batch, after each of its images has passed through `transforms`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from passl_sot.data.rng import Key, batch_rng, late_image_rng
from passl_sot.data.transforms.base import TRANSFORMS, Empty, Images, Out, Transform, stage_of
from passl_sot.data.transforms.compose import Compose
from passl_sot.data.transforms.image import Normalize
from passl_sot.data.transforms.mixup import Mixup


class BatchStage:
    """Applies `batch_transforms`: `Mixup` to the batch, transforms of single images to one after the other.

    Randomness is a function of seed, epoch and the images asked for; that of a single image doesn't depend on
    the rest of the batch.

    Args:
        transforms: At most one `Mixup`, and transforms of single images.
        normalized: Whether images arrive as float32 [3, H, W] rather than as uint8 [H, W, 3].
        channels: Their channels.

    Attributes:
        normalizes: Whether results are float32 [B, 3, H, W].
        num_classes: Width of the soft targets; None where there is no `Mixup` and labels stay as they are.

    Raises:
        ValueError: There are two `Mixup`, or a transform doesn't fit what comes before it.
    """

    def __init__(self, transforms: Sequence[Transform | Mixup], *, normalized: bool, channels: int = 3):
        self.transforms = list(transforms)
        self.num_classes: int | None = None
        self._steps: list[Compose | Mixup] = []
        for _, group in itertools.groupby(self.transforms, key=lambda t: stage_of(t) == "batch"):
            members: list[Any] = list(group)
            if stage_of(members[0]) == "batch":
                if self.num_classes is not None or len(members) > 1:
                    raise ValueError("batch_transforms: Mixup stands twice")
                self.num_classes = members[0].num_classes
                self._steps += members
                continue
            # With one channel they are gray already: that is the end of `transforms`.
            options: Any = {"where": "batch_transforms", "channels": channels, "gray": channels == 1}
            compose = Compose(members, normalized=normalized, **options)
            normalized = compose.normalizes
            self._steps.append(compose)
        self.normalizes = normalized
        # Generators of single images take 3.6 us each, more than all else that is done to a CIFAR image.
        self._draws = not all(isinstance(transform, Normalize | Mixup) for transform in self.transforms)

    def __call__(
        self,
        images: Images,
        labels: np.ndarray,
        *,
        seed: int,
        keys: Sequence[Key],
        overwrite: bool = False,
        empty: Empty = np.empty,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The batch after all transforms.

        Args:
            images: uint8 [B, H, W, 3], or a list of B; float32 [B, 3, H, W] if they are normalized already.
            labels: int64 [B].
            seed: The run's seed.
            keys: The images' keys, as of `passl_sot.data.rng`.
            overwrite: `images` may be changed if they are float32.
            empty: Gives memory for images that are normalized here.

        Returns:
            Images, and labels: int64 [B], or float32 [B, K] after `Mixup`.
        """
        rngs: list[Generator | None] = [None] * len(keys)
        if self._draws:
            rngs = [late_image_rng(seed, key) for key in keys]
        epoch = int(keys[0][0])
        for step in self._steps:
            if isinstance(step, Compose):
                images = _each(images, step, rngs, epoch, empty)
                overwrite = True
            else:
                images, labels = step(images, labels, batch_rng(seed, keys), epoch, overwrite=overwrite)
        if not isinstance(images, np.ndarray):
            images = np.stack([*images])
        return images, labels


def build_batch_transforms(
    nodes: Sequence[dict[str, Any]] | None, *, normalized: bool, channels: int = 3
) -> BatchStage | None:
    """The stage that a `batch_transforms:` list of a config describes; None where there is nothing to do.

    Raises:
        ConfigError: A name or an argument is wrong.
        ValueError: As of `BatchStage`.
    """
    if not nodes:
        return None
    return BatchStage([TRANSFORMS.build(node) for node in nodes], normalized=normalized, channels=channels)


def _each(
    images: Images, transform: Compose, rngs: Sequence[Generator | None], epoch: int, empty: Empty
) -> np.ndarray:
    first = transform.transforms[0]
    out: Out = None
    rows: Sequence[Out] = [None] * len(images)
    results = []
    # One by one: images of `Mixtures` are mixed as they are asked for.
    for place, (image, rng) in enumerate(zip(images, rngs, strict=True)):
        if place == 0 and isinstance(first, Normalize):
            out = empty((len(images), len(first.mean), *image.shape[:2]), np.float32)
            rows = list(out)
        results.append(transform(image, rng, epoch, rows[place]))
    # Most transforms of floats work in place; others may change the size.
    if out is not None and all(result is row for result, row in zip(results, rows, strict=True)):
        return out
    return np.stack(results)
