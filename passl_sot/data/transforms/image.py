"""What is done to an image between the file and the model.

A transform is called as `t(image, rng)`: `image` is uint8 [H, W, 3] RGB, `rng` a `numpy.random.Generator`
that depends on (seed, epoch, index) alone, so results don't depend on the number of worker processes. All
give uint8 [H, W, 3] again, but `Normalize` gives float32 [3, H, W]; what follows it works on that.

One whose class says `by_epoch = True` is called with the epoch as well; `colours = True` stands for one that
takes RGB alone. One with `by_parts = True` takes any `LazyImage` and asks for no more of it than it needs, so
that the first can leave parts of a file undecoded; its method `defer`, if it has one, leaves its own work to
be done as far as the next one asks. A method `of_batch(images, streams)` does the same to arrays of many
images, with the same draws, by `draws.Streams`; it is what is called where all of a list have one. More
transforms are in `auto_augment`, `by_epoch`, `erasing`, `rand_augment` and, of whole batches, `mixup`.

Semantics are those of torchvision and timm on Pillow images, with which published accuracies were measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from passl_sot.config.chinese import zh
from passl_sot.config.registry import Registry
from passl_sot.data.errors import DataError
from passl_sot.data.rng import Streams
from passl_sot.data.transforms.operations import Job, carry_out
from passl_sot.imageio.decode import Interpolation, resize
from passl_sot.imageio.kernels.jit import available, laid_out
from passl_sot.imageio.lazy_image import LazyImage, as_array, edges

TRANSFORMS: Registry = Registry("transform", "passl_sot.data.transforms.image")

Transform = Callable[..., np.ndarray]
# What a transform works on: images of uint8, as most do and need not say; the same to make them floats; these
# floats; a batch of either kind.
Stage = Literal["pixels", "normalize", "normalized", "batch"]


def stage_of(transform: Any) -> Stage:
    """What a transform works on."""
    return getattr(transform, "stage", "pixels")


@TRANSFORMS.register()
class RandomResizedCrop:
    """Cuts out a random region and resizes it (Szegedy et al., 2015), as torchvision and timm do.

    Area and aspect ratio are drawn up to 10 times, the ratio log-uniformly; when none fits into the image,
    the largest central region within the bounds of `ratio` is taken.

    Args:
        size: Side of the square result, or [height, width].
        scale: Bounds of the region's share of the image's area.
        ratio: Bounds of the region's width divided by its height.
        interpolation: Filter; "random" draws bilinear or bicubic for each image.
    """

    by_parts = True

    def __init__(
        self,
        *,
        size: int | list[int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic",
    ):
        self.output_hw = _height_width("RandomResizedCrop.size", size)
        self.scale = bounds("RandomResizedCrop.scale", scale, highest=1.0)
        self.ratio = bounds("RandomResizedCrop.ratio", ratio)
        self.interpolation = interpolation

    def region(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws (top, left, height, width) of the region to cut out of an image of the given size."""
        least, low = self.scale[0], math.log(self.ratio[0])
        room, span = self.scale[1] - least, math.log(self.ratio[1]) - low
        for _ in range(10):
            # As `rng.uniform` does, which takes four times as long.
            area = height * width * (least + room * rng.random())
            aspect = math.exp(low + span * rng.random())
            w = round(math.sqrt(area * aspect))
            h = round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        w, h = width, height
        if width / height < self.ratio[0]:
            h = max(1, min(height, round(width / self.ratio[0])))
        elif width / height > self.ratio[1]:
            w = max(1, min(width, round(height * self.ratio[1])))
        return (height - h) // 2, (width - w) // 2, h, w

    def __call__(self, image: LazyImage, rng: np.random.Generator) -> np.ndarray:
        """A random region, resized: uint8 [*output_hw, 3]."""
        return as_array(self.defer(image, rng))

    def defer(self, image: LazyImage, rng: np.random.Generator) -> LazyImage:
        """The same, resized when it is asked for."""
        top, left, h, w = self.region(image.shape[0], image.shape[1], rng)
        interpolation: Any = self.interpolation
        if interpolation == "random":
            interpolation = ("bilinear", "bicubic")[int(rng.integers(2))]
        # Sliced first rather than by `box`: pixels outside of the region take no part, as in torchvision.
        return _Resized(image[top : top + h, left : left + w], self.output_hw, interpolation)


@TRANSFORMS.register()
class RandomCrop:
    """Cuts out a random place, after black borders were added on all sides, as torchvision does.

    Args:
        size: Side of the square result, or [height, width].
        padding: Width of the borders in pixels.
    """

    def __init__(self, *, size: int | list[int], padding: int = 0):
        self.output_hw = _height_width("RandomCrop.size", size)
        if padding < 0:
            raise ValueError(f"RandomCrop.padding is {padding}; it must be 0 or more")
        self.padding = padding

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random place: uint8 [*output_hw, 3].

        Raises:
            DataError: The image is smaller than that.
        """
        height, width = self.output_hw
        tops, lefts = self._places(image.shape)
        if self.padding:
            image = np.pad(image, ((self.padding,) * 2, (self.padding,) * 2, (0, 0)))
        top, left = int(rng.integers(tops)), int(rng.integers(lefts))
        return image[top : top + height, left : left + width]

    def of_batch(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """The same for each of uint8 [B, H, W, C]."""
        from passl_sot.imageio.kernels import layout as planes

        count, height, width, channels = images.shape
        tops, lefts = self._places((height, width))
        out = np.empty((count, *self.output_hw, channels), np.uint8)
        top, left = streams.integers(tops) - self.padding, streams.integers(lefts) - self.padding
        rows = images.reshape(count, height, -1)
        planes.crop_each(rows, top, left * channels, out.reshape(count, len(out[0]), -1))
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
class RandomHorizontalFlip:
    """Mirrors left and right.

    Args:
        prob: Share of images that are mirrored.
    """

    by_parts = True

    def __init__(self, *, prob: float = 0.5):
        if not 0 <= prob <= 1:
            raise ValueError(f"RandomHorizontalFlip.prob is {prob}; it must be between 0 and 1")
        self.prob = prob

    def __call__(self, image: LazyImage, rng: np.random.Generator) -> np.ndarray:
        """The image or its mirror image, of the same shape."""
        return as_array(self.defer(image, rng))

    def defer(self, image: LazyImage, rng: np.random.Generator) -> LazyImage:
        """The same; what is yet to be resized comes out mirrored at no cost."""
        if rng.random() >= self.prob:
            return image
        return image.mirrored() if isinstance(image, _Resized) else _mirror(as_array(image))

    def of_batch(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """The same for each of uint8 [B, H, W, C]."""
        from passl_sot.imageio.kernels import layout as planes

        out = np.empty(images.shape, np.uint8)
        planes.mirror_each(images, streams.random() < self.prob, out)
        return out


def _mirror(image: np.ndarray) -> np.ndarray:
    mirrored = np.empty(image.shape, np.uint8)
    if available() and image.shape[2] == 3:
        from passl_sot.imageio.kernels import layout as planes

        rows = laid_out(image).reshape(len(image), -1)
        planes.mirror(rows, mirrored.reshape(rows.shape))
        return mirrored
    # NumPy copies a channel at a time several times as fast as pixels.
    for channel in range(image.shape[2]):
        mirrored[:, :, channel] = image[:, ::-1, channel]
    return mirrored


@TRANSFORMS.register()
class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random amounts in random order.

    Factors are uniform in [max(0, 1 - j), 1 + j] and applied as `PIL.ImageEnhance` does.

    Args:
        brightness: Largest change j of the brightness factor; 0 leaves it alone.
        contrast: The same of contrast.
        saturation: The same of colour saturation.
        hue: Largest turn of the hue to either side as a share of the colour circle, at most 0.5.
    """

    colours = True

    def __init__(
        self, *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ):
        for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"ColorJitter.{name} is {value}; it must be 0 or more")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"ColorJitter.hue is {hue}; it must be between 0 and 0.5")
        self.strengths = (brightness, contrast, saturation)
        self.hue = hue

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The image with other colours, of the same shape."""
        jobs = []
        for which in rng.permutation(4):
            if which < 3 and self.strengths[which] > 0:
                strength = self.strengths[which]
                factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
                jobs.append(Job(("Brightness", "Contrast", "Color")[which], factor))
            elif which == 3 and self.hue > 0:
                jobs.append(Job("Hue", rng.uniform(-self.hue, self.hue)))
        return carry_out(image, jobs)


@TRANSFORMS.register()
class Resize:
    """Resizes with antialiasing.

    Args:
        size: Length of the shorter side, the longer one following in proportion (rounded down, as torchvision
            does); or [height, width] exactly.
        crop_pct: Share of the resized side that the centre crop after it keeps: the side becomes
            floor(size / crop_pct), so 224 at 0.875 resizes to 256. One `size` then serves both.
        interpolation: Filter.
    """

    by_parts = True

    def __init__(
        self, *, size: int | list[int], crop_pct: float = 1.0, interpolation: Interpolation = "bicubic"
    ):
        if not 0 < crop_pct <= 1:
            raise ValueError(f"Resize.crop_pct is {crop_pct}; it must be above 0 and at most 1")
        height, width = (math.floor(side / crop_pct) for side in _height_width("Resize.size", size))
        self.output_hw = None if isinstance(size, int) else (height, width)
        self.short_side = height
        self.interpolation: Interpolation = interpolation

    def __call__(self, image: LazyImage, rng: np.random.Generator) -> np.ndarray:
        """The resized image."""
        return as_array(self.defer(image, rng))

    def defer(self, image: LazyImage, rng: np.random.Generator) -> LazyImage:
        """The resized image, computed when it is asked for, and as far."""
        h, w = image.shape[:2]
        if self.output_hw is not None:
            target = self.output_hw
        elif w <= h:
            target = (int(self.short_side * h / w), self.short_side)
        else:
            target = (self.short_side, int(self.short_side * w / h))
        return image if target == (h, w) else _Resized(image, target, self.interpolation)


class _Resized:
    """An image that is to be resized, and mirrored if so said, as `LazyImage`."""

    def __init__(
        self, image: LazyImage, size_hw: tuple[int, int], interpolation: Interpolation, mirrored: bool = False
    ):
        self._image, self._interpolation, self._mirrored = image, interpolation, mirrored
        self.shape = (*size_hw, image.shape[2])

    def mirrored(self) -> _Resized:
        """The same from right to left."""
        return _Resized(self._image, self.shape[:2], self._interpolation, not self._mirrored)

    def __getitem__(self, rectangle: tuple[slice, slice]) -> np.ndarray:
        top, bottom, left, right = edges(rectangle, self.shape)
        if self._mirrored:
            left, right = self.shape[1] - right, self.shape[1] - left
        return resize(
            self._image,
            self.shape[:2],
            interpolation=self._interpolation,
            window=(top, left, bottom - top, right - left),
            mirrored=self._mirrored,
        )


@TRANSFORMS.register()
class CenterCrop:
    """Cuts out the centre; an image smaller than that gets black borders, as in torchvision.

    Args:
        size: Side of the square result, or [height, width].
    """

    by_parts = True

    def __init__(self, *, size: int | list[int]):
        self.output_hw = _height_width("CenterCrop.size", size)

    def __call__(self, image: LazyImage, rng: np.random.Generator) -> np.ndarray:
        """The centre: uint8 [*output_hw, 3]."""
        height, width = self.output_hw
        missing_h = max(0, height - image.shape[0])
        missing_w = max(0, width - image.shape[1])
        if missing_h or missing_w:
            borders = ((missing_h // 2, (missing_h + 1) // 2), (missing_w // 2, (missing_w + 1) // 2), (0, 0))
            image = np.pad(as_array(image), borders)
        # Python's round, to even at .5, as torchvision's.
        top = round((image.shape[0] - height) / 2)
        left = round((image.shape[1] - width) / 2)
        return image[top : top + height, left : left + width]


@TRANSFORMS.register()
class Normalize:
    """Gives float32 [C, H, W] of (x / 255 - mean) / std.

    Args:
        mean: Per channel, of values in 0 to 1; one value serves all channels, and the average of three serves
            grey images. Defaults to ImageNet's.
        std: Per channel, above 0; likewise.
    """

    stage: Stage = "normalize"

    def __init__(
        self,
        *,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
    ):
        if not mean or len(mean) != len(std):
            raise ValueError(
                f"Normalize.mean has {len(mean)} values and Normalize.std {len(std)}; both need one a channel"
            )
        if not all(math.isfinite(s) and s > 0 for s in std):
            raise ValueError(f"Normalize.std is {list(std)}; all must be above 0")
        if not all(math.isfinite(m) and abs(m) <= 1 for m in mean):
            raise ValueError(f"Normalize.mean is {list(mean)}; it is of values in 0 to 1, not 0 to 255")
        self._set(mean, std)

    def _set(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        self.scale = np.array([1 / (255 * s) for s in std], np.float32)
        self.bias = np.array([-m / s for m, s in zip(mean, std, strict=True)], np.float32)

    def fit(self, channels: int) -> None:
        """Brings mean and std to a number of channels.

        Raises:
            ValueError: They are for another number, and not one value or, for grey images, three.
        """
        given = len(self.mean)
        if channels == given:
            return
        if channels == 1 and given == 3:
            self._set([sum(self.mean) / 3], [sum(self.std) / 3])
        elif given == 1:
            self._set(self.mean * channels, self.std * channels)
        else:
            raise ValueError(
                f"Normalize.mean has {given} values and dataset.channels is {channels}: write {channels} "
                "values, or one for all" + zh("normalize_channels")
            )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float32 [C, H, W]."""
        out = np.empty((len(self.mean), *image.shape[:2]), np.float32)
        self.into(image, out)
        return out

    def into(self, image: np.ndarray, out: np.ndarray) -> None:
        """Writes the result of an image into an array, float32 [C, H, W], contiguous."""
        if available():
            from passl_sot.imageio.kernels import layout as planes

            flat = laid_out(image).reshape(-1)
            planes.normalize(flat, self.scale, self.bias, out.reshape(len(out), -1))
            return
        for channel in range(len(self.mean)):
            np.multiply(image[:, :, channel], self.scale[channel], out=out[channel], dtype=np.float32)
            out[channel] += self.bias[channel]

    def of_batch(self, images: np.ndarray, out: np.ndarray) -> None:
        """The same of many: uint8 [B, H, W, C] into float32 [B, C, H, W]."""
        from passl_sot.imageio.kernels import layout as planes

        count, channels = out.shape[:2]
        planes.normalize_each(
            images.reshape(count, -1), self.scale, self.bias, out.reshape(count, channels, -1)
        )


def _height_width(what: str, size: int | Sequence[int]) -> tuple[int, int]:
    pair = [size, size] if isinstance(size, int) else list(size)
    if len(pair) != 2:
        raise ValueError(f"{what} is {list(pair)}; it must be one number or [height, width]")
    if min(pair) < 1:
        raise ValueError(f"{what} is {size}; it must be 1 or more")
    return pair[0], pair[1]


def bounds(what: str, pair: Sequence[float], highest: float = math.inf) -> tuple[float, float]:
    """The two values, lowest and highest, after checking that they are in order and above 0."""
    if len(pair) != 2:
        raise ValueError(f"{what} is {list(pair)}; it needs two values, lowest and highest")
    low, high = pair
    if not 0 < low <= high <= highest or math.isinf(high):
        limit = "" if math.isinf(highest) else f" <= {highest:g}"
        raise ValueError(f"{what} is [{low}, {high}]; it must hold 0 < lowest <= highest{limit}")
    return float(low), float(high)
