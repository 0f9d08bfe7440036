"""Key rules of Swin (microsoft/Swin-Transformer, timm, PASSL, PaddleClas)."""

import math
from types import MappingProxyType

import numpy as np

from passl_sot.nn.position import resize_bias_table
from passl_sot.weights.rules import KEY_RULES
from passl_sot.weights.rules.base import IMAGE_WEIGHTS, TO_BACKBONE, KeyRules

# Today's timm counts a merging with the stage behind it.
_MERGINGS = tuple((rf"^layers\.{s + 1}\.downsample\.", f"layers.{s}.downsample.") for s in range(9))


@KEY_RULES.register()
class Swin(KeyRules):
    """Masks and index tables, timm's place of the mergings, and bias tables of other windows."""

    official = (
        (r"^head\.(weight|bias)$", r"head.fc.\1"),
        (r"\.attn_mask$", ".attn.attn_mask"),
        TO_BACKBONE,
    )
    # PASSL's names are for its first version: the second one's, and PaddleClas's, are the official ones.
    foreign = MappingProxyType(
        {
            "PASSL": ((r"^head\.fc_cls\.", "head.fc."), (r"\.attn_mask$", ".attn.attn_mask")),
            "timm": (*_MERGINGS, TO_BACKBONE),
        }
    )
    to_official = (
        (r"^backbone\.", ""),
        (r"^head\.fc\.", "head."),
        (r"\.attn\.attn_mask$", ".attn_mask"),
    )
    # PaddleClas adds the bias of every pair, looked up in the table of biases, when it evaluates.
    tables = (r".*\.relative_position_(index|bias)", r".*\.attn_mask")
    input_weights = IMAGE_WEIGHTS

    def adapt(self, name: str, array: np.ndarray) -> np.ndarray:
        """A bias table of another window, interpolated as the authors' loading does it."""
        if not name.endswith(".relative_position_bias_table") or array.ndim != 2:
            return array
        _, stage, _, block, *_ = name.split(".")
        window = self.backbone.layers[int(stage)].blocks[int(block)].attn.window
        side = math.isqrt(len(array))
        if side * side != len(array) or side % 2 == 0:
            raise ValueError(f"a bias table of {len(array)} rows is for no square window")
        return resize_bias_table(array, (side + 1) // 2, window)
