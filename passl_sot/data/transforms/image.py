"""Transforms of single images: crops, resizing, mirroring, color, and normalizing to the model's floats.

Semantics are those of torchvision and timm on Pillow images, with which published accuracies were measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.random import Generator

from passl_sot.config import zh
from passl_sot.data.errors import DataError
from passl_sot.data.rng import Streams
from passl_sot.data.transforms import base
from passl_sot.data.transforms.base import TRANSFORMS, BaseTransform, Empty, Out, Stage
from passl_sot.data.transforms.policies import Op, apply_ops
from passl_sot.imageio.decode import Interpolation, resize
from passl_sot.imageio.kernels.jit import available, laid_out
from passl_sot.imageio.lazy_image import LazyImage, as_array, edges


@TRANSFORMS.register()
@dataclass(kw_only=True, eq=False)
class RandomResizedCrop(BaseTransform):
    """Cuts out a random region and resizes it (Szegedy et al., 2015), as torchvision and timm do.

    Area and aspect ratio are drawn up to 10 times, the ratio log-uniformly; when none fits into the image,
    the largest central region within the bounds of `ratio` is taken.

    Attributes:
        size: Side of the square result, or [height, width].
        scale: Bounds of the region's share of the image's area.
        ratio: Bounds of the region's width divided by its height.
        interpolation: Filter; "random" draws bilinear or bicubic for each image.
    """

    size: int | list[int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic"

    def __post_init__(self) -> None:
        self.output_hw = base.height_width("RandomResizedCrop.size", self.size)
        self.scale = base.bounds("RandomResizedCrop.scale", self.scale, highest=1.0)
        self.ratio = base.bounds("RandomResizedCrop.ratio", self.ratio)

    def region(self, height: int, width: int, rng: Generator) -> tuple[int, int, int, int]:
        """Draws (top, left, height, width) of the region to cut out of an image of that size."""
        least, most = self.scale
        low = math.log(self.ratio[0])
        span = math.log(self.ratio[1]) - low
        for _ in range(10):  # torchvision's
            # As `rng.uniform` does, which takes four times as long.
            area = height * width * (least + (most - least) * rng.random())
            aspect = math.exp(low + span * rng.random())
            w = round(math.sqrt(area * aspect))
            h = round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        # None fitted: the whole image, but for sides too long for `ratio`.
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        return (height - h) // 2, (width - w) // 2, h, w

    def apply(self, image: LazyImage, rng: Generator, epoch: int = 0, out: Out = None) -> LazyImage:
        """A random region, uint8 [*output_hw, 3], which is resized when it is asked for."""
        top, left, h, w = self.region(image.shape[0], image.shape[1], rng)
        interpolation: Any = self.interpolation
        if interpolation == "random":
            interpolation = ("bilinear", "bicubic")[rng.integers(2)]
        # Sliced first rather than by `box`: pixels outside of the region take no part, as in torchvision.
        return _Resized(image[top : top + h, left : left + w], self.output_hw, interpolation)


@TRANSFORMS.register()
@dataclass(kw_only=True, eq=False)
class RandomCrop:
    """Cuts out a random place, after black borders were added on all sides, as torchvision does.

    Attributes:
        size: Side of the square result, or [height, width].
        padding: Width of the borders in pixels.
    """

    size: int | list[int]
    padding: int = 0

    def __post_init__(self) -> None:
        self.output_hw = base.height_width("RandomCrop.size", self.size)
        base.require(self.padding >= 0, "RandomCrop.padding", self.padding, "be 0 or more")

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        """A random place: uint8 [*output_hw, 3]; a smaller image is a DataError."""
        height, width = self.output_hw
        tops, lefts = self._places(image.shape)
        if self.padding:
            image = np.pad(image, ((self.padding,) * 2, (self.padding,) * 2, (0, 0)))
        # By `random` alone, as `Streams` has no `integers`, which would reject some draws.
        top = int(rng.random() * tops)
        left = int(rng.random() * lefts)
        return image[top : top + height, left : left + width]

    def of_batch(self, images: np.ndarray, streams: Streams, empty: Empty) -> np.ndarray:
        """The same for each of uint8 [B, H, W, C]."""
        count, height, width, channels = images.shape
        tops, lefts = self._places((height, width))
        out = np.zeros((count, *self.output_hw, channels), np.uint8)
        top = (streams.random() * tops).astype(np.int64) - self.padding
        left = (streams.random() * lefts).astype(np.int64) - self.padding
        rows = images.reshape(count, height, -1)
        base.loops().crop_each(rows, top, left * channels, out.reshape(count, len(out[0]), -1))
        return out

    def _places(self, shape: Sequence[int]) -> tuple[int, int]:
        """How many rows, and columns, a crop of an image of some shape can begin at."""
        height, width = self.output_hw
        padded = [side + 2 * self.padding for side in shape[:2]]
        if padded[0] < height or padded[1] < width:
            raise DataError(
                f"RandomCrop.size is {height}x{width} and an image {padded[0]}x{padded[1]}, "
                f"{self.padding} pixels of padding on each side included: put Resize before it"
                + zh("image_too_small")
            )
        return padded[0] - height + 1, padded[1] - width + 1


@TRANSFORMS.register()
@dataclass(kw_only=True, eq=False)
class RandomHorizontalFlip(BaseTransform):
    """Mirrors left and right.

    Attributes:
        prob: Share of images that are mirrored.
    """

    prob: float = 0.5

    def __post_init__(self) -> None:
        base.require(0 <= self.prob <= 1, "RandomHorizontalFlip.prob", self.prob, "be between 0 and 1")

    def apply(self, image: LazyImage, rng: Generator, epoch: int = 0, out: Out = None) -> LazyImage:
        """The image or its mirror image, of the same shape."""
        if rng.random() >= self.prob:
            return image
        if isinstance(image, _Resized):
            return image.mirrored()  # at no cost, as it is resized
        return _mirror(as_array(image))

    def of_batch(self, images: np.ndarray, streams: Streams, empty: Empty) -> np.ndarray:
        """The same for each of uint8 [B, H, W, C]."""
        out = np.empty(images.shape, np.uint8)
        base.loops().mirror_each(images, streams.random() < self.prob, out)
        return out


def _mirror(image: np.ndarray) -> np.ndarray:
    mirrored = np.empty(image.shape, np.uint8)
    if available() and image.shape[2] == 3:
        rows = laid_out(image).reshape(len(image), -1)
        base.loops().mirror(rows, mirrored.reshape(rows.shape))
        return mirrored
    # NumPy copies a channel at a time several times as fast as pixels.
    for channel in range(image.shape[2]):
        mirrored[:, :, channel] = image[:, ::-1, channel]
    return mirrored


@TRANSFORMS.register()
@dataclass(kw_only=True, eq=False)
class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random amounts in random order.

    Factors are uniform in [max(0, 1 - j), 1 + j] and applied as `PIL.ImageEnhance` does.

    Attributes:
        brightness: Largest change j of the brightness factor; 0 leaves it alone.
        contrast: The same of contrast.
        saturation: The same of color saturation.
        hue: Largest turn of the hue to either side as a share of the color circle, at most 0.5.
    """

    stage: ClassVar[Stage] = "rgb"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        self.factors = []
        for kind, name in (("Brightness", "brightness"), ("Contrast", "contrast"), ("Color", "saturation")):
            value = getattr(self, name)
            base.require(value >= 0 and math.isfinite(value), f"ColorJitter.{name}", value, "be 0 or more")
            self.factors.append((kind, max(0.0, 1 - value), 1 + value))
        base.require(0 <= self.hue <= 0.5, "ColorJitter.hue", self.hue, "be between 0 and 0.5")
        self.factors.append(("Hue", -self.hue, self.hue))

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        """The image with other colors, of the same shape."""
        ops = []
        for place in rng.permutation(4):
            kind, low, high = self.factors[place]
            if low < high:  # else it draws nothing
                ops.append(Op(kind, rng.uniform(low, high)))
        return apply_ops(image, ops)


@TRANSFORMS.register()
class Resize(BaseTransform):
    """Resizes with antialiasing.

    Args:
        size: Length of the shorter side, the longer one following in proportion (rounded down, as torchvision
            does); or [height, width] exactly.
        crop_pct: Share of the resized side that the center crop after it keeps: the side becomes
            floor(size / crop_pct), so 224 at 0.875 resizes to 256. One `size` then serves both.
        interpolation: Filter.
    """

    def __init__(
        self, *, size: int | list[int], crop_pct: float = 1.0, interpolation: Interpolation = "bicubic"
    ):
        base.require(0 < crop_pct <= 1, "Resize.crop_pct", crop_pct, "be above 0 and at most 1")
        height, width = (math.floor(side / crop_pct) for side in base.height_width("Resize.size", size))
        self.output_hw = None if isinstance(size, int) else (height, width)
        self.short_side = height
        self.interpolation: Interpolation = interpolation

    def apply(self, image: LazyImage, rng: Generator, epoch: int = 0, out: Out = None) -> LazyImage:
        """The resized image, computed when it is asked for, and as far."""
        h, w = image.shape[:2]
        target = self.output_hw
        if target is None:
            short = self.short_side
            target = (max(short, int(short * h / w)), max(short, int(short * w / h)))  # rounded down
        if target == (h, w):
            return image
        return _Resized(image, target, self.interpolation)


class _Resized:
    """A `LazyImage` that is resized, and mirrored if so said, where it is asked for."""

    def __init__(
        self, image: LazyImage, size_hw: tuple[int, int], interpolation: Interpolation, mirror: bool = False
    ):
        self._image = image
        self._interpolation: Interpolation = interpolation
        self._mirror = mirror
        self.shape = (*size_hw, image.shape[2])

    def mirrored(self) -> "_Resized":
        return _Resized(self._image, self.shape[:2], self._interpolation, not self._mirror)

    def __getitem__(self, rectangle: tuple[slice, slice]) -> np.ndarray:
        top, bottom, left, right = edges(rectangle, self.shape)
        width = right - left
        if self._mirror:
            left = self.shape[1] - right
        return resize(
            self._image,
            self.shape[:2],
            interpolation=self._interpolation,
            window=(top, left, bottom - top, width),
            mirrored=self._mirror,
        )


@TRANSFORMS.register()
class CenterCrop(BaseTransform):
    """Cuts out the center; an image smaller than that gets black borders, as in torchvision.

    Args:
        size: Side of the square result, or [height, width].
    """

    def __init__(self, *, size: int | list[int]):
        self.output_hw = base.height_width("CenterCrop.size", size)

    def apply(self, image: LazyImage, rng: Generator, epoch: int = 0, out: Out = None) -> np.ndarray:
        """The center: uint8 [*output_hw, 3]."""
        height, width = self.output_hw
        missing_h = max(0, height - image.shape[0])
        missing_w = max(0, width - image.shape[1])
        if missing_h or missing_w:  # the odd pixel right and below
            borders = ((missing_h // 2, (missing_h + 1) // 2), (missing_w // 2, (missing_w + 1) // 2), (0, 0))
            image = np.pad(as_array(image), borders)
        # Python's round, to even at .5, as torchvision's.
        top = round((image.shape[0] - height) / 2)
        left = round((image.shape[1] - width) / 2)
        return image[top : top + height, left : left + width]


@TRANSFORMS.register()
@dataclass(kw_only=True, eq=False)
class Normalize(BaseTransform):
    """Gives float32 [C, H, W] of (x / 255 - mean) / std.

    Attributes:
        mean: Per channel, of values in 0 to 1; one value serves all channels, and the average of three serves
            gray images. Defaults to ImageNet's.
        std: Per channel, above 0; likewise.
    """

    stage: ClassVar[Stage] = "normalize"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            counts = f"Normalize.mean has {len(self.mean)} values and Normalize.std {len(self.std)}"
            raise ValueError(f"{counts}; both need one a channel")
        # Beyond these nothing of an image is left, or everything becomes infinite.
        if not all(1e-6 <= s <= 1e6 for s in self.std):
            raise ValueError(f"Normalize.std is {list(self.std)}; all must be above 0, in [1e-6, 1e6]")
        if not all(math.isfinite(m) and abs(m) <= 1 for m in self.mean):
            raise ValueError(f"Normalize.mean is {list(self.mean)}; it is of values in 0 to 1, not 0 to 255")
        self._set(self.mean, self.std)

    def _set(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = tuple(mean)
        self.std = tuple(std)
        # As one product and one sum of a byte.
        self.scale = np.array([1 / (255 * s) for s in std], np.float32)
        self.bias = np.array([-m / s for m, s in zip(mean, std, strict=True)], np.float32)

    def fit(self, channels: int) -> None:
        """Brings mean and std to a number of channels, from one or, for gray, three; else a ValueError."""
        given = len(self.mean)
        if given == 1:
            self._set(self.mean * channels, self.std * channels)
        elif channels == 1 and given == 3:
            self._set([sum(self.mean) / 3], [sum(self.std) / 3])
        elif given != channels:
            raise ValueError(
                f"Normalize.mean has {given} values and dataset.channels is {channels}: write {channels} "
                "values, or one for all" + zh("normalize_channels")
            )

    def undo(self, image: np.ndarray) -> np.ndarray:
        """The bytes, uint8 [H, W, C], that float32 [C, H, W] was made of; values out of range are cut off."""
        pixels = (image.transpose(1, 2, 0) - self.bias) / self.scale
        return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)

    def apply(self, image: LazyImage, rng: Generator, epoch: int = 0, out: Out = None) -> np.ndarray:
        """float32 [C, H, W], in `out` if that has this shape."""
        shape = (len(self.mean), *image.shape[:2])
        if out is None or out.shape != shape:
            out = np.empty(shape, np.float32)
        pixels = as_array(image)
        if available():
            flat = laid_out(pixels).reshape(-1)
            base.loops().normalize(flat, self.scale, self.bias, out.reshape(shape[0], -1))
            return out
        for channel in range(shape[0]):
            np.multiply(pixels[:, :, channel], self.scale[channel], out=out[channel], dtype=np.float32)
            out[channel] += self.bias[channel]
        return out

    def of_batch(self, images: np.ndarray, streams: Streams, empty: Empty) -> np.ndarray:
        """The same for each of uint8 [B, H, W, C]: float32 [B, C, H, W]."""
        count, height, width, channels = images.shape
        out = empty((count, channels, height, width), np.float32)
        flat = out.reshape(count, channels, -1)
        base.loops().normalize_each(images.reshape(count, -1), self.scale, self.bias, flat)
        return out
