"""Late augmentation, as timm does it.

Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) of whole batches, RandomErasing (Zhong et al., 2020).

B is the batch, K the classes, λ the share of an image in its mixture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.random import Generator

from passl_sot.config import Natural, zh
from passl_sot.data.errors import DataError
from passl_sot.data.transforms import base
from passl_sot.data.transforms.base import TRANSFORMS, BaseTransform, Images, Out, Stage
from passl_sot.imageio.kernels.jit import available, laid_out
from passl_sot.imageio.lazy_image import LazyImage, as_array

_TRIES = 10  # timm's

Box = tuple[int, int, int, int]


@TRANSFORMS.register()
@dataclass(kw_only=True, eq=False)
class Mixup:
    """Mixes each image of a batch with one other, and their labels with them. Stands in `batch_transforms`.

    Image i is mixed with image B-1-i, by one λ, and in CutMix one box, for the whole batch. In a batch of odd
    size, the last batch of a small list or a batch of one, the middle image is its own partner: it stays
    as it is, with its own (smoothed) label. On uint8 images mixtures are rounded to the nearest integer.

    Targets are λ·y + (1-λ)·y_partner, where y is 1-ε+ε/K for the image's class and ε/K for the others. That
    holds for batches that aren't mixed, too. The loss must not smooth again; `CrossEntropyLoss` doesn't.

    Attributes:
        num_classes: K.
        mixup_alpha: λ of Mixup is drawn from Beta(α, α); 0 turns Mixup off.
        cutmix_alpha: The same of CutMix.
        prob: Share of batches that are mixed.
        switch_prob: Share of CutMix among these, where neither is off.
        label_smoothing: ε, in [0, 1).
        off_epoch: First epoch, counted from 0, in which nothing is mixed any more; labels stay smoothed. null
            mixes to the end.
    """

    stage: ClassVar[Stage] = "batch"
    num_classes: int
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5
    label_smoothing: float = 0.1
    off_epoch: Natural | None = None

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            alpha = getattr(self, name)
            base.require(alpha >= 0 and math.isfinite(alpha), f"Mixup.{name}", alpha, "be 0 or more")
        if self.mixup_alpha == self.cutmix_alpha == 0:
            raise ValueError(
                "Mixup.mixup_alpha and Mixup.cutmix_alpha are both 0, so nothing is mixed: take Mixup out of "
                "batch_transforms; the loss smooths labels by itself"
            )
        for name in ("prob", "switch_prob"):
            prob = getattr(self, name)
            base.require(0 <= prob <= 1, f"Mixup.{name}", prob, "be between 0 and 1")
        smoothing = self.label_smoothing
        base.require(0 <= smoothing < 1, "Mixup.label_smoothing", smoothing, "lie in [0, 1)")
        base.require(self.num_classes >= 1, "Mixup.num_classes", self.num_classes, "be 1 or more")

    def draw(self, height: int, width: int, rng: Generator) -> tuple[float, Box | None]:
        """Draws what is done to one batch.

        Returns:
            λ, 1 where nothing is mixed; and CutMix's box (top, bottom, left, right), for which λ is the share
            of the area outside of it, or None for Mixup.
        """
        if rng.random() >= self.prob:
            return 1.0, None  # labels are smoothed all the same
        cut = self.cutmix_alpha > 0
        if cut and self.mixup_alpha:
            cut = rng.random() < self.switch_prob
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        share = float(rng.beta(alpha, alpha))
        if not cut:
            return share, None
        side = math.sqrt(1 - share)
        top, bottom = _span(height, int(height * side), rng)
        left, right = _span(width, int(width * side), rng)
        # The box is smaller than was drawn where it sticks out of the image.
        return 1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right)

    def targets(self, labels: np.ndarray, share: float) -> np.ndarray:
        """Soft targets of a mixed batch, float32 [B, K]; of single labels rows sum to 1.

        Args:
            labels: int64 [B]; or several per image, float32 [B, K] of 0 and 1, which aren't smoothed.
            share: λ.

        Raises:
            DataError: A label isn't below `num_classes`.
        """
        if labels.ndim == 2:  # several labels, whose loss is of each class by itself
            return share * labels + np.float32(1 - share) * labels[::-1]
        if labels.min() < 0 or labels.max() >= self.num_classes:
            worst = labels[(labels < 0) | (labels >= self.num_classes)][0]
            raise DataError(
                f"an image has label {worst}, but Mixup.num_classes is {self.num_classes}: write "
                "num_classes: ${model.head.num_classes}" + zh("mixup_classes")
            )
        shape = (len(labels), self.num_classes)
        targets = np.full(shape, self.label_smoothing / self.num_classes, np.float32)
        rows = np.arange(len(labels))
        targets[rows, labels] += share * (1 - self.label_smoothing)
        targets[rows, labels[::-1]] += (1 - share) * (1 - self.label_smoothing)
        return targets

    def __call__(
        self, images: Images, labels: np.ndarray, rng: Generator, epoch: int = 0
    ) -> tuple[Images, np.ndarray]:
        """Mixes a batch.

        Args:
            images: uint8 [B, H, W, 3] or a list of B, which isn't changed; or float32 [B, 3, H, W], which is
                mixed in place where that can be.
            labels: As of `targets`.
            rng: Source of the batch's one draw.
            epoch: Counted from 0.

        Returns:
            The images, of bytes as `Mixtures` where they are mixed; and `targets`.
        """
        of_bytes = images[0].dtype == np.uint8
        height, width = images[0].shape[:2] if of_bytes else images[0].shape[1:]
        own = 1.0
        box = None
        if self.off_epoch is None or epoch < self.off_epoch:
            own, box = self.draw(height, width, rng)
        targets = self.targets(labels, own)
        if box is None and own == 1:
            return images, targets
        if of_bytes:
            # Mixed one by one as each is normalized, they stay in the processor's cache.
            return Mixtures(images, own, box), targets
        images = laid_out(np.asarray(images))
        # Pair by pair rather than at once: the two stay in the processor's cache.
        for one, other in zip(images[: len(images) // 2], images[::-1], strict=False):
            if box is None:
                _blend(one, other, own)
                continue
            top, bottom, left, right = box
            cut = (slice(None), slice(top, bottom), slice(left, right))
            one[cut], other[cut] = other[cut], one[cut].copy()
        return images, targets


@dataclass(eq=False)
class Mixtures(Sequence):
    """A mixed batch of uint8 images, [H, W, C] each, of which each is made when it is asked for."""

    images: Images
    share: float  # λ
    box: Box | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: Any) -> Any:
        image = self.images[place]
        other = self.images[-1 - place]
        if self.box is not None:
            top, bottom, left, right = self.box
            mixed = image.copy()
            mixed[top:bottom, left:right] = other[top:bottom, left:right]
            return mixed
        if 2 * place + 1 == len(self):
            return image  # it is its own partner, and rounding would change it
        share = np.float32(self.share)
        rest = np.float32(1 - self.share)
        if available():
            mixed = np.empty(image.shape, np.uint8)
            flat = [laid_out(picture).reshape(-1) for picture in (image, other)]
            base.loops().blend_bytes(*flat, share, rest, mixed.reshape(-1))
            return mixed
        mixture = image.astype(np.float32) * share + other.astype(np.float32) * rest
        return np.rint(mixture, out=mixture).astype(np.uint8)


def _span(length: int, side: int, rng: Generator) -> tuple[int, int]:
    """Begin and end of a box's side: its center is uniform, what sticks out is cut off."""
    center = int(rng.integers(length))
    # Halved first, as in CutMix's own code, so sides are even.
    return max(center - side // 2, 0), min(center + side // 2, length)


def _blend(a: np.ndarray, b: np.ndarray, share: float) -> None:
    own = np.float32(share)
    rest = np.float32(1 - share)
    if available():
        base.loops().blend_floats(a.reshape(-1), b.reshape(-1), own, rest)
    else:
        a[...], b[...] = a * own + b * rest, b * own + a * rest


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
        base.require(0 <= self.prob <= 1, "RandomErasing.prob", self.prob, "be between 0 and 1")
        base.require(0 < self.ratio <= 1, "RandomErasing.ratio", self.ratio, "be above 0 and at most 1")
        base.require(self.count >= 1, "RandomErasing.count", self.count, "be 1 or more")
        self.scale = base.bounds("RandomErasing.scale", self.scale, highest=1.0)

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
