"""Relevance that flows back through attention: roll-outs, plain and weighted by gradients.

A roll-out follows how tokens were mixed, block by block from the last to the first, by a matrix M for each.
It starts from the tokens that the head reads, each by the length of the logit's gradient there: the class
token alone for a head on it, all words alike for one on their mean. With r the relevance of a block's
output, that of its input is

* plain (Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv 2005.00928): (r +
  r·M) / 2, where M is the mean over the heads of the attention weights A; it knows of no class but by its
  start;
* weighted by gradients (Chefer, Gur and Wolf, "Generic Attention-Model Explainability for Interpreting
  Bi-Modal and Encoder-Decoder Transformers", ICCV 2021, arXiv 2103.15679, equations 5 and 6): r + r·M,
  where M is the mean over the heads of the positive part of A ⊙ ∂logit/∂A. In the end the start itself is
  taken off, which went through residuals alone (there equation 8). From a class token it is no relevance of
  words; from words it would outweigh all else, and says where the head reads, not what it read.

The weights are computed anew from queries and keys that hooks have seen, so that the ordinary way stays as
it is, fused kernels too.

Legend: B batch, N tokens, C width, h heads; of texts without padding M tokens of all.
"""

from collections.abc import Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn import ops
from passl_sot.nn.block import Attention
from passl_sot.nn.post_norm import Group
from passl_sot.vis.gradients import Leaf, gradients, hooks


class AttentionFlow:
    """What attention blocks computed in one forward pass.

    Args:
        blocks: As `Backbone.attention_blocks` gives them.
    """

    def __init__(self, blocks: Sequence[nn.Layer]) -> None:
        self.blocks = list(blocks)
        self._qkv: list[paddle.Tensor] = []
        self._mixed: list[paddle.Tensor] = []
        self._groups: Sequence[Group] = [Group(0, 0)]
        self._last: paddle.Tensor | None = None

    def recording(self) -> Any:
        """A block in which the model is to be called, once."""
        removers = [Leaf().before(self.blocks[0]), self.blocks[-1].register_forward_post_hook(self._end)]
        for block in self.blocks:
            attn = block.attn
            removers.append(attn.register_forward_pre_hook(self._begin))
            removers.append(attn.qkv.register_forward_post_hook(self._project))
            removers.append(attn.proj.register_forward_pre_hook(self._mix))
        return hooks(*removers)

    def _begin(self, layer: nn.Layer, inputs: tuple) -> None:
        if len(inputs) > 1:  # of texts
            self._groups = inputs[1]

    def _project(self, layer: nn.Layer, inputs: tuple, output: paddle.Tensor) -> None:
        self._qkv.append(output.detach())

    def _mix(self, layer: nn.Layer, inputs: tuple) -> None:
        self._mixed.append(inputs[0])

    def _end(self, layer: nn.Layer, inputs: tuple, output: paddle.Tensor) -> None:
        self._last = output

    @paddle.no_grad()
    def back(self, score: paddle.Tensor, weighted: bool) -> paddle.Tensor:
        """Relevance of the tokens before the first block, ``[B, N]``, or ``[M]`` where padding is left out.

        Args:
            score: Sum of a logit of each item.
            weighted: By gradients, or plain.
        """
        places = [self._last, *(self._mixed if weighted else ())]
        at_end, *found = gradients(score, places)
        starts = [self._start(piece) for piece in self._pieces(at_end)]
        relevance = [start * 0.0 for start in starts] if weighted else starts
        grads = reversed(found) if weighted else [None] * len(self.blocks)
        for block, qkv, grad in zip(reversed(self.blocks), reversed(self._qkv), grads, strict=True):
            parts = [relevance, starts, self._groups, self._pieces(qkv)]
            parts.append(self._pieces(grad) if weighted else [None] * len(starts))
            relevance = [_step(block.attn, *part) for part in zip(*parts, strict=True)]
        if at_end.ndim == 3:
            return relevance[0]
        return paddle.concat([piece.flatten() for piece in relevance])

    @staticmethod
    def _start(grad_bnc: paddle.Tensor) -> paddle.Tensor:
        length = grad_bnc.norm(axis=-1)
        # A logit that depends on no token has no relevance.
        return length / length.sum(axis=1, keepdim=True).clip(min=1e-30)

    def _pieces(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """The items of a tensor by length, each ``[B, N, ...]``."""
        if x.ndim == 3:
            return [x]
        sizes = [group.count * group.length for group in self._groups]
        return [
            part.reshape([group.count, group.length, -1])
            for part, group in zip(paddle.split(x, sizes), self._groups, strict=True)
        ]


def _step(
    attn: Attention,
    r_bn: paddle.Tensor,
    start_bn: paddle.Tensor,
    group: Group,
    qkv: paddle.Tensor,
    grad: paddle.Tensor | None,
) -> paddle.Tensor:
    """Relevance of a block's output to that of its input, ``[B, N]``; with a gradient beside the start."""
    q, k, v = attn.split(qkv)
    weights = ops.attention_weights(q, k, attn.scale, group.bias)
    if grad is None:
        return 0.5 * (r_bn + _through(r_bn, weights))
    # What stood before the projection is A·v of each head: hence the gradient at A.
    grad = grad.reshape([0, 0, attn.num_heads, attn.head_dim]).transpose([0, 2, 1, 3])
    positive = F.relu(weights * paddle.matmul(grad, v, transpose_y=True))
    return r_bn + _through(start_bn + r_bn, positive)


def _through(r_bn: paddle.Tensor, m_bhnm: paddle.Tensor) -> paddle.Tensor:
    return paddle.matmul(r_bn.unsqueeze(1), m_bhnm.mean(axis=1)).squeeze(1)
