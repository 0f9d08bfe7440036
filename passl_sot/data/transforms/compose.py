"""Transforms one after the other, of one image or of many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from passl_sot.config import zh
from passl_sot.data.rng import Streams
from passl_sot.data.transforms import base
from passl_sot.data.transforms.base import Empty, Out, Stage, Step, Transform, stage_of
from passl_sot.data.transforms.image import Normalize
from passl_sot.imageio.kernels.jit import available
from passl_sot.imageio.lazy_image import LazyImage, as_array


class Compose:
    """Applies transforms in order; how each is run is planned here, once.

    Args:
        transforms: The transforms.
        normalized: Whether images arrive normalized already.
        where: Key of the list, for messages.
        channels: Channels of the results. For 1, pictures stay RGB until the end of the transforms of uint8
            images, and turn gray there (ITU-R 601, Pillow's "L").
        gray: Whether one-channel images arrive as such already.

    Attributes:
        output_hw: Height and width that every result has, or None where they depend on the input.
        normalizes: Whether results are float32 [C, H, W] rather than uint8 [H, W, C].
        batched: Whether `of_batch` can be called.

    Raises:
        ValueError: A transform doesn't fit what comes before it.
    """

    def __init__(
        self,
        transforms: Sequence[Transform],
        *,
        normalized: bool = False,
        where: str = "transforms",
        channels: int = 3,
        gray: bool = False,
    ):
        self.transforms = list(transforms)
        self.output_hw = base.output_size(self.transforms)
        self._steps: list[Step] = []
        rgb = channels in (1, 3) and not gray
        becomes_gray = channels == 1 and not gray
        # By compiled loops alone, as it is then that it is quicker: 2.4 us for a CIFAR image.
        self.batched = available() and not becomes_gray
        for transform in self.transforms:
            stage = stage_of(transform)
            _check_place(f"{where}: {type(transform).__name__}", stage, where, normalized)
            if stage == "rgb" and not rgb:
                raise ValueError(
                    f"{where}: {type(transform).__name__} works on RGB images, and dataset.channels is "
                    f"{channels}: leave it out" + zh("rgb_only")
                )
            if isinstance(transform, Normalize):
                transform.fit(channels)
            if becomes_gray and stage in ("normalize", "normalized"):
                self._steps.append(_turn_gray)
                becomes_gray = False
            normalized = normalized or stage == "normalize"
            self._steps.append(base.make_step(transform))
            self.batched = self.batched and base.own_method(transform, "of_batch") is not None
        if becomes_gray:
            self._steps.append(_turn_gray)
        self.normalizes = normalized

    def __call__(
        self, image: LazyImage, rng: Generator | None, epoch: int = 0, out: Out = None
    ) -> np.ndarray:
        """The image after all transforms, in an epoch counted from 0.

        The source of its draws may be None where nothing is drawn. `out` is memory for the result, float32
        [C, H, W]; it is returned if the result has that shape.
        """
        for step in self._steps:
            image = step(image, rng, epoch, out)
        result = as_array(image)
        # A transform that knows nothing of `out` has made memory of its own.
        if out is None or result is out or result.shape != out.shape:
            return result
        out[...] = result
        return out

    def of_batch(self, images: np.ndarray, streams: Streams, empty: Empty) -> np.ndarray:
        """Many images of one size, uint8 [B, H, W, C], after all transforms, each just as by itself.

        Raises:
            DataError: A transform can't do it.
        """
        for transform in self.transforms:
            images = transform.of_batch(images, streams, empty)  # type: ignore[attr-defined]
        return images


def _check_place(name: str, stage: Stage, where: str, normalized: bool) -> None:
    if stage == "batch":
        raise ValueError(f"{name} works on whole batches; move it to batch_transforms")
    if stage == "normalized" and not normalized:
        raise ValueError(f"{name} works on normalised images; put it after Normalize")
    if stage == "normalize" and normalized:
        raise ValueError(
            f"{where}: images are normalised twice; keep one Normalize, in transforms or in "
            "batch_transforms (batch_transforms: null leaves out mixing and all that comes after it)"
        )
    if stage in ("pixels", "rgb") and normalized:
        raise ValueError(
            f"{name} works on uint8 images; put it before Normalize, after which only "
            "transforms of normalised images may stand (RandomErasing)"
        )


def _turn_gray(image: LazyImage, *_: object) -> np.ndarray:
    return np.asarray(Image.fromarray(as_array(image)).convert("L"))[:, :, None]


def build_transforms(nodes: Sequence[dict[str, Any]], *, channels: int = 3) -> Compose:
    """The transforms that a `transforms:` list of a config describes.

    Raises:
        ConfigError: A name or an argument is wrong.
        ValueError: A value is out of range, or the order can't be.
    """
    return Compose([base.TRANSFORMS.build(node) for node in nodes], channels=channels)
