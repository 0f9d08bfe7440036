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
    """The real tokens of a batch of texts as a list of M rows, texts of about one length together.

    Args:
        mask_bl: Which places hold real tokens, bool ``[B, L]``; at least one of each text.
        fill: So many tokens of padding a text may get for its place in a group of longer ones.

    Attributes:
        groups: For each group which of its tokens are real, bool ``[texts, tokens]``; the shortest first.
    """

    def __init__(self, mask_bl: np.ndarray, fill: int = 0) -> None:
        texts, width = mask_bl.shape
        lengths = mask_bl.sum(axis=1)
        self.groups: list[np.ndarray] = []
        # Real tokens of each text in order, then its others, which are never looked at.
        places = np.argsort(~mask_bl, axis=1, kind="stable") + width * np.arange(texts)[:, None]
        taken = []
        self._rows = np.full(texts * width, -1)
        count = 0
        for members in _alike(lengths, fill):
            longest = lengths[members[-1]]
            real = np.arange(longest) < lengths[members][:, None]
            own = places[members, :longest]
            self._rows[own[real]] = count + np.flatnonzero(real)
            self.groups.append(real)
            taken.append(own.flatten())
            count += real.size
        self._taken = np.concatenate(taken)
        self._shape = mask_bl.shape

    def pack(self, x: paddle.Tensor) -> paddle.Tensor:
        """Values ``[B, L]`` of all places to those of the rows, ``[M]``."""
        return paddle.index_select(x.flatten(), paddle.to_tensor(self._taken))

    def unpack(self, x_mc: paddle.Tensor, order_bl: np.ndarray | None = None) -> paddle.Tensor:
        """Rows ``[M, C]`` to padded texts ``[B, L, C]``, with zeros where no real token is.

        Args:
            x_mc: The rows.
            order_bl: Which place of the text each place takes; by default its own.
        """
        rows = self._rows.reshape(self._shape)
        if order_bl is not None:
            rows = np.take_along_axis(rows, order_bl, axis=1)
        zero = paddle.zeros([1, x_mc.shape[1]], x_mc.dtype)
        rows = np.where(rows < 0, len(x_mc), rows)
        picked = paddle.index_select(paddle.concat([x_mc, zero]), paddle.to_tensor(rows.reshape(-1)))
        return picked.reshape([*self._shape, -1])


def _alike(lengths: np.ndarray, fill: int) -> list[np.ndarray]:
    """Numbers of texts by groups of about one length, the shortest first."""
    order = np.argsort(lengths, kind="stable")
    ends = [len(order)]
    for i in reversed(range(len(order))):
        if lengths[order[ends[0] - 1]] - lengths[order[i]] > fill:
            ends.insert(0, i + 1)
    return np.split(order, ends[:-1])


class GroupedAttention(Attention):
    """Self-attention with biases, of each text among its own tokens."""

    # In place of one bias there are groups, each with its own.
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
