"""BERT (Devlin, Chang, Lee, Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", arXiv 1810.04805); SpanBERT is the same network.

Legend: B batch, L tokens of the longest text, C width.
"""

import paddle
from paddle import nn

from passl_sot.config import Count, Positive, Share, Width
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.text_backbone import TextBackbone
from passl_sot.nn.block import Attention, Mlp
from passl_sot.nn.layers import LayerNorm


class _Block(nn.Layer):
    """x = LN(x + Attention(x)); x = LN(x + Mlp(x))."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float, attn_dropout: float) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads, True, attn_dropout, dropout)
        self.norm1 = LayerNorm(width, epsilon=1e-12)
        self.mlp = Mlp(width, hidden, dropout)
        self.norm2 = LayerNorm(width, epsilon=1e-12)

    def forward(self, x_blc: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        """Args: x_blc: ``[B, L, C]``. Returns: the same shape."""
        x_blc = self.norm1(x_blc + self.attn(x_blc, bias))
        return self.norm2(x_blc + self.mlp(x_blc))


@BACKBONES.register()
class BERT(TextBackbone):
    """The BERT backbone, without its pooler."""

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
        self.word_embed = nn.Embedding(vocab_size, embed_dim)
        self.pos_embed = nn.Embedding(max_positions, embed_dim)
        self.type_embed = nn.Embedding(num_types, embed_dim)
        self.norm = LayerNorm(embed_dim, epsilon=1e-12)
        self.drop = nn.Dropout(drop_rate)
        self.blocks = nn.LayerList(
            _Block(embed_dim, num_heads, int(embed_dim * mlp_ratio), drop_rate, attn_drop_rate)
            for _ in range(depth)
        )

    def embed(self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor | None) -> paddle.Tensor:
        """See `TextBackbone.embed`."""
        if token_type_ids is None:
            token_type_ids = paddle.zeros_like(input_ids)
        positions = paddle.arange(input_ids.shape[1])
        x = self.word_embed(input_ids) + self.type_embed(token_type_ids) + self.pos_embed(positions)
        return self.drop(self.norm(x))

    def hidden_states(
        self,
        input_ids: paddle.Tensor,
        attention_mask: paddle.Tensor | None = None,
        token_type_ids: paddle.Tensor | None = None,
    ) -> list[paddle.Tensor]:
        """See `TextBackbone.hidden_states`."""
        if attention_mask is None:
            attention_mask = paddle.ones_like(input_ids)
        x = self.embed(input_ids, token_type_ids)
        bias = ((attention_mask - 1) * 1e9).astype(x.dtype).unsqueeze([1, 2])
        bias = bias.expand([-1, self.blocks[0].attn.num_heads, bias.shape[3], -1])
        found = []
        for block in self.blocks:
            x = block(x, bias)
            found.append(x)
        return found
