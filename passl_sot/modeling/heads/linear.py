"""The plain heads: a Linear on a token or the mean of the words, BERT's, and one on each prefix token."""

from typing import Literal

import paddle
from paddle import nn

from passl_sot.config import Count, Natural, Share
from passl_sot.modeling.heads import HEADS
from passl_sot.modeling.heads.base import Head, LinearInit
from passl_sot.nn.initializers import linear, torch_default_
from passl_sot.nn.second_order import masked_mean


@HEADS.register()
class LinearHead(Head):
    """Dropout and one Linear on a pooled token.

    Other arguments are those of ``Head``.

    Args:
        pool: "token" takes the first prefix token, and a ValueError if there is none; "mean" averages the
            word tokens.
        dropout: Dropout on the pooled features.
        init: How the Linear starts: "trunc_normal" (std 0.02, zero bias) or "torch" (PyTorch's default).
    """

    last_layers = ("fc",)

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

    def forward(self, x: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """Args: x: tokens ``[B, P+N, C]``, or pooled ``[B, C]``. Returns: logits ``[B, K]``."""
        pooled = self.pre_logits(x, mask_bn)
        return self.fc(pooled) if self.num_classes else pooled

    @property
    def pooling(self) -> str:
        """See `Head.pooling`."""
        return {"token": "class token", "mean": "mean of words"}[self.pool]

    def pre_logits(self, x: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """See `Head.pre_logits`; the pooled token, ``[B, C]``."""
        self.check_tokens(x, pooled_allowed=True)
        if x.ndim == 3 and self.pool == "token":
            x = x[:, 0]
        elif x.ndim == 3:
            words = None if mask_bn is None else mask_bn[:, self.num_prefix_tokens :]
            x = masked_mean(x[:, self.num_prefix_tokens :], words)
        return self.drop(x)


@HEADS.register()
class PoolerHead(Head):
    """BERT's head: the class token through a Linear and tanh (the pooler), dropout, and a last Linear.

    Other arguments are those of ``Head``; a ValueError without a class token.

    Args:
        dropout: Dropout before the last Linear.
        input_dropout: Dropout before the pooler, as RoBERTa's head has it, too.
    """

    last_layers = ("fc",)

    def __init__(
        self,
        *,
        num_classes: Count,
        in_channels: Count,
        num_prefix_tokens: Natural = 1,
        dropout: Share = 0.1,
        input_dropout: Share = 0.0,
    ) -> None:
        super().__init__(num_classes, in_channels, num_prefix_tokens)
        if num_prefix_tokens == 0:
            raise ValueError("PoolerHead: needs a class token; choose LinearHead with pool: mean")
        self.input_drop = nn.Dropout(input_dropout)
        self.dense = linear(in_channels, in_channels)
        self.drop = nn.Dropout(dropout)
        self.reset_classifier(num_classes)

    def _add_classifier(self) -> None:
        self.fc = linear(self.in_channels, self.num_classes)

    @property
    def pooling(self) -> str:
        """See `Head.pooling`."""
        return "class token through the pooler"

    def pre_logits(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """See `Head.pre_logits`; the pooler's output, ``[B, C]``."""
        self.check_tokens(x_bnc, pooled_allowed=False)
        return self.drop(paddle.tanh(self.dense(self.input_drop(x_bnc[:, 0]))))

    def forward(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """Tokens ``[B, P+N, C]`` to logits ``[B, K]``."""
        pooled = self.pre_logits(x_bnc, mask_bn)
        return self.fc(pooled) if self.num_classes else pooled


@HEADS.register()
class DistilledHead(Head):
    """A Linear on the class token, and another on the distillation token behind it (arXiv 2012.12877).

    Other arguments are those of ``Head``; a ValueError for fewer than two prefix tokens.

    Args:
        init: As of ``LinearHead``.
    """

    last_layers = ("head", "head_dist")

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

    @property
    def pooling(self) -> str:
        """See `Head.pooling`."""
        return "mean of class and distillation token"

    def pre_logits(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """See `Head.pre_logits`; the mean of both tokens, ``[B, C]``, as in timm."""
        self.check_tokens(x_bnc, pooled_allowed=False)
        return (x_bnc[:, 0] + x_bnc[:, 1]) / 2

    def forward_parts(self, x_bnc: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens ``[B, P+N, C]`` to the logits ``[B, K]`` of the class and the distillation token."""
        self.check_tokens(x_bnc, pooled_allowed=False)
        return self.head(x_bnc[:, 0]), self.head_dist(x_bnc[:, 1])

    def forward(
        self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None
    ) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens ``[B, P+N, C]`` to logits ``[B, K]``; while training to those of both tokens."""
        if not self.num_classes:
            return self.pre_logits(x_bnc)
        cls_logits, dist_logits = self.forward_parts(x_bnc)
        # Each learns from its own target, the second from a teacher's decisions; in evaluation both answer,
        # and their mean counts.
        if self.training:
            return cls_logits, dist_logits
        return (cls_logits + dist_logits) / 2
