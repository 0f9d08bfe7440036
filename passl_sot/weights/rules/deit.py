"""Key rules of DeiT (facebookresearch/deit on timm)."""

import math
from typing import Any

import numpy as np

from passl_sot.nn.position import resize_position_table
from passl_sot.weights.rules import KEY_RULES
from passl_sot.weights.rules.base import IMAGE_WEIGHTS, TO_BACKBONE, KeyRules


@KEY_RULES.register()
class DeiT(KeyRules):
    """Heads by the number of class tokens, and position tables of other sizes."""

    input_weights = IMAGE_WEIGHTS

    def __init__(self, *, backbone: Any) -> None:
        super().__init__(backbone=backbone)
        head = r"head.head\1.\2" if backbone.distilled else r"head.fc.\2"
        self.official = ((r"^head(_dist)?\.(weight|bias)$", head), TO_BACKBONE)
        # PASSL's first version counts the heads to the backbone; the second one's names, and PaddleClas's,
        # are the official ones.
        self.foreign = {"PASSL": ((r"^backbone\.", ""), *self.official)}

    def adapt(self, name: str, array: np.ndarray) -> np.ndarray:
        """A position table of another (square) grid, interpolated as the official fine-tuning does it."""
        prefix = self.backbone.num_prefix_tokens
        rows, columns = self.backbone.grid_size
        if name != "pos_embed" or array.ndim != 3 or array.shape[1] == prefix + rows * columns:
            return array
        # The file does not tell its grid; all published models are for square images.
        side = math.isqrt(max(array.shape[1] - prefix, 0))
        if side < 1 or side * side != array.shape[1] - prefix:
            raise ValueError(
                f"a position table of {array.shape[1]} rows is no square grid with {prefix} prefix token(s)"
            )
        return resize_position_table(array, prefix, (side, side), (rows, columns))
