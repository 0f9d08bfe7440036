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

    Randomness is a function of seed, epoch and the images asked for. So it doesn't depend on the number of
    worker processes; that of a single image doesn't depend on the rest of the batch either.

    Args:
        transforms: At most one `Mixup`, and transforms of single images.
        normalized: Whether images arrive as float32 [3, H, W] rather than as uint8 [H, W, 3].
        channels: Their channels.

    Attributes:
        transforms: The transforms.
        normalizes: Whether results are float32 [B, 3, H, W].
        num_classes: Width of the soft targets; None where there is no `Mixup` and labels stay as they are.

    Raises:
        ValueError: There are two `Mixup`, or a transform doesn't fit what comes before it.
    """

    def __init__(self, transforms: Sequence[Transform | Mixup], *, normalized: bool, channels: int = 3):
        self.transforms = list(transforms)
        self.num_classes: int | None = None
        self._steps: list[Compose | Mixup] = []
        group: Any
        for whole, group in itertools.groupby(self.transforms, key=lambda t: stage_of(t) == "batch"):
            if not whole:
                # With one channel they are gray already: that is the end of `transforms`.
                options = {"where": "batch_transforms", "channels": channels, "gray": channels == 1}
                compose = Compose(list(group), normalized=normalized, **options)  # type: ignore[arg-type]
                normalized = compose.normalizes
                self._steps.append(compose)
                continue
            for mixup in group:
                if self.num_classes is not None:
                    raise ValueError("batch_transforms: Mixup stands twice")
                self.num_classes = mixup.num_classes
                self._steps.append(mixup)
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
            keys: (epoch, index), or (epoch, index, copy), of each image as the sampler asked for it.
            overwrite: `images` may be changed if they are float32.
            empty: Gives memory for images that are normalized here, as `numpy.empty`.

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
    """Builds what a `batch_transforms:` list of a config describes.

    Args:
        nodes: Mappings with a `name` and the arguments of that transform; None or none.
        normalized: Whether the transforms before end in normalized images.
        channels: Channels of the images.

    Returns:
        The stage, or None where there is nothing to do.

    Raises:
        ConfigError: A name or an argument is wrong.
        ValueError: A value is out of range, or the order can't be.
    """
    if not nodes:
        return None
    built = [TRANSFORMS.build(node) for node in nodes]
    return BatchStage(built, normalized=normalized, channels=channels)


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
