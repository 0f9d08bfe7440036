"""BERT (Devlin, Chang, Lee, Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", arXiv 1810.04805).

Sums of embeddings of tokens, positions and types (first or second text) are normalized and pass through
post-norm blocks, in which every token sees all. SpanBERT (arXiv 1907.10529) is the same network, trained on
masked spans and without the task that BERT's pooler learns from. The pooler is here the head's
(`PoolerHead`); the second-order heads take its place.

Differences from the official code: the query, key and value projections are one; padding is not computed
where nothing asks for it.

Legend: B batch, L tokens of the longest text, C width.
"""

from passl_sot.config import Count, Positive, Share, Width
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.text_backbone import TextBackbone

_EPSILON = 1e-12


@BACKBONES.register()
class BERT(TextBackbone):
    """The BERT backbone, without its pooler. Its tokens are ``[CLS]``, which classifies, and the words.

    The settings are described in `TextBackbone`; here more:

    * ``num_types``: texts that are told apart, of which BERT has two.
    """

    pad_id = 0

    def __init__(
        self,
        *,
        vocab_size: Count = 30522,
        max_positions: Count = 512,
        num_types: Count = 2,
        embed_dim: Width = 768,
        depth: Count = 12,
        num_heads: Count = 12,
        mlp_ratio: Positive = 4.0,
        drop_rate: Share = 0.1,
        attn_drop_rate: Share = 0.1,
    ) -> None:
        super().__init__(vocab_size, max_positions, num_types, embed_dim, depth)
        self.add_embeddings(num_types, _EPSILON, drop_rate)
        self.add_blocks(num_heads, mlp_ratio, drop_rate, attn_drop_rate, _EPSILON)
