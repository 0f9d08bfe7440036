"""Key rules of PiT (naver-ai/pit, and timm's copy of it)."""

from typing import Any

import numpy as np

from passl_sot.nn.position import resize_position_map
from passl_sot.weights.rules import KEY_RULES
from passl_sot.weights.rules.base import TO_BACKBONE, KeyRules


@KEY_RULES.register()
class PiT(KeyRules):
    """Heads by the number of class tokens, timm's place of the poolings, and position maps of other sizes."""

    input_weights = ("patch_embed.conv.weight",)

    def __init__(self, *, backbone: Any) -> None:
        super().__init__(backbone=backbone)
        # The distilled model's second head must not match the first one's name.
        head = (r"^head\.(weight|bias)$", r"head.fc.\1")
        if backbone.num_prefix_tokens == 2:
            head = (r"^(head|head_dist)\.(weight|bias)$", r"head.\1.\2")
        self.official = (head, TO_BACKBONE)
        # timm keeps a pooling inside the stage that it leads to; older releases in the stage before.
        self.foreign = {"timm": self._timm(1), "timm (older)": self._timm(0)}

    def _timm(self, shift: int) -> tuple[tuple[str, str], ...]:
        poolings = range(len(self.backbone.pools))
        moves = [(rf"^transformers\.{s + shift}\.pool\.", f"pools.{s}.") for s in poolings]
        return (*moves, *self.official)

    def adapt(self, name: str, array: np.ndarray) -> np.ndarray:
        """A position map of another grid, interpolated as the backbone's ``resize`` does it."""
        if name != "pos_embed" or array.ndim != 4:
            return array
        rows, columns = self.backbone.pos_embed.shape[2:]
        return resize_position_map(array, (rows, columns))
