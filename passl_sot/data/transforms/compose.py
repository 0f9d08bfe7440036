"""Transforms one after the other, of one image or of many at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from passl_sot.config.chinese import zh
from passl_sot.data.rng import Streams, streams_agree
from passl_sot.data.transforms.image import TRANSFORMS, Normalize, Transform, stage_of
from passl_sot.imageio.lazy_image import LazyImage, as_array


class Compose:
    """Applies transforms in order.

    Args:
        transforms: The transforms.
        normalized: Whether images arrive normalised already.
        where: Key of the list, for messages.
        channels: Channels of the results. For 1, pictures stay RGB until the end of the transforms of uint8
            images, and turn grey there (ITU-R 601, Pillow's "L").
        grey: Whether one-channel images arrive as such already.

    Attributes:
        transforms: The transforms.
        output_hw: Height and width that every result has, or None where they depend on the input.
        normalizes: Whether results are float32 [3, H, W] rather than uint8 [H, W, 3].

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
        grey: bool = False,
    ):
        self.transforms = list(transforms)
        # Where in the list pictures turn grey: after all that works on their colours.
        later = [i for i, t in enumerate(self.transforms) if stage_of(t) in ("normalize", "normalized")]
        self._grey_at = min(later, default=len(self.transforms)) if channels == 1 and not grey else None
        self.output_hw = output_size(self.transforms)
        for transform in self.transforms:
            stage, name = stage_of(transform), type(transform).__name__
            if stage == "batch":
                raise ValueError(f"{where}: {name} works on whole batches; move it to batch_transforms")
            if stage == "normalized" and not normalized:
                raise ValueError(f"{where}: {name} works on normalised images; put it after Normalize")
            if stage == "normalize" and normalized:
                raise ValueError(
                    f"{where}: images are normalised twice; keep one Normalize, in transforms or in "
                    "batch_transforms (batch_transforms: null leaves out mixing and all that comes after it)"
                )
            if stage == "pixels" and normalized:
                raise ValueError(
                    f"{where}: {name} works on uint8 images; put it before Normalize, after which only "
                    "transforms of normalised images may stand (RandomErasing)"
                )
            if getattr(transform, "colours", False) and (channels not in (1, 3) or grey):
                raise ValueError(
                    f"{where}: {name} works on RGB images, and dataset.channels is {channels}: leave it out"
                    + zh("rgb_only")
                )
            if stage == "normalize":
                transform.fit(channels)  # type: ignore[attr-defined]
            normalized = normalized or stage == "normalize"
        self.normalizes = normalized

    def __call__(
        self, image: LazyImage, rng: np.random.Generator | None, epoch: int = 0, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The image after all transforms, in an epoch counted from 0.

        Args:
            image: The image.
            rng: Source of its draws; None where nothing is drawn.
            epoch: The epoch.
            out: Memory for the result, float32 [C, H, W]; it is returned if the result has that shape.
        """
        for place, transform in enumerate(self.transforms):
            if place == self._grey_at:
                image = _turn_grey(as_array(image))
            if not shortcut(transform, "by_parts"):
                image = as_array(image)
            into = shortcut(transform, "into")
            if into and out is not None and image.shape[:2] == out.shape[1:]:
                into(as_array(image), out)
                image = out
                continue
            in_place = shortcut(transform, "in_place")
            if in_place and image is out:
                in_place(out, rng)
                continue
            more: tuple = (epoch,) if getattr(transform, "by_epoch", False) else ()
            image = (shortcut(transform, "defer") or transform)(image, rng, *more)
        result = as_array(image)
        if out is not None and result is not out and result.shape == out.shape:
            out[...] = result
            return out
        return _turn_grey(result) if self._grey_at == len(self.transforms) else result

    @property
    def batched(self) -> bool:
        """Whether there is an `of_batch`."""
        every = all(shortcut(transform, "of_batch") for transform in self.transforms)
        return every and self._grey_at is None and streams_agree()

    def of_batch(self, images: np.ndarray, streams: Streams, empty: Callable[..., np.ndarray]) -> np.ndarray:
        """Many images of one size after all transforms, each just as by itself.

        Args:
            images: uint8 [B, H, W, C].
            streams: Source of their draws.
            empty: Gives memory for normalised images, as `numpy.empty`.

        Raises:
            DataError: A transform can't do it.
        """
        for transform in self.transforms:
            if isinstance(transform, Normalize):
                out = empty((len(images), len(transform.mean), *images.shape[1:3]), np.float32)
                transform.of_batch(images, out)
                images = out
            else:
                images = transform.of_batch(images, streams)  # type: ignore[attr-defined]
        return images


def shortcut(transform: Any, name: str) -> Any:
    """What a transform has by that name; None, too, where a subclass has its own `__call__`."""
    return getattr(transform, name) if _has_shortcut(type(transform), name) else None  # type: ignore[arg-type]


@functools.cache
def _has_shortcut(kind: type, name: str) -> bool:
    owner = next((base for base in kind.__mro__ if name in vars(base) or "__call__" in vars(base)), object)
    return name in vars(owner)


def output_size(transforms: Sequence[Any]) -> tuple[int, int] | None:
    """Height and width that every result of these transforms has, or None where they depend on the input."""
    sizes = [transform.output_hw for transform in transforms if hasattr(transform, "output_hw")]
    return sizes[-1] if sizes else None


def build_transforms(nodes: Sequence[dict[str, Any]], *, channels: int = 3) -> Compose:
    """Builds the transforms that a `transforms:` list of a config describes.

    Args:
        nodes: Mappings with a `name` and the arguments of that transform.
        channels: Channels of the results; see `Compose`.

    Raises:
        ConfigError: A name or an argument is wrong.
        ValueError: A value is out of range, or the order can't be.
    """
    return Compose([TRANSFORMS.build(node) for node in nodes], channels=channels)


def _turn_grey(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("L"))[:, :, None]
