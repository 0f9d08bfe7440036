"""RoBERTa (Liu, Ott, Goyal et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach", arXiv
1907.11692).

The network of BERT, trained longer, on more text, without the prediction of next sentences. There is one type
of tokens, whose embedding is in all sums, and positions count from behind the number of the padding token,
1: the first has row 2 of the table, and padding row 1.

Legend: B batch, L tokens of the longest text, C width.
"""

import paddle

from passl_sot.config import Count, Positive, Share, Width
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.text_backbone import TextBackbone

_EPSILON = 1e-5


@BACKBONES.register()
class RoBERTa(TextBackbone):
    """The RoBERTa backbone. Its tokens are ``<s>``, which classifies, and the words.

    The settings are described in `TextBackbone`.
    """

    pad_id = 1
    first_position = 2

    def __init__(
        self,
        *,
        vocab_size: Count = 50265,
        max_positions: Count = 512,
        embed_dim: Width = 768,
        depth: Count = 12,
        num_heads: Count = 12,
        mlp_ratio: Positive = 4.0,
        drop_rate: Share = 0.1,
        attn_drop_rate: Share = 0.1,
    ) -> None:
        super().__init__(vocab_size, max_positions, 0, embed_dim, depth)
        self.add_embeddings(1, _EPSILON, drop_rate)
        self.add_blocks(num_heads, mlp_ratio, drop_rate, attn_drop_rate, _EPSILON)

    def positions(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        """See `TextBackbone.positions`; by the tokens that are no padding, as officially."""
        counted = (input_ids != self.pad_id).astype("int64")
        return counted.cumsum(axis=1) * counted + self.pad_id
