"""RandAugment (Cubuk et al., 2020) with the operations and magnitudes of timm's "increasing" set."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.random import Generator

from passl_sot.data.transforms.base import TRANSFORMS, Stage, require
from passl_sot.data.transforms.operations import FILTERS, Fill, Filter, Op, apply_ops

_HIGHEST = 10.0  # magnitude
_APPLIED = 0.5  # the probability with which a drawn operation is carried out
MEAN = (124, 116, 104)  # ImageNet's, rounded
_PART = re.compile(r"(mstd|inc|m|n)(\d+(?:\.\d+)?)")


class Step(NamedTuple):
    """One operation as it was drawn: the name in a table such as `OPERATIONS`, and how it is done."""

    name: str
    magnitude: float  # in [0, 10]
    sign: int  # 1 or -1; not all operations look at it
    interpolation: Filter
    fill: Fill

    @property
    def level(self) -> float:
        """L, in [0, 1]."""
        return self.magnitude / _HIGHEST

    @property
    def signed(self) -> float:
        """±L."""
        return self.sign * self.level

    def op(self, strengths: Mapping[str, Callable[[Step], float]]) -> Op:
        """The step as an operation on pixels, as strong as a table says."""
        return Op(self.name, strengths[self.name](self), self.interpolation, self.fill)


# Strengths, as `operations.Op` takes them, by kind; the units are in the table there.
OPERATIONS: dict[str, Callable[[Step], float]] = {
    **dict.fromkeys(("AutoContrast", "Equalize", "Invert"), lambda step: 0),
    "Rotate": lambda step: 30 * step.signed,
    "Posterize": lambda step: 4 - int(4 * step.level),  # "increasing": fewer bits, lower thresholds
    "Solarize": lambda step: 256 - int(256 * step.level),
    "SolarizeAdd": lambda step: int(110 * step.level),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), lambda step: 1 + 0.9 * step.signed),
    "ShearX": lambda step: 0.3 * step.signed,
    "ShearY": lambda step: 0.3 * step.signed,
    # Of width or height, not rounded to pixels.
    "TranslateX": lambda step: 0.45 * step.signed,
    "TranslateY": lambda step: 0.45 * step.signed,
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
    # How strong each operation is in a step.
    strengths: ClassVar[Mapping[str, Callable[[Step], float]]] = OPERATIONS
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

    def draw(self, rng: Generator) -> list[Step]:
        """Draws the steps of one image."""
        raise NotImplementedError

    def draw_step(self, name: str, magnitude: float, rng: Generator) -> Step:
        """Draws sign and filter of a step."""
        sign = 1 if rng.random() < 0.5 else -1
        # Operations of colors draw one too, which they don't look at.
        interpolation = self.filters[rng.integers(len(self.filters))]
        return Step(name, magnitude, sign, interpolation, self.fill)

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        """The augmented image, of the same shape."""
        return apply_ops(image, [step.op(self.strengths) for step in self.draw(rng)])


@dataclass(frozen=True)
class Policy:
    """A policy string, read.

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
    return Policy(values["m"], values.get("mstd", 0.0), int(count))


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

    def draw(self, rng: Generator) -> list[Step]:
        """Draws 0 to n steps."""
        steps = []
        # All of them first; one by one takes less time than an array.
        for name in [rng.integers(len(_NAMES)) for _ in range(self._policy.operations)]:
            if rng.random() >= _APPLIED:
                continue
            drawn = rng.normal(self._policy.magnitude, self._policy.std)
            magnitude = min(max(drawn, 0.0), _HIGHEST)
            steps.append(self.draw_step(_NAMES[name], magnitude, rng))
        return steps
