"""GPT, the first one (Radford, Narasimhan, Salimans, Sutskever, "Improving Language Understanding by
Generative Pre-Training", 2018).

Post-norm blocks as BERT's, in which a token sees itself and those before it alone. So the last token of a
text, ``_classify_``, has seen all and classifies. Fine-tuning keeps on predicting next tokens as an auxiliary
task.

Differences from the official code: dropout falls on the sum of the embeddings and not on their tables, and
next tokens are chosen among tokens alone, where the official table holds positions, too; both as in Hugging
Face's code.

Legend: B batch, L tokens of the longest text, C width, V tokens that the model knows.
"""

import numpy as np
import paddle
import paddle.nn.functional as F

from passl_sot.config import Count, Positive, Share, Width
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.base import Tokens
from passl_sot.modeling.backbones.text_backbone import TextBackbone, places_of

_EPSILON = 1e-5


@BACKBONES.register()
class GPT(TextBackbone):
    """The GPT-1 backbone. The last token of a text is given first, as other models have their class token.

    The settings are described in `TextBackbone`; ``vocab_size`` is with the three tokens of fine-tuning,
    ``_start_``, ``_delimiter_`` and ``_classify_``.
    """

    causal = True

    def __init__(
        self,
        *,
        vocab_size: Count = 40481,
        max_positions: Count = 512,
        embed_dim: Width = 768,
        depth: Count = 12,
        num_heads: Count = 12,
        mlp_ratio: Positive = 4.0,
        drop_rate: Share = 0.1,
        attn_drop_rate: Share = 0.1,
    ) -> None:
        super().__init__(vocab_size, max_positions, 0, embed_dim, depth)
        self.add_embeddings(0, None, drop_rate)
        self.add_blocks(num_heads, mlp_ratio, drop_rate, attn_drop_rate, _EPSILON, tanh_gelu=True)

    def class_first(self, tokens: Tokens) -> Tokens:
        """See `TextBackbone.class_first`; the last real token moves before the others."""
        x, mask = tokens
        counted = mask.astype("int64")
        place = places_of(counted)
        last = (place * counted).max(axis=1, keepdim=True)
        # A sum over one token: what gathers by number differs from engine to engine.
        first = (x * (place == last).unsqueeze(-1).astype(x.dtype)).sum(axis=1, keepdim=True)
        # Each token up to the last moves by one place. Not by `where`, which in graphs warns of itself.
        moves = (place <= last).astype("int64")
        moved_mask = paddle.concat([counted[:, :1] * 0 + 1, counted[:, :-1]], axis=1)
        mask = moved_mask * moves + counted * (1 - moves) > 0
        moves = moves.astype(x.dtype).unsqueeze(-1)
        moved = paddle.concat([first, x[:, :-1]], axis=1)
        return Tokens(moved * moves + x * (1.0 - moves), mask)

    def class_first_order(self, mask_bl: np.ndarray) -> np.ndarray:
        """See `TextBackbone.class_first_order`."""
        place = np.arange(mask_bl.shape[1])
        last = (place * mask_bl).max(axis=1, keepdims=True)
        order = np.where(place <= last, place - 1, place)
        order[:, :1] = last
        return order

    def next_token_logits(self, x: paddle.Tensor) -> paddle.Tensor:
        """Hidden states ``[..., C]`` to logits ``[..., V]`` of the next token, by the tokens' table."""
        return paddle.matmul(x, self.word_embed.weight, transpose_y=True)

    def language_loss(self, tokens: Tokens, input_ids: paddle.Tensor) -> paddle.Tensor:
        """Cross-entropy of each next real token: mean over those of a text, then over the texts.

        Args:
            tokens: What ``forward`` gave for them.
            input_ids: ``[B, L]``.
        """
        # Behind the class token stands the first one, whose next token is the second.
        mask = tokens.mask_bn[:, 1:]
        places = paddle.nonzero(mask.flatten()).flatten()
        x = paddle.index_select(tokens.x_bnc[:, 1:].flatten(0, 1), places)
        targets = paddle.index_select(input_ids[:, 1:].flatten(), places)
        losses = F.cross_entropy(self.next_token_logits(x), targets, reduction="none").flatten()
        counted = mask.astype(losses.dtype)
        weights = counted / counted.sum(axis=1, keepdim=True).clip(min=1.0) / len(mask)
        return (losses * paddle.index_select(weights.flatten(), places)).sum()
