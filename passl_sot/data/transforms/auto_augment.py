"""AutoAugment (Cubuk et al., 2019) with its policy for ImageNet, and 3-Augment (Touvron et al., 2022)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from passl_sot.data.transforms.base import TRANSFORMS, Stage, require
from passl_sot.data.transforms.operations import Op, apply_ops
from passl_sot.data.transforms.rand_augment import OPERATIONS, PolicyTransform, Step

# As timm has them under the name "original"; units are those of `operations`.
POLICY_OPERATIONS: dict[str, Callable[[Step], float]] = {
    **{name: OPERATIONS[name] for name in ("AutoContrast", "Equalize", "Invert", "Rotate", "ShearX")},
    **dict.fromkeys(("Color", "Contrast", "Sharpness"), lambda step: 0.1 + 1.8 * step.level),
    "Posterize": lambda step: 4 + int(4 * step.level),
    "Solarize": lambda step: int(256 * step.level),
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

    def draw(self, rng: Generator) -> list[Step]:
        """Draws 0 to 2 steps."""
        rows = policy_table()
        drawn = rows[rng.integers(len(rows))]
        return [self.draw_step(name, m, rng) for name, share, m in drawn if rng.random() < share]


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
