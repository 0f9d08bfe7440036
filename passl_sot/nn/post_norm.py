"""The post-norm transformer block, over padded texts or over their real tokens alone.

Legend: B texts, L tokens of the longest, M real tokens of all, C width, h heads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from passl_sot.nn.block import Attention, Mlp
from passl_sot.nn.layers import LayerNorm


class Group(NamedTuple):
    """Texts of one length, whose tokens follow each other.

    Attributes:
        count: How many texts; 0 for whole padded texts ``[B, L, C]``.
        length: Tokens of each.
        bias: Added to the products of queries and keys, see `ops.attention`.
    """

    count: int
    length: int
    bias: paddle.Tensor | None = None


class Packing:
    """The real tokens of a batch of texts as one list of rows, texts of one length next to each other.

    Args:
        mask_bl: Which places hold real tokens, bool ``[B, L]``; at least one of each text.
    """

    def __init__(self, mask_bl: np.ndarray) -> None:
        lengths = mask_bl.sum(axis=1)
        text, place = np.nonzero(mask_bl)
        order = np.argsort(lengths[text], kind="stable")
        places = (text * mask_bl.shape[1] + place)[order]
        self.count = len(places)
        # How many texts are of each length, the shortest first.
        found, counts = np.unique(lengths, return_counts=True)
        self.lengths = list(zip(counts.tolist(), found.tolist(), strict=True))
        self._places = places
        self._shape = mask_bl.shape

    def pack(self, x: paddle.Tensor) -> paddle.Tensor:
        """Values ``[B, L]`` of all places to those of real tokens, ``[M]``."""
        return paddle.index_select(x.flatten(), paddle.to_tensor(self._places))

    def unpack(self, x_mc: paddle.Tensor, order_bl: np.ndarray | None = None) -> paddle.Tensor:
        """Rows ``[M, C]`` to padded texts ``[B, L, C]``, with zeros where no real token is.

        Args:
            x_mc: The rows.
            order_bl: Which place of the text each place takes; by default its own.
        """
        rows = np.full(self._shape, self.count)
        rows.reshape(-1)[self._places] = np.arange(self.count)
        if order_bl is not None:
            rows = np.take_along_axis(rows, order_bl, axis=1)
        zero = paddle.zeros([1, x_mc.shape[1]], x_mc.dtype)
        picked = paddle.index_select(paddle.concat([x_mc, zero]), paddle.to_tensor(rows.reshape(-1)))
        return picked.reshape([*self._shape, -1])


class GroupedAttention(Attention):
    """Self-attention with biases, of each text among its own tokens."""

    def forward(  # type: ignore[override]
        self, x: paddle.Tensor, groups: Sequence[Group]
    ) -> paddle.Tensor:
        """Args: x: ``[B, L, C]``, or ``[M, C]`` of several groups. Returns: the same shape."""
        qkv = self.qkv(x)
        if x.ndim == 3:
            out = self.attend(qkv, groups[0].bias)
        else:
            parts = [qkv]
            # The gradient of a split is one concatenation; those of slices would be zeros of the whole size.
            if len(groups) > 1:
                parts = paddle.split(qkv, [group.count * group.length for group in groups])
            mixed = []
            for part, (count, length, bias) in zip(parts, groups, strict=True):
                mixed.append(self.attend(part.reshape([count, length, -1]), bias).flatten(0, 1))
            out = paddle.concat(mixed)
        return self.proj_drop(self.proj(out))


class PostNormBlock(nn.Layer):
    """x = LN(x + Attention(x)); x = LN(x + Mlp(x)).

    Other arguments are those of ``Attention`` and ``Mlp``.

    Args:
        dropout: Dropout at the end of both branches; there is none inside the MLP.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        dropout: float,
        attn_dropout: float,
        norm_epsilon: float,
        tanh_gelu: bool,
    ) -> None:
        super().__init__()
        self.attn = GroupedAttention(dim, num_heads, True, attn_dropout, dropout)
        self.norm1 = LayerNorm(dim, epsilon=norm_epsilon)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout, drop_hidden=False, tanh_gelu=tanh_gelu)
        self.norm2 = LayerNorm(dim, epsilon=norm_epsilon)

    def forward(self, x: paddle.Tensor, groups: Sequence[Group]) -> paddle.Tensor:
        """Args: x: ``[B, L, C]``, or ``[M, C]`` of several groups. Returns: the same shape."""
        x = self.norm1(x + self.attn(x, groups))
        return self.norm2(x + self.mlp(x))
