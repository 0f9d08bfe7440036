"""The head of distilled models (Touvron et al., "Training data-efficient image transformers & distillation
through attention", arXiv 2012.12877)."""

import paddle

from passl_sot.config import Count, Natural
from passl_sot.modeling.heads import HEADS
from passl_sot.modeling.heads.base import Head, LinearInit
from passl_sot.nn.initializers import linear, torch_default_


@HEADS.register()
class DistilledHead(Head):
    """A Linear on the class token, and another on the distillation token behind it.

    For arguments see ``Head`` and ``LinearHead``; a ValueError for fewer than two prefix tokens.
    """

    def __init__(
        self,
        *,
        num_classes: Count,
        in_channels: Count,
        num_prefix_tokens: Natural = 2,
        init: LinearInit = "trunc_normal",
    ) -> None:
        super().__init__(num_classes, in_channels, num_prefix_tokens)
        if num_prefix_tokens < 2:
            raise ValueError(
                f"DistilledHead: needs a class token and a distillation token, got num_prefix_tokens "
                f"{num_prefix_tokens}; choose LinearHead for one token"
            )
        self.init = init
        self.reset_classifier(num_classes)

    def _add_classifier(self) -> None:
        self.head = linear(self.in_channels, self.num_classes)
        self.head_dist = linear(self.in_channels, self.num_classes)
        if self.init == "torch":
            torch_default_(self)

    def forward_parts(self, x_bnc: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens ``[B, P+N, C]`` to the logits ``[B, K]`` of the class and the distillation token."""
        self.check_tokens(x_bnc, pooled_allowed=False)
        return self.head(x_bnc[:, 0]), self.head_dist(x_bnc[:, 1])

    def forward(self, x_bnc: paddle.Tensor) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens ``[B, P+N, C]`` to logits ``[B, K]``; while training to those of both tokens."""
        cls_logits, dist_logits = self.forward_parts(x_bnc)
        # Each learns from its own target, the second from a teacher's decisions; in evaluation both answer,
        # and their mean counts.
        if self.training:
            return cls_logits, dist_logits
        return (cls_logits + dist_logits) / 2
