"""Augmentation that changes with the epochs."""

from __future__ import annotations

from typing import Annotated

from numpy.random import Generator

from passl_sot.config import value_of_epoch
from passl_sot.data.transforms import base
from passl_sot.data.transforms.base import TRANSFORMS, BaseTransform, Out, Stage, output_size
from passl_sot.imageio.lazy_image import LazyImage


@TRANSFORMS.register()
class ByEpoch(BaseTransform):
    """Applies other transforms from given epochs on, such as stronger ones later.

    `{name: ByEpoch, steps: {"0": [], "50": [{name: RandAugment, policy: rand-m5-inc1}]}}`: none in epochs 0
    to 49, then RandAugment. For mixing see `Mixup.off_epoch`.

    Args:
        steps: First epochs, counted from 0 and beginning there, to lists of transforms.

    Raises:
        ValueError: The steps don't begin at 0, normalise, work on batches, or give images of different sizes.
    """

    def __init__(self, *, steps: dict[str, Annotated[list, TRANSFORMS]]):
        # For its check of the keys, which are those of any schedule by epoch.
        value_of_epoch("ByEpoch.steps", dict.fromkeys(steps, 0.0), 0)
        self.steps = {
            int(first): [TRANSFORMS.build(node) for node in nodes] for first, nodes in steps.items()
        }
        stages: set[Stage] = {base.stage_of(transform) for step in self.steps.values() for transform in step}
        if stages == {"pixels", "rgb"}:
            stages = {"rgb"}  # one that takes RGB alone makes the whole so
        if len(stages) > 1 or stages & {"batch", "normalize"}:
            raise ValueError(
                "ByEpoch.steps may hold transforms of uint8 images alone, or of normalised ones alone; "
                "Normalize stands outside, and Mixup has off_epoch"
            )
        self.stage: Stage = next(iter(stages), "pixels")
        resizing = [[t for t in step if hasattr(t, "output_hw")] for step in self.steps.values()]
        sizes = {output_size(step) for step in resizing if step}
        # A step without one leaves the size as it comes.
        if len(sizes) > 1 or (sizes and not all(resizing)):
            raise ValueError("ByEpoch.steps give images of different sizes; the model takes one")
        if sizes:
            self.output_hw = sizes.pop()
        self._plans = {first: [base.make_step(t) for t in step] for first, step in self.steps.items()}

    def apply(self, image: LazyImage, rng: Generator, epoch: int = 0, out: Out = None) -> LazyImage:
        """The image after the transforms of an epoch."""
        first = max(number for number in self._plans if number <= epoch)
        for step in self._plans[first]:
            image = step(image, rng, epoch, out)
        return image
