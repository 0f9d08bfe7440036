"""What policies of augmentation draw, told from operations whose strengths hide nothing of it."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

from passl_sot.data.transforms.policies import OPERATIONS, Op, Strengths


class Step(NamedTuple):
    name: str
    magnitude: float  # in [0, 10]
    sign: int
    interpolation: str
    fill: tuple[int, int, int]

    def op(self, strengths: Strengths) -> Op:
        level = self.magnitude / 10
        return Op(self.name, strengths[self.name](level, self.sign * level), self.interpolation, self.fill)


def steps_of(augment, rng) -> list[Step]:
    """The draws of one image, whose levels and signs become the strengths themselves."""
    told = copy.copy(augment)
    told.strengths = dict.fromkeys(OPERATIONS, lambda level, signed: (level, signed))
    steps = []
    for op in told.draw(rng):
        level, signed = op.strength
        steps.append(Step(op.kind, 10 * level, int(math.copysign(1, signed)), op.interpolation, op.fill))
    return steps
