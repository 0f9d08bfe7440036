"""The plain head: one Linear on the class token or on the mean of the word tokens."""

from typing import Literal

import paddle
from paddle import nn

from passl_sot.config import Count, Natural, Share
from passl_sot.modeling.heads import HEADS
from passl_sot.modeling.heads.base import Head, LinearInit
from passl_sot.nn.initializers import linear, torch_default_


@HEADS.register()
class LinearHead(Head):
    """Dropout and one Linear on a pooled token.

    Args (for the others see ``Head``):
        pool: "token" takes the first prefix token, and a ValueError if there is none; "mean" averages the
            word tokens.
        dropout: Dropout on the pooled features.
        init: How the Linear starts: "trunc_normal" (std 0.02, zero bias) or "torch" (PyTorch's default).
    """

    def __init__(
        self,
        *,
        num_classes: Count,
        in_channels: Count,
        pool: Literal["token", "mean"] = "token",
        num_prefix_tokens: Natural = 1,
        dropout: Share = 0.0,
        init: LinearInit = "trunc_normal",
    ) -> None:
        super().__init__(num_classes, in_channels, num_prefix_tokens)
        if pool == "token" and num_prefix_tokens == 0:
            raise ValueError("LinearHead: pool 'token' needs a class token; write pool: mean")
        self.pool = pool
        self.drop = nn.Dropout(dropout)
        self.init = init
        self.reset_classifier(num_classes)

    def _add_classifier(self) -> None:
        self.fc = linear(self.in_channels, self.num_classes)
        if self.init == "torch":
            torch_default_(self.fc)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: tokens ``[B, P+N, C]``, or pooled ``[B, C]``. Returns: logits ``[B, K]``."""
        self.check_tokens(x, pooled_allowed=True)
        if x.ndim == 3 and self.pool == "token":
            x = x[:, 0]
        elif x.ndim == 3:
            x = x[:, self.num_prefix_tokens :].mean(axis=1)
        return self.fc(self.drop(x))
