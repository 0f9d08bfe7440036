"""The head of distilled models: a Linear each on the class and on the distillation token.

DeiT (arXiv 2012.12877, section 4): the second token learns from a teacher's predictions, and
both classifiers agree by averaging when the model is used.

Legend: B batch, P prefix tokens, N word tokens, C width, K classes.
"""

import paddle

from passl_sot.modeling.heads import HEADS
from passl_sot.modeling.heads.base import Head
from passl_sot.nn.initializers import linear

__all__ = ["DistilledHead"]


@HEADS.register()
class DistilledHead(Head):
    """Class token and distillation token, classified apart.

    Args:
        num_classes: Number K of classes.
        in_channels: Width C of the tokens.
        num_prefix_tokens: Number P of tokens before the words: the class token, then the
            distillation token.

    Raises:
        ValueError: There are not two prefix tokens.
    """

    def __init__(self, *, num_classes: int, in_channels: int, num_prefix_tokens: int = 2) -> None:
        super().__init__(num_classes, in_channels, num_prefix_tokens)
        if num_prefix_tokens < 2:
            raise ValueError(
                "DistilledHead classifies a class token and a distillation token, but num_prefix_tokens is "
                f"{num_prefix_tokens}"
            )
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace both Linears by new ones for ``num_classes`` classes."""
        self._set_num_classes(num_classes)
        self.head = linear(self.in_channels, num_classes)
        self.head_dist = linear(self.in_channels, num_classes)

    def forward_parts(self, x_bnc: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Logits ``[B, K]`` by the class token and by the distillation token.

        Args:
            x_bnc: Tokens ``[B, P+N, C]``.
        """
        self.check_tokens(x_bnc, pooled_allowed=False)
        return self.head(x_bnc[:, 0]), self.head_dist(x_bnc[:, 1])

    def forward(self, x_bnc: paddle.Tensor) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens ``[B, P+N, C]`` to logits: both while training, their mean ``[B, K]`` otherwise."""
        by_class, by_teacher = self.forward_parts(x_bnc)
        return (by_class, by_teacher) if self.training else (by_class + by_teacher) / 2
