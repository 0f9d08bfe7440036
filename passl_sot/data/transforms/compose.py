"""Transforms one after the other: of one image, of many at once, of batches, and by the epoch."""

import itertools
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from passl_sot.config import value_of_epoch, zh
from passl_sot.data.rng import Key, Streams, batch_rng, image_rng
from passl_sot.data.transforms import base
from passl_sot.data.transforms.base import Empty, Images, Out, Stage, Step, Transform, stage_of
from passl_sot.data.transforms.image import Normalize
from passl_sot.data.transforms.mixup import Mixup
from passl_sot.imageio.kernels.jit import available
from passl_sot.imageio.lazy_image import LazyImage, as_array


class Compose:
    """Applies transforms in order; how each is run is planned here, once.

    Args:
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


@base.TRANSFORMS.register()
class ByEpoch(base.BaseTransform):
    """Applies other transforms from given epochs on, such as stronger ones later.

    `{name: ByEpoch, steps: {"0": [], "50": [{name: RandAugment, policy: rand-m5-inc1}]}}`: none in epochs 0
    to 49, then RandAugment. For mixing see `Mixup.off_epoch`.

    Args:
        steps: First epochs, counted from 0 and beginning there, to lists of transforms.

    Raises:
        ValueError: The steps don't begin at 0, normalise, work on batches, or give images of different sizes.
    """

    def __init__(self, *, steps: dict[str, Annotated[list, base.TRANSFORMS]]):
        # For its check of the keys, which are those of any schedule by epoch.
        value_of_epoch("ByEpoch.steps", dict.fromkeys(steps, 0.0), 0)
        self.steps = {
            int(first): [base.TRANSFORMS.build(node) for node in nodes] for first, nodes in steps.items()
        }
        stages: set[Stage] = {stage_of(transform) for step in self.steps.values() for transform in step}
        if stages == {"pixels", "rgb"}:
            stages = {"rgb"}  # one that takes RGB alone makes the whole so
        if len(stages) > 1 or stages & {"batch", "normalize"}:
            raise ValueError(
                "ByEpoch.steps may hold transforms of uint8 images alone, or of normalised ones alone; "
                "Normalize stands outside, and Mixup has off_epoch"
            )
        self.stage: Stage = next(iter(stages), "pixels")
        resizing = [[t for t in step if hasattr(t, "output_hw")] for step in self.steps.values()]
        sizes = {base.output_size(step) for step in resizing if step}
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


class BatchStage:
    """Applies `batch_transforms`, after each image of a batch has passed through `transforms`.

    `Mixup`, of which there is one at most, gets the batch, transforms of single images one after the other.
    Randomness is a function of seed, epoch and the images asked for; that of a single image doesn't depend on
    the rest of the batch. `normalized` and `channels` are as of `Compose`.

    Attributes:
        normalizes: Whether results are float32 [B, 3, H, W].
        num_classes: Width of the soft targets; None where there is no `Mixup` and labels stay as they are.

    Raises:
        ValueError: There are two `Mixup`, or a transform doesn't fit what comes before it.
    """

    def __init__(self, transforms: Sequence[Transform | Mixup], *, normalized: bool, channels: int = 3):
        self.transforms: list[Any] = list(transforms)
        mixups = [t for t in self.transforms if stage_of(t) == "batch"]
        if len(mixups) > 1:
            raise ValueError("batch_transforms: Mixup stands twice")
        self.num_classes: int | None = mixups[0].num_classes if mixups else None
        self._steps: list[Compose | Mixup] = []
        # With one channel they are gray already: that is the end of `transforms`.
        options: Any = {"where": "batch_transforms", "channels": channels, "gray": channels == 1}
        for whole, group in itertools.groupby(self.transforms, key=lambda t: stage_of(t) == "batch"):
            if whole:
                self._steps += mixups
                continue
            compose = Compose(list(group), normalized=normalized, **options)
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
        empty: Empty = np.empty,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The batch after all transforms.

        Args:
            images: uint8 [B, H, W, 3], or a list of B; float32 [B, 3, H, W] if they are normalized already,
                which may be changed in place.
            labels: int64 [B].
            keys: The images' keys, as of `passl_sot.data.rng`.
            empty: Gives memory for images that are normalized here.

        Returns:
            Images, and labels: int64 [B], or float32 [B, K] after `Mixup`.
        """
        rngs: list[Generator | None] = [None] * len(keys)
        if self._draws:
            rngs = [image_rng(seed, key, late=True) for key in keys]
        epoch = int(keys[0][0])
        for step in self._steps:
            if isinstance(step, Compose):
                images = _each(images, step, rngs, epoch, empty)
            else:
                images, labels = step(images, labels, batch_rng(seed, keys), epoch)
        if not isinstance(images, np.ndarray):
            images = np.stack([*images])
        return images, labels


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


def build_transforms(nodes: Sequence[dict[str, Any]], *, channels: int = 3) -> Compose:
    """The transforms that a `transforms:` list of a config describes.

    Raises:
        ConfigError: A name or an argument is wrong.
        ValueError: A value is out of range, or the order can't be.
    """
    return Compose([base.TRANSFORMS.build(node) for node in nodes], channels=channels)


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
    return BatchStage(
        [base.TRANSFORMS.build(node) for node in nodes], normalized=normalized, channels=channels
    )
