"""AutoAugment with the policy found on ImageNet (Cubuk et al., 2019), and 3-Augment (Touvron et al., 2022).

AutoAugment's operations, with L = magnitude / 10, as timm has them under the name "original":

| operation | does |
|---|---|
| AutoContrast, Equalize, Invert | no magnitude |
| Rotate, ShearX | as in `rand_augment` |
| Posterize | keeps 4 + floor(4·L) bits |
| Solarize | inverts values from floor(256·L) up |
| Color, Contrast, Sharpness | `PIL.ImageEnhance` with the factor 0.1 + 1.8·L |
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from passl_sot.data.transforms.image import TRANSFORMS
from passl_sot.data.transforms.operations import FILTERS, Filter, Job, carry_out
from passl_sot.data.transforms.rand_augment import MEAN, OPERATIONS, Operation, Step, check_fill


def _factor(step: Step) -> float:
    return 0.1 + 1.8 * step.level


POLICY_OPERATIONS: dict[str, Operation] = {
    **{name: OPERATIONS[name] for name in ("AutoContrast", "Equalize", "Invert", "Rotate", "ShearX")},
    "Posterize": Operation("Posterize", lambda step: 4 + int(4 * step.level)),
    "Solarize": Operation("Solarize", lambda step: int(256 * step.level)),
    **{name: Operation(name, _factor) for name in ("Color", "Contrast", "Sharpness")},
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
_Row = tuple[tuple[str, float, float], ...]


def policy_table() -> list[_Row]:
    """The 25 pairs of (operation, probability, magnitude)."""
    words = [line.split() for line in _TABLE.strip().splitlines()]
    return [((a, float(p), float(m)), (b, float(q), float(n))) for a, p, m, b, q, n in words]


@TRANSFORMS.register()
class AutoAugment:
    """Draws one of the 25 pairs of operations; each of the two is carried out with its own probability.

    Belongs after crop and flip, in place of `RandAugment`. The pixels are those of Pillow's
    operations.

    Args:
        policy: "original", that of the paper.
        interpolation: Filter of operations that move pixels; "random" draws one for each.
        fill: Red, green and blue of what comes in from outside of the image; by default ImageNet's mean.
    """

    colours = True

    def __init__(
        self,
        *,
        policy: Literal["original"] = "original",
        interpolation: Literal["bilinear", "bicubic", "random"] = "random",
        fill: tuple[int, int, int] = MEAN,
    ):
        self.policy = policy
        self.rows = policy_table()
        self.filters: tuple[Filter, ...] = tuple(FILTERS) if interpolation == "random" else (interpolation,)
        self.fill = check_fill("AutoAugment.fill", fill)

    def draw(self, rng: np.random.Generator) -> list[Step]:
        """Draws what is done to one image: 0 to 2 steps."""
        steps = []
        for name, probability, magnitude in self.rows[int(rng.integers(len(self.rows)))]:
            if rng.random() >= probability:
                continue
            sign = 1 if rng.random() < 0.5 else -1
            interpolation = self.filters[int(rng.integers(len(self.filters)))]
            steps.append(Step(name, magnitude, sign, interpolation, self.fill))
        return steps

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The augmented image, of the same shape."""
        return carry_out(image, [POLICY_OPERATIONS[step.name].job(step) for step in self.draw(rng)])


@TRANSFORMS.register()
class ThreeAugment:
    """3-Augment of DeiT III (arXiv 2204.07118): one of grey, solarisation from 128 up, and Gaussian blur.

    Each is as likely as the others, and one of them is always done. Belongs after crop and flip; the paper's
    recipe has `ColorJitter` of 0.3 in brightness, contrast and saturation after it.

    Args:
        radius: Bounds of the blur's radius in pixels, drawn uniformly.
    """

    colours = True

    def __init__(self, *, radius: tuple[float, float] = (0.1, 2.0)):
        if not 0 <= radius[0] <= radius[1]:
            raise ValueError(f"ThreeAugment.radius is {list(radius)}; it must hold 0 <= lowest <= highest")
        self.radius = radius

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The augmented image, of the same shape."""
        which = int(rng.integers(3))
        if which == 2:
            return carry_out(image, [Job("Blur", rng.uniform(*self.radius))])
        return carry_out(image, [Job("Grey") if which == 0 else Job("Solarize", 128)])
