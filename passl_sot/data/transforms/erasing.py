"""RandomErasing (Zhong et al., 2020) on normalised images, as timm does it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from passl_sot.data.transforms.base import TRANSFORMS, BaseTransform, Out, Stage, bounds, require
from passl_sot.imageio.lazy_image import LazyImage, as_array

_TRIES = 10  # timm's


@TRANSFORMS.register()
@dataclass(kw_only=True, eq=False)
class RandomErasing(BaseTransform):
    """Replaces random rectangles by noise; works on what `Normalize` gives.

    Area and aspect (height divided by width, log-uniform) are drawn up to 10 times, until the rectangle is
    lower and narrower than the image; otherwise nothing is erased.

    Attributes:
        prob: Share of images in which something is erased.
        scale: Bounds of the erased share of the image's area, all rectangles together.
        ratio: Least aspect of a rectangle; the greatest is 1 / ratio.
        mode: "pixel" fills with N(0, 1) noise, drawn for each pixel and channel.
        count: Rectangles per image; they may overlap.
    """

    stage: ClassVar[Stage] = "normalized"
    prob: float = 0.25
    scale: tuple[float, float] = (0.02, 1 / 3)
    ratio: float = 0.3
    mode: Literal["pixel"] = "pixel"
    count: int = 1

    def __post_init__(self) -> None:
        require(0 <= self.prob <= 1, "RandomErasing.prob", self.prob, "be between 0 and 1")
        require(0 < self.ratio <= 1, "RandomErasing.ratio", self.ratio, "be above 0 and at most 1")
        require(self.count >= 1, "RandomErasing.count", self.count, "be 1 or more")
        self.scale = bounds("RandomErasing.scale", self.scale, highest=1.0)

    def region(self, height: int, width: int, rng: Generator) -> tuple[int, int, int, int] | None:
        """Draws (top, left, height, width) of one rectangle in an image of that size; None if none fits."""
        limit = math.log(1 / self.ratio)
        for _ in range(_TRIES):
            area = height * width * rng.uniform(*self.scale) / self.count
            aspect = math.exp(rng.uniform(-limit, limit))  # log-uniform, so that tall is as likely as wide
            h = round(math.sqrt(area * aspect))
            w = round(math.sqrt(area / aspect))
            if h < height and w < width:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        return None

    def apply(self, image: LazyImage, rng: Generator, epoch: int = 0, out: Out = None) -> LazyImage:
        """float32 [C, H, W] with rectangles erased; other images than `out` aren't changed themselves."""
        if rng.random() >= self.prob:
            return image
        pixels = as_array(image)
        # In the memory of the pipeline's result no copy is needed.
        result = pixels if pixels is out else pixels.copy()
        for _ in range(self.count):
            region = self.region(result.shape[1], result.shape[2], rng)
            if region is not None:
                top, left, h, w = region
                noise = rng.standard_normal((len(result), h, w), np.float32)
                result[:, top : top + h, left : left + w] = noise
        return result
