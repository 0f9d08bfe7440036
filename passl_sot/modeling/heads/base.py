"""The contract every head keeps.

Legend: B batch, P prefix tokens, N word tokens, C width, K classes.

Beside tokens ``[B, P+N, C]`` every head takes a mask ``[B, P+N]``, or None: words for which it is false, such
as the padding of texts, are not pooled.
"""

from typing import Literal, NamedTuple

import paddle
from paddle import nn

from passl_sot.nn.initializers import linear
from passl_sot.nn.normalization import MatrixNorm

# How a last layer starts: normal with std 0.02 and zero bias (DeiT), or as PyTorch starts every Linear, for
# models whose authors initialize none (PiT).
LinearInit = Literal["trunc_normal", "torch"]
# By the class token and by words.
Parts = tuple[paddle.Tensor | None, paddle.Tensor | None]


class Matrices(NamedTuple):
    """Second-order matrices of a batch, each float32 ``[B, h, rows, columns]`` of h heads.

    Attributes:
        before: As the words give them.
        after: Normalized, without dropout.
        norm: What normalizes them.
    """

    before: paddle.Tensor
    after: paddle.Tensor
    norm: MatrixNorm


class Head(nn.Layer):
    """Base of all heads: ``forward(tokens)`` gives logits; without last layers, what they would take.

    Args:
        num_classes: Number K of classes.
        in_channels: Width C of the tokens.
        num_prefix_tokens: How many tokens P stand before the words.
    """

    last_layers: tuple[str, ...] = ()  # names of those that depend on K; a head may lack some
    mask_words = True  # whether the mask is obeyed
    parts: tuple[str, ...] = ()  # whose logits can be had alone, by `forward_part`

    def __init__(self, num_classes: int, in_channels: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_prefix_tokens = num_prefix_tokens

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layers by new ones; the rest stays.

        Args:
            num_classes: K, at least 1 (or else a ValueError).
        """
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self._add_classifier()

    def remove_classifier(self) -> None:
        """Take the last layers away: ``forward`` is then ``pre_logits``, and ``num_classes`` 0."""
        if not self.last_layers:
            raise NotImplementedError(f"{type(self).__name__} does not name the layers to take (last_layers)")
        self.num_classes = 0
        for name in self.last_layers:
            if hasattr(self, name):
                delattr(self, name)

    def _add_classifier(self) -> None:
        raise NotImplementedError

    def pre_logits(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """The features ``[B, F]`` that the last layers take.

        Args:
            x_bnc: Tokens ``[B, P+N, C]``.
            mask_bn: Which of them count.
        """
        raise NotImplementedError(f"{type(self).__name__} has no pre_logits")

    def matrices(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> Matrices | None:
        """The second-order matrices by which words are pooled, for pictures; None where there are none.

        Args:
            x_bnc: Tokens ``[B, P+N, C]``.
            mask_bn: Which of them count.
        """
        return None

    def forward_part(
        self, part: str, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None
    ) -> paddle.Tensor:
        """Tokens ``[B, P+N, C]`` to the logits ``[B, K]`` of one of ``parts``; a ValueError for others."""
        raise self.no_part(part)

    def no_part(self, part: str) -> ValueError:
        """The error for a part that this head does not have."""
        name = type(self).__name__
        if self.parts:
            return ValueError(f"{name} has the parts {', '.join(self.parts)}, and no {part!r}")
        return ValueError(
            f"{name} has no part {part!r}, as this one's logits are not a sum of the class token's and the "
            "words': take all of them"
        )

    def check_tokens(self, x: paddle.Tensor, pooled_allowed: bool) -> None:
        """Raise a readable error for an input that is no ``[B, P+N, C]`` (or ``[B, C]``)."""
        pooled = pooled_allowed and x.ndim == 2
        # A traced graph has -1 for a size that it leaves open.
        if (x.ndim != 3 and not pooled) or x.shape[-1] not in (-1, self.in_channels):
            forms = f"[batch, tokens, {self.in_channels}]"
            if pooled_allowed:
                forms += f" or [batch, {self.in_channels}]"
            raise ValueError(f"{type(self).__name__} takes {forms}, got {list(x.shape)}")


# Of heads that add up logits of the class token and of words; SoT's document names them so.
FUSED_PARTS = ("ClassT", "WordT")


class FusedHead(Head):
    """Base of heads that add logits of the class token (``cls_fc``) and of pooled words (``visual_fc``)."""

    last_layers = ("visual_fc", "cls_fc")
    # Features that cls_fc and visual_fc take; with 0 there is no such layer.
    cls_dim: int
    word_dim: int

    def _add_classifier(self) -> None:
        if self.word_dim:
            self.visual_fc = linear(self.word_dim, self.num_classes)
        if self.cls_dim:
            self.cls_fc = linear(self.cls_dim, self.num_classes)

    def words(
        self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None, first: int
    ) -> tuple[paddle.Tensor, paddle.Tensor | None]:
        """The tokens from number ``first`` on, and which of them count where that is asked."""
        if _ends_at(x_bnc, first):
            # Texts without words: a token that doesn't count is what a pooling can take.
            return x_bnc[:, :1] * 0.0, paddle.zeros([x_bnc.shape[0], 1], "bool")
        if mask_bn is None or not self.mask_words:
            return x_bnc[:, first:], None
        return x_bnc[:, first:], mask_bn[:, first:]

    def features(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> Parts:
        """Tokens ``[B, P+N, C]`` to what ``cls_fc`` and ``visual_fc`` take; None for one that isn't asked."""
        raise NotImplementedError

    def pre_logits(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """See `Head.pre_logits`: features of the class token, then those of the words."""
        return paddle.concat([part for part in self.features(x_bnc, mask_bn) if part is not None], axis=1)

    def forward_parts(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> Parts:
        """Tokens ``[B, P+N, C]`` to logits by the class token and by words; each ``[B, K]`` or None."""
        cls_features, word_features = self.features(x_bnc, mask_bn)
        return (
            None if cls_features is None else self.cls_fc(cls_features),
            None if word_features is None else self.visual_fc(word_features),
        )

    def forward_part(
        self, part: str, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None
    ) -> paddle.Tensor:
        """See `Head.forward_part`; "ClassT" and "WordT" add up to what ``forward`` gives."""
        if part not in self.parts:
            raise self.no_part(part)
        return self.forward_parts(x_bnc, mask_bn)[FUSED_PARTS.index(part)]

    def forward(
        self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None
    ) -> paddle.Tensor | tuple[paddle.Tensor, ...]:
        """Tokens ``[B, P+N, C]`` to logits ``[B, K]``."""
        if not self.num_classes:
            return self.pre_logits(x_bnc, mask_bn)
        cls_logits, word_logits = self.forward_parts(x_bnc, mask_bn)
        if cls_logits is None:
            return word_logits
        if word_logits is None:
            return cls_logits
        return cls_logits + word_logits


# Not translated: a graph, which leaves the number of tokens open, would decide anew in every run.
@paddle.jit.not_to_static
def _ends_at(x_bnc: paddle.Tensor, first: int) -> bool:
    return x_bnc.shape[1] == first
