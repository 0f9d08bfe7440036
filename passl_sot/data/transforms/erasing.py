"""RandomErasing (Zhong et al., 2020) on normalised images, as timm does it."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from passl_sot.data.transforms.image import TRANSFORMS, Stage, bounds

_TRIES = 10


@TRANSFORMS.register()
class RandomErasing:
    """Replaces random rectangles by noise; works on what `Normalize` gives.

    Area and aspect (height divided by width, log-uniform) are drawn up to 10 times, until the rectangle is
    lower and narrower than the image; otherwise nothing is erased.

    Args:
        prob: Share of images in which something is erased.
        scale: Bounds of the erased share of the image's area, all rectangles together.
        ratio: Least aspect of a rectangle; the greatest is 1 / ratio.
        mode: "pixel" fills with N(0, 1) noise, drawn for each pixel and channel.
        count: Rectangles per image; they may overlap.
    """

    stage: Stage = "normalized"

    def __init__(
        self,
        *,
        prob: float = 0.25,
        scale: tuple[float, float] = (0.02, 1 / 3),
        ratio: float = 0.3,
        mode: Literal["pixel"] = "pixel",
        count: int = 1,
    ):
        if not 0 <= prob <= 1:
            raise ValueError(f"RandomErasing.prob is {prob}; it must be between 0 and 1")
        if not 0 < ratio <= 1:
            raise ValueError(f"RandomErasing.ratio is {ratio}; it must be above 0 and at most 1")
        if count < 1:
            raise ValueError(f"RandomErasing.count is {count}; it must be 1 or more")
        self.prob = prob
        self.scale = bounds("RandomErasing.scale", scale, highest=1.0)
        self.ratio = ratio
        self.mode = mode
        self.count = count

    def region(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
        """Draws (top, left, height, width) of one rectangle in an image of that size; None if none fits."""
        limit = math.log(1 / self.ratio)
        for _ in range(_TRIES):
            area = height * width * rng.uniform(*self.scale) / self.count
            aspect = math.exp(rng.uniform(-limit, limit))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        return None

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float32 [3, H, W] with rectangles erased; the image itself isn't changed."""
        if rng.random() >= self.prob:
            return image
        image = image.copy()
        self._erase(image, rng)
        return image

    def in_place(self, image: np.ndarray, rng: np.random.Generator) -> None:
        """The same, with the same draws, in the image itself."""
        if rng.random() < self.prob:
            self._erase(image, rng)

    def _erase(self, image: np.ndarray, rng: np.random.Generator) -> None:
        for _ in range(self.count):
            region = self.region(image.shape[1], image.shape[2], rng)
            if region is not None:
                top, left, h, w = region
                noise = rng.standard_normal((len(image), h, w), np.float32)
                image[:, top : top + h, left : left + w] = noise
