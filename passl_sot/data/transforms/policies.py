"""Policies of augmentation, and their operations on pixels by Pillow and by compiled loops alike.

RandAugment (Cubuk et al., 2020) with the operations and magnitudes of timm's "increasing" set, AutoAugment
(Cubuk et al., 2019) with its policy for ImageNet, and 3-Augment (Touvron et al., 2022).

| kind | strength |
|---|---|
| AutoContrast, Equalize, Invert | none |
| Rotate | degrees, counter-clockwise |
| Posterize | bits that are kept; 0 are black |
| Solarize | least value that is inverted |
| SolarizeAdd | added to values below 128, up to 255 |
| Brightness, Color, Contrast, Sharpness | factor of `PIL.ImageEnhance` |
| ShearX, ShearY | rows' or columns' shift per pixel |
| TranslateX, TranslateY | fraction of width or height |
| Grey | none |
| Hue | turn, as a fraction of the color circle |
| Blur | radius of `PIL.ImageFilter.GaussianBlur`, in pixels |

Where numba is installed the loops of `kernels` carry them out, else Pillow does.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from passl_sot.data.transforms.base import TRANSFORMS, Stage, require
from passl_sot.imageio.kernels.jit import available, laid_out

Filter = Literal["bilinear", "bicubic"]
FILTERS: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
Fill = tuple[int, int, int]
Matrix = tuple[float, float, float, float, float, float]

# From places in the result to those in the image, by strength, width and height.
_MATRICES: dict[str, Callable[[float, int, int], Matrix]] = {
    "ShearX": lambda shift, width, height: (1, shift, 0, 0, 1, 0),
    "ShearY": lambda shift, width, height: (1, 0, 0, shift, 1, 0),
    "TranslateX": lambda share, width, height: (1, 0, share * width, 0, 1, 0),
    "TranslateY": lambda share, width, height: (1, 0, 0, 0, 1, share * height),
}
_HIGHEST = 10.0  # magnitude
_APPLIED = 0.5  # the probability with which a drawn operation is carried out
MEAN = (124, 116, 104)  # ImageNet's, rounded
_PART = re.compile(r"(mstd|inc|m|n)(\d+(?:\.\d+)?)")

# How strong operations are, as of `Op`, by kind: functions of a level in [0, 1] and the same
# with a sign.
Strengths = Mapping[str, Callable[[float, float], float]]


class Op(NamedTuple):
    """An operation on an image, of a kind and strength of the table at the top."""

    kind: str
    strength: float = 0
    # Of operations that move pixels: their filter, and the color of pixels that come in from outside.
    interpolation: Filter = "bilinear"
    fill: Fill = (0, 0, 0)

    def by_pillow(self, picture: Image.Image) -> Image.Image:
        """An RGB picture after the operation, of the same size."""
        if self.kind in _BY_PILLOW:
            return _BY_PILLOW[self.kind](picture, self.strength)
        filled: Any = {"resample": FILTERS[self.interpolation], "fillcolor": self.fill}
        if self.kind == "Rotate":
            return picture.rotate(self.strength, **filled)
        matrix = _MATRICES[self.kind](self.strength, *picture.size)
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, **filled)

    def by_kernel(self, image: np.ndarray) -> np.ndarray:
        """The same of a contiguous image, uint8 [H, W, 3], by a compiled loop; numba must be installed."""
        # Here, as numba takes half a second to import.
        from passl_sot.imageio.kernels import affine, blur, color

        if self.kind in _MATRICES:
            matrix = _MATRICES[self.kind](self.strength, image.shape[1], image.shape[0])
            return affine.warp(image, matrix, self.interpolation, self.fill)
        if self.kind == "Rotate":
            return affine.rotate(image, self.strength, self.interpolation, self.fill)
        if self.kind == "Blur":
            return blur.gaussian(image, self.strength)
        if self.kind in color.OPERATIONS:
            return color.OPERATIONS[self.kind](image, self.strength)
        # Hue, which no loop does yet; loops after it want memory of their own.
        return laid_out(np.asarray(self.by_pillow(Image.fromarray(image))))


def apply_ops(image: np.ndarray, ops: Sequence[Op]) -> np.ndarray:
    """An image, uint8 [H, W, 3], after operations in their order; without any, the image itself."""
    if not ops:
        return image
    if available():
        image = laid_out(image)
        for op in ops:
            image = op.by_kernel(image)
        return image
    picture = Image.fromarray(image)
    for op in ops:
        picture = op.by_pillow(picture)
    return np.asarray(picture)


def _posterize(picture: Image.Image, bits: float) -> Image.Image:
    if bits == 0:  # black, as before Pillow 13, which refuses it
        return Image.new("RGB", picture.size)
    return ImageOps.posterize(picture, int(bits))


def _solarize_add(picture: Image.Image, added: float) -> Image.Image:
    table = [min(255, value + int(added)) for value in range(128)]
    return picture.point([*table, *range(128, 256)] * 3)  # once a channel


def _turn_hue(picture: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    # uint8 wraps around, as the color circle does.
    turned = np.asarray(hue) + np.int32(turn * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


_BY_PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": lambda picture, _: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, _: ImageOps.equalize(picture),
    "Invert": lambda picture, _: ImageOps.invert(picture),
    "Posterize": _posterize,
    "Solarize": lambda picture, threshold: ImageOps.solarize(picture, int(threshold)),
    "SolarizeAdd": _solarize_add,
    "Grey": lambda picture, _: picture.convert("L").convert("RGB"),
    "Hue": _turn_hue,
    "Blur": lambda picture, radius: picture.filter(ImageFilter.GaussianBlur(radius)),
    "Brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "Color": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "Contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "Sharpness": lambda picture, factor: ImageEnhance.Sharpness(picture).enhance(factor),
}


OPERATIONS: Strengths = {
    **dict.fromkeys(("AutoContrast", "Equalize", "Invert"), lambda level, signed: 0),
    "Rotate": lambda level, signed: 30 * signed,
    "Posterize": lambda level, signed: 4 - int(4 * level),  # "increasing": fewer bits, lower thresholds
    "Solarize": lambda level, signed: 256 - int(256 * level),
    "SolarizeAdd": lambda level, signed: int(110 * level),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), lambda level, signed: 1 + 0.9 * signed),
    **dict.fromkeys(("ShearX", "ShearY"), lambda level, signed: 0.3 * signed),
    # Of width or height, not rounded to pixels.
    **dict.fromkeys(("TranslateX", "TranslateY"), lambda level, signed: 0.45 * signed),
}
_NAMES = tuple(OPERATIONS)


@dataclass(kw_only=True, eq=False)
class PolicyTransform:
    """Operations drawn for each image; their pixels are those of Pillow.

    Attributes:
        policy: Which operations are drawn, and how strong they are.
        interpolation: Filter of operations that move pixels; "random" draws one for each.
        fill: Red, green and blue of pixels that come in from outside; by default ImageNet's mean.
    """

    stage: ClassVar[Stage] = "rgb"
    strengths: ClassVar[Strengths] = OPERATIONS
    policy: str
    interpolation: Literal["bilinear", "bicubic", "random"] = "random"
    fill: Fill = MEAN

    def __post_init__(self) -> None:
        self.filters: tuple[Filter, ...] = tuple(FILTERS)
        if self.interpolation != "random":
            self.filters = (self.interpolation,)
        valid = len(self.fill) == 3 and all(0 <= value <= 255 for value in self.fill)
        rule = "be red, green, blue in 0 to 255"
        require(valid, f"{type(self).__name__}.fill", list(self.fill), rule)
        self.fill = (self.fill[0], self.fill[1], self.fill[2])  # a list, from YAML

    def draw(self, rng: Generator) -> list[Op]:
        """Draws the operations of one image."""
        raise NotImplementedError

    def draw_op(self, kind: str, magnitude: float, rng: Generator) -> Op:
        """Draws sign and filter of an operation."""
        level = magnitude / _HIGHEST
        sign = 1 if rng.random() < 0.5 else -1
        # Operations of colors draw one too, which they don't look at.
        interpolation = self.filters[rng.integers(len(self.filters))]
        return Op(kind, self.strengths[kind](level, sign * level), interpolation, self.fill)

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        """The augmented image, of the same shape."""
        return apply_ops(image, self.draw(rng))


def parse_policy(text: str) -> tuple[float, float, int]:
    """Reads a policy in timm's spelling, such as "rand-m9-mstd0.5-inc1".

    Returns:
        Mean and standard deviation of the magnitude, in [0, 10]; and the operations drawn per image.

    Raises:
        ValueError: Something in it isn't understood, is missing, is there twice or is out of range.
    """
    first, *parts = text.split("-")
    values: dict[str, float] = {}
    faults = []
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None:
            faults.append(f"'{part}' isn't understood")
            continue
        if match[1] in values:
            faults.append(f"'{part}' stands twice")
        values[match[1]] = float(match[2])
    if first != "rand":
        faults.append("it must begin with 'rand'")
    faults += [f"'{key}' is missing" for key in ("m", "inc") if key not in values]
    # timm takes mstd above 100 for a uniform distribution.
    faults += [f"{key} must be at most 10" for key in ("m", "mstd") if values.get(key, 0) > _HIGHEST]
    count = values.get("n", 2)
    if count != int(count) or count < 1:
        faults.append("n must be 1, 2, ...")
    if faults:
        raise ValueError(
            f"RandAugment.policy is '{text}': {faults[0]}. Write rand-m9-mstd0.5-inc1 with m the magnitude "
            "(0 to 10), mstd its standard deviation (by default 0), inc1 for the operations that grow "
            "stronger with it (the only set there is; must be written), and n, by default 2, the operations "
            "per image"
        )
    return values["m"], values.get("mstd", 0.0), int(count)


@TRANSFORMS.register()
@dataclass(kw_only=True, eq=False)
class RandAugment(PolicyTransform):
    """Draws operations with replacement, each carried out half of the time, with a magnitude of its own.

    Belongs after crop and flip.

    Attributes:
        policy: Magnitude and number of operations in timm's spelling; see `parse_policy`.
    """

    policy: str = "rand-m9-mstd0.5-inc1"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._policy = parse_policy(self.policy)

    def draw(self, rng: Generator) -> list[Op]:
        """Draws 0 to n operations."""
        ops = []
        mean, std, count = self._policy
        # All of them first; one by one takes less time than an array.
        for name in [rng.integers(len(_NAMES)) for _ in range(count)]:
            if rng.random() >= _APPLIED:
                continue
            magnitude = min(max(rng.normal(mean, std), 0.0), _HIGHEST)
            ops.append(self.draw_op(_NAMES[name], magnitude, rng))
        return ops


# As timm has them under the name "original".
POLICY_OPERATIONS: Strengths = {
    **{name: OPERATIONS[name] for name in ("AutoContrast", "Equalize", "Invert", "Rotate", "ShearX")},
    **dict.fromkeys(("Color", "Contrast", "Sharpness"), lambda level, signed: 0.1 + 1.8 * level),
    "Posterize": lambda level, signed: 4 + int(4 * level),
    "Solarize": lambda level, signed: int(256 * level),
}

# The paper's table for ImageNet: pairs of operation, probability and magnitude; some stand in it twice.
_TABLE = """
Posterize 0.4 8     Rotate 0.6 9
Solarize 0.6 5      AutoContrast 0.6 5
Equalize 0.8 8      Equalize 0.6 3
Posterize 0.6 7     Posterize 0.6 6
Equalize 0.4 7      Solarize 0.2 4
Equalize 0.4 4      Rotate 0.8 8
Solarize 0.6 3      Equalize 0.6 7
Posterize 0.8 5     Equalize 1.0 2
Rotate 0.2 3        Solarize 0.6 8
Equalize 0.6 8      Posterize 0.4 6
Rotate 0.8 8        Color 0.4 0
Rotate 0.4 9        Equalize 0.6 2
Equalize 0.0 7      Equalize 0.8 8
Invert 0.6 4        Equalize 1.0 8
Color 0.6 4         Contrast 1.0 8
Rotate 0.8 8        Color 1.0 2
Color 0.8 8         Solarize 0.8 7
Sharpness 0.4 7     Invert 0.6 8
ShearX 0.6 5        Equalize 1.0 9
Color 0.4 0         Equalize 0.6 3
Equalize 0.4 7      Solarize 0.2 4
Solarize 0.6 5      AutoContrast 0.6 5
Invert 0.6 4        Equalize 1.0 8
Color 0.6 4         Contrast 1.0 8
Equalize 0.8 8      Equalize 0.6 3
"""


@functools.cache
def policy_table() -> list[tuple[tuple[str, float, float], ...]]:
    """The 25 pairs of (operation, probability, magnitude)."""
    words = [line.split() for line in _TABLE.strip().splitlines()]
    return [((a, float(p), float(m)), (b, float(q), float(n))) for a, p, m, b, q, n in words]


@TRANSFORMS.register()
@dataclass(kw_only=True, eq=False)
class AutoAugment(PolicyTransform):
    """Draws one of the 25 pairs of operations; each of the two is carried out with its own probability.

    Belongs after crop and flip, in place of `RandAugment`.

    Attributes:
        policy: "original", that of the paper.
    """

    strengths = POLICY_OPERATIONS
    policy: Literal["original"] = "original"

    def draw(self, rng: Generator) -> list[Op]:
        """Draws 0 to 2 operations."""
        rows = policy_table()
        drawn = rows[rng.integers(len(rows))]
        return [self.draw_op(name, m, rng) for name, share, m in drawn if rng.random() < share]


@TRANSFORMS.register()
@dataclass(kw_only=True, eq=False)
class ThreeAugment:
    """3-Augment of DeiT III (arXiv 2204.07118): one of gray, solarization from 128 up, and Gaussian blur.

    Each is as likely as the others, and one of them is always done. Belongs after crop and flip; the paper's
    recipe has `ColorJitter` of 0.3 in brightness, contrast and saturation after it.

    Attributes:
        radius: Bounds of the blur's radius in pixels, drawn uniformly.
    """

    stage: ClassVar[Stage] = "rgb"
    radius: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        low, high = self.radius
        require(0 <= low <= high, "ThreeAugment.radius", [low, high], "hold 0 <= lowest <= highest")

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        """The augmented image, of the same shape."""
        choice = rng.integers(3)
        if choice == 2:
            return apply_ops(image, [Op("Blur", rng.uniform(*self.radius))])  # the radius is drawn only here
        return apply_ops(image, [(Op("Grey"), Op("Solarize", 128))[choice]])
