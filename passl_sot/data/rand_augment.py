"""RandAugment (Cubuk et al., 2020) with the operations and magnitudes of timm's "increasing" set.

With L = magnitude / 10, and ± where the sign is drawn:

| operation | does |
|---|---|
| AutoContrast, Equalize, Invert | no magnitude |
| Rotate | by ±30·L degrees |
| Posterize | keeps 4 - floor(4·L) bits; 0 bits are black |
| Solarize | inverts values from 256 - floor(256·L) up |
| SolarizeAdd | adds floor(110·L) to values below 128, up to 255 |
| Color, Contrast, Brightness, Sharpness | `PIL.ImageEnhance` with the factor 1 ± 0.9·L |
| ShearX, ShearY | by ±0.3·L |
| TranslateX, TranslateY | by ±0.45·L of width or height, not rounded to pixels |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from passl_sot.data.transforms import TRANSFORMS

_HIGHEST = 10.0
# Every operation that was drawn is carried out with this probability.
_APPLIED = 0.5
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# ImageNet's mean, rounded.
MEAN = (124, 116, 104)
_PART = re.compile(r"(mstd|inc|m|n)(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Step:
    """One operation as it was drawn.

    Attributes:
        name: A key of `OPERATIONS`.
        magnitude: In [0, 10].
        sign: 1 or -1; operations without ± in the table don't look at it.
        interpolation: Filter of operations that move pixels.
        fill: Colour of what comes in from outside of the image.
    """

    name: str
    magnitude: float
    sign: int
    interpolation: Literal["bilinear", "bicubic"]
    fill: tuple[int, int, int]

    @property
    def level(self) -> float:
        """L, in [0, 1]."""
        return self.magnitude / _HIGHEST

    @property
    def signed(self) -> float:
        """±L."""
        return self.sign * self.level

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The changed image, of the same size."""
        return OPERATIONS[self.name](picture, self)

    def warp(self, picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
        """Moves pixels by an affine map (a, b, c, d, e, f), from places in the result to `picture`'s."""
        return picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            matrix,
            resample=FILTERS[self.interpolation],
            fillcolor=self.fill,
        )


def _rotate(picture: Image.Image, step: Step) -> Image.Image:
    return picture.rotate(30 * step.signed, resample=FILTERS[step.interpolation], fillcolor=step.fill)


def _posterize(picture: Image.Image, step: Step) -> Image.Image:
    bits = 4 - int(4 * step.level)
    # Pillow refuses 0 bits since release 13; before, it gave black.
    return ImageOps.posterize(picture, bits) if bits else Image.new("RGB", picture.size)


def _solarize(picture: Image.Image, step: Step) -> Image.Image:
    return ImageOps.solarize(picture, 256 - int(256 * step.level))


def _solarize_add(picture: Image.Image, step: Step) -> Image.Image:
    added = int(110 * step.level)
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return picture.point(table * 3)


def _enhance(kind: Callable) -> Callable[[Image.Image, Step], Image.Image]:
    return lambda picture, step: kind(picture).enhance(1 + 0.9 * step.signed)


OPERATIONS: dict[str, Callable[[Image.Image, Step], Image.Image]] = {
    "AutoContrast": lambda picture, step: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, step: ImageOps.equalize(picture),
    "Invert": lambda picture, step: ImageOps.invert(picture),
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "ShearX": lambda picture, step: step.warp(picture, (1, 0.3 * step.signed, 0, 0, 1, 0)),
    "ShearY": lambda picture, step: step.warp(picture, (1, 0, 0, 0.3 * step.signed, 1, 0)),
    "TranslateX": lambda picture, step: step.warp(
        picture, (1, 0, 0.45 * step.signed * picture.width, 0, 1, 0)
    ),
    "TranslateY": lambda picture, step: step.warp(
        picture, (1, 0, 0, 0, 1, 0.45 * step.signed * picture.height)
    ),
}
_NAMES = tuple(OPERATIONS)


def carry_out(
    steps: list[Step], image: np.ndarray, operations: dict[str, Callable[[Image.Image, Step], Image.Image]]
) -> np.ndarray:
    """The image after all steps, by the operations of their names; without a step, the image itself."""
    if not steps:
        return image
    picture = Image.fromarray(image)
    for step in steps:
        picture = operations[step.name](picture, step)
    return np.asarray(picture)


@dataclass(frozen=True)
class Policy:
    """What a policy string says.

    Attributes:
        magnitude: Mean magnitude (m), in [0, 10].
        std: Standard deviation of the magnitude (mstd); each application draws its own, clipped to [0, 10].
        operations: Operations drawn per image (n).
    """

    magnitude: float
    std: float = 0.0
    operations: int = 2


def parse_policy(text: str) -> Policy:
    """Reads a policy in timm's spelling, such as "rand-m9-mstd0.5-inc1".

    Raises:
        ValueError: Something in it isn't understood, is missing, is there twice or is out of range.
    """
    first, *parts = text.split("-")
    values: dict[str, float] = {}
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None or match[1] in values:
            raise _misread(text, f"'{part}' stands twice" if match else f"'{part}' isn't understood")
        values[match[1]] = float(match[2])
    if first != "rand":
        raise _misread(text, "it must begin with 'rand'")
    for key in ("m", "inc"):
        if key not in values:
            raise _misread(text, f"'{key}' is missing")
    for key in ("m", "mstd"):
        if values.get(key, 0) > _HIGHEST:
            raise _misread(text, f"{key} must be at most 10")
    count = values.get("n", 2)
    if count != int(count) or count < 1:
        raise _misread(text, "n must be 1, 2, ...")
    return Policy(values["m"], values.get("mstd", 0.0), int(count))


def _misread(text: str, what: str) -> ValueError:
    return ValueError(
        f"RandAugment.policy is '{text}': {what}. Write rand-m9-mstd0.5-inc1 with m the magnitude (0 to 10), "
        "mstd its standard deviation (by default 0), inc1 for the operations that grow stronger with it (the "
        "only set there is; must be written), and n, by default 2, the operations per image"
    )


def check_fill(what: str, fill: tuple[int, int, int]) -> tuple[int, int, int]:
    """A colour, if it is one.

    Raises:
        ValueError: A value lies outside of 0 to 255.
    """
    if not all(0 <= value <= 255 for value in fill):
        raise ValueError(f"{what} is {list(fill)}; it must be red, green, blue in 0 to 255")
    red, green, blue = fill
    return red, green, blue


@TRANSFORMS.register()
class RandAugment:
    """Draws operations with replacement, each carried out half of the time, with a magnitude of its own.

    Belongs after crop and flip. The operations are Pillow's own.

    Args:
        policy: Magnitude and number of operations in timm's spelling; see `parse_policy`.
        interpolation: Filter of operations that move pixels; "random" draws one for each.
        fill: Red, green and blue of what comes in from outside of the image; by default ImageNet's mean.
    """

    colours = True

    def __init__(
        self,
        *,
        policy: str = "rand-m9-mstd0.5-inc1",
        interpolation: Literal["bilinear", "bicubic", "random"] = "random",
        fill: tuple[int, int, int] = MEAN,
    ):
        self.policy = parse_policy(policy)
        self.filters = tuple(FILTERS) if interpolation == "random" else (interpolation,)
        self.fill = check_fill("RandAugment.fill", fill)

    def draw(self, rng: np.random.Generator) -> list[Step]:
        """Draws what is done to one image: 0 to n steps."""
        steps = []
        for name in rng.integers(len(_NAMES), size=self.policy.operations):
            if rng.random() >= _APPLIED:
                continue
            magnitude = float(np.clip(rng.normal(self.policy.magnitude, self.policy.std), 0, _HIGHEST))
            sign = 1 if rng.random() < 0.5 else -1
            interpolation = self.filters[int(rng.integers(len(self.filters)))]
            steps.append(Step(_NAMES[name], magnitude, sign, interpolation, self.fill))
        return steps

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The augmented image, of the same shape."""
        return carry_out(self.draw(rng), image, OPERATIONS)
