"""Relevance by what attention layers weigh: Grad-SAM, and the plain roll-out.

* Grad-SAM (Barkan, Hauon, Caciularu, Katz, Malkiel, Armstrong and Koenigstein, "Grad-SAM: Explaining
  Transformers via Gradient Self-Attention Maps", CIKM 2021, arXiv 2204.11073): attention weights A times
  the positive part of their gradient ∂logit/∂A; the mean over the heads, summed over queries and layers.
  Each layer's sum lies on the grid of its own stage; they are added on the finest, where a coarser token's
  score is spread over its area.
* Roll-out (Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv 2005.00928):
  from the last block to the first the relevance r of tokens becomes (r + r·M) / 2, where M is the mean of A
  over the heads. It starts from the tokens that the head reads, each by the length of the logit's gradient
  there: the class token alone for a head on it, all words alike for one on their mean. Of the class it
  knows no more than that.

The weights are computed anew from what layers record of queries and keys, so that the ordinary way stays as
it is, fused kernels too.

Legend: B batch, N tokens, C width, h heads; of texts without padding M tokens of all.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.modeling.backbones.base import Backbone, Grid, ImageBackbone
from passl_sot.nn import ops
from passl_sot.nn.block import Attention
from passl_sot.vis.gradients import Leaf, gradients


class _Call(NamedTuple):
    """One call of a layer's attention: of all its tokens, or of the texts of one length among them.

    Attributes:
        layer: The layer.
        qkv: Queries, keys and values ``[B, N, 3·C]``.
        bias: See `ops.attention`.
        out: Values by attention weights ``[B, N, C]``, before the projection.
    """

    layer: Attention
    qkv: paddle.Tensor
    bias: paddle.Tensor | None
    out: paddle.Tensor

    def weights(self) -> paddle.Tensor:
        """``[B, h, N, N]``."""
        q, k, _ = self.layer.split(self.qkv)
        return ops.attention_weights(q, k, self.layer.scale, self.bias)

    def grad_of_weights(self, grad_of_out: paddle.Tensor) -> paddle.Tensor:
        """``[B, h, N, N]``."""
        shape = [0, 0, self.layer.num_heads, self.layer.head_dim]
        grad = grad_of_out.reshape(shape).transpose([0, 2, 1, 3])
        return paddle.matmul(grad, self.layer.split(self.qkv)[2], transpose_y=True)


class Attentions:
    """What a backbone's attention layers compute in one forward pass.

    Args:
        backbone: One with such layers.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._layers = backbone.attentions()
        self._calls: list[list[_Call]] = [[] for _ in self._layers]
        self._last: paddle.Tensor

    @contextmanager
    def recording(self) -> Iterator[None]:
        """A block in which the model is to be called, once."""
        hooks = [Leaf().before(self._layers[0][1])]
        if hasattr(self.backbone, "blocks"):
            hooks.append(self.backbone.blocks[-1].register_forward_post_hook(self._end))
        try:
            for (_, layer), calls in zip(self._layers, self._calls, strict=True):
                layer.recorder = _recorder(layer, calls)
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for _, layer in self._layers:
                layer.recorder = None

    def _end(self, layer: nn.Layer, inputs: tuple, output: paddle.Tensor) -> None:
        self._last = output

    @paddle.no_grad()
    def grad_sam(self, score: paddle.Tensor) -> paddle.Tensor:
        """Scores of words, of images on the finest grid ``[B, H, W]``; of texts of all tokens ``[M]``.

        Args:
            score: Sum of a logit of each item.
        """
        grads = iter(gradients(score, [call.out for calls in self._calls for call in calls]))
        found = []
        for calls in self._calls:
            found.append([_positive(call, next(grads)) for call in calls])
        if not isinstance(self.backbone, ImageBackbone):
            return paddle.add_n([_flat(parts) for parts in found])
        finest = self.backbone.grids[self._layers[0][0]]
        maps = []
        for (stage, layer), parts in zip(self._layers, found, strict=True):
            grid = self.backbone.grids[stage]
            scores = self._as_map(layer.in_order(parts[0].unsqueeze(-1)).squeeze(-1), grid)
            if grid != finest:
                scores = F.interpolate(scores.unsqueeze(1), finest, mode="bilinear").squeeze(1)
            maps.append(scores * (math.prod(grid) / math.prod(finest)))
        return paddle.add_n(maps)

    @paddle.no_grad()
    def rollout(self, score: paddle.Tensor) -> paddle.Tensor:
        """The same by roll-out; the backbone has ``blocks`` of attention among all tokens."""
        (grad,) = gradients(score, [self._last])
        lengths = grad.norm(axis=-1)
        sizes = [call.out.shape[:2] for call in self._calls[-1]]
        starts = lengths.flatten().split([math.prod(size) for size in sizes])
        found = []
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            r = start.reshape(size)
            # A logit that depends on no token has no relevance.
            r = r / r.sum(axis=1, keepdim=True).clip(min=1e-30)
            for calls in reversed(self._calls):
                weights = calls[i].weights().mean(axis=1)
                r = 0.5 * (r + paddle.matmul(r.unsqueeze(1), weights).squeeze(1))
            found.append(r)
        if isinstance(self.backbone, ImageBackbone):
            return self._as_map(found[0], self.backbone.grid_size)
        return _flat(found)

    def _as_map(self, scores_bn: paddle.Tensor, grid: Grid) -> paddle.Tensor:
        return scores_bn[:, self.backbone.num_prefix_tokens :].reshape([-1, *grid])


def _recorder(layer: Attention, calls: list[_Call]) -> Callable[..., None]:
    def record(qkv: paddle.Tensor, bias: paddle.Tensor | None, out: paddle.Tensor) -> None:
        calls.append(_Call(layer, qkv.detach(), bias, out))

    return record


def _positive(call: _Call, grad_of_out: paddle.Tensor) -> paddle.Tensor:
    """Of each token what queries get from it that speaks for the class, ``[B, N]``."""
    positive = F.relu(call.grad_of_weights(grad_of_out))
    return (call.weights() * positive).mean(axis=1).sum(axis=1)


def _flat(parts: Sequence[paddle.Tensor]) -> paddle.Tensor:
    return paddle.concat([part.flatten() for part in parts])
