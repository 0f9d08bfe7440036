"""Key rules of T2T-ViT (yitu-opensource/T2T-ViT, PASSL)."""

from types import MappingProxyType

import numpy as np

from passl_sot.weights.rules import KEY_RULES
from passl_sot.weights.rules.base import TO_BACKBONE, KeyRules, adapt_channels

_WINDOW = 49  # pixels of the first cut's windows, 7×7


@KEY_RULES.register()
class T2TViT(KeyRules):
    """PASSL's name of the head, and weights over the cut image, which are no convolution's."""

    official = ((r"^head\.(weight|bias)$", r"head.fc.\1"), TO_BACKBONE)
    foreign = MappingProxyType({"PASSL": ((r"^head\.fc_cls\.", "head.fc."),)})

    def adapt_input(self, name: str, array: np.ndarray) -> np.ndarray:
        """The entries that see the cut image, whose columns are channel by channel 7×7 pixels.

        The projection is adapted like a convolution. The norm before it is averaged or repeated, which
        is exact where its weights don't differ from channel to channel, and near to it elsewhere.
        """
        in_chans = self.backbone.in_chans
        first, _, rest = name.partition("attention1.")
        columns = array.shape[-1] if array.ndim else 0
        if first != "tokens_to_token." or columns % _WINDOW or columns == _WINDOW * in_chans:
            return array
        # Named kqv in the performer, attn.qkv in the transformer.
        if rest in ("kqv.weight", "attn.qkv.weight"):
            rows = len(array)
            return adapt_channels(array.reshape(rows, -1, _WINDOW), in_chans).reshape(rows, -1)
        if rest in ("norm1.weight", "norm1.bias"):
            per_channel = array.reshape(1, -1, _WINDOW)
            # A mean over the channels where there is one left, a copy where there are more.
            scale = in_chans / per_channel.shape[1]
            return (adapt_channels(per_channel, in_chans) * scale).astype(array.dtype).reshape(-1)
        return array
