"""Augmentation that changes with the epochs."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from passl_sot.config.epoch_schedule import value_of_epoch
from passl_sot.data.transforms.compose import output_size
from passl_sot.data.transforms.image import TRANSFORMS, stage_of


@TRANSFORMS.register()
class ByEpoch:
    """Applies other transforms from given epochs on, such as stronger ones later.

    `{name: ByEpoch, steps: {"0": [], "50": [{name: RandAugment, policy: rand-m5-inc1}]}}`: none in epochs 0
    to 49, then RandAugment. For mixing see `Mixup.off_epoch`.

    Args:
        steps: First epochs, counted from 0 and beginning there, to lists of transforms.

    Raises:
        ValueError: The steps don't begin at 0, normalise, work on batches, or give images of different sizes.
    """

    by_epoch = True

    def __init__(self, *, steps: dict[str, Annotated[list, TRANSFORMS]]):
        self.steps: dict[str, list[Any]] = {
            first: [TRANSFORMS.build(node) for node in nodes] for first, nodes in steps.items()
        }
        value_of_epoch("ByEpoch.steps", dict.fromkeys(self.steps, 0.0), 0)
        every = [transform for step in self.steps.values() for transform in step]
        stages = {stage_of(transform) for transform in every}
        if len(stages) > 1 or stages & {"batch", "normalize"}:
            raise ValueError(
                "ByEpoch.steps may hold transforms of uint8 images alone, or of normalised ones alone; "
                "Normalize stands outside, and Mixup has off_epoch"
            )
        self.stage = stages.pop() if stages else "pixels"
        self.colours = any(getattr(transform, "colours", False) for transform in every)
        resizing = [[t for t in step if hasattr(t, "output_hw")] for step in self.steps.values()]
        sizes = {output_size(step) for step in resizing if step}
        if len(sizes) > 1 or (sizes and not all(resizing)):
            raise ValueError("ByEpoch.steps give images of different sizes; the model takes one")
        if sizes:
            self.output_hw = sizes.pop()

    def __call__(self, image: np.ndarray, rng: np.random.Generator, epoch: int) -> np.ndarray:
        """The image after the transforms of an epoch."""
        first = max((key for key in self.steps if int(key) <= epoch), key=int)
        for transform in self.steps[first]:
            more = (epoch,) if getattr(transform, "by_epoch", False) else ()
            image = transform(image, rng, *more)
        return image
