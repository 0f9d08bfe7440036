"""RandAugment (Cubuk et al., 2020) with the operations and magnitudes of timm's "increasing" set, AutoAugment
(Cubuk et al., 2019) with its policy for ImageNet, and 3-Augment (Touvron et al., 2022).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from passl_sot.data.transforms.base import TRANSFORMS, Stage, require
from passl_sot.data.transforms.operations import FILTERS, Fill, Filter, Op, apply_ops

_HIGHEST = 10.0  # magnitude
_APPLIED = 0.5  # the probability with which a drawn operation is carried out
MEAN = (124, 116, 104)  # ImageNet's, rounded
_PART = re.compile(r"(mstd|inc|m|n)(\d+(?:\.\d+)?)")

# How strong operations are, as `operations.Op` has it, by kind: functions of a level in [0, 1] and the same
# with a sign.
Strengths = Mapping[str, Callable[[float, float], float]]


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
