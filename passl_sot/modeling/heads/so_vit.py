"""The head of So-ViT, the first version of SoT (arXiv 2104.10935v1).

Like SoT's it adds the logits of the class token and of pooled words, here by a single cross-covariance
between two reductions of different widths. Values are those of jiangtaoxie/SoT, commit c2d076e.

Legend: B batch, P prefix tokens, N word tokens, C width, K classes, a and b the two widths.
"""

from typing import Annotated

import paddle

from passl_sot.config import Count, Natural
from passl_sot.modeling.heads import HEADS
from passl_sot.modeling.heads.base import FusedHead
from passl_sot.nn.normalization import ISQRTCOV, NORMALIZATIONS, build_normalization
from passl_sot.nn.second_order import CrossCovariance


@HEADS.register()
class CrossCovarianceHead(FusedHead):
    """Class-token logits plus logits of the words' normalized cross-covariance; a ValueError for misfits.

    Args (for the others see ``Head``):
        reduction: The two widths a and b.
        normalization: Normalization of the ``[b, a]`` matrix, a node ``{name: ...}``; null for none.
            It must suit a matrix that is not square: SvPN (the official one), EPN, SqrtD, SqrtT, LN.
        num_prefix_tokens: As in ``Head``; with 0 all tokens are pooled and there is no ``cls_fc``.
    """

    def __init__(
        self,
        *,
        num_classes: Count,
        in_channels: Count,
        reduction: list[Count] = (64, 48),
        normalization: Annotated[dict, NORMALIZATIONS] | None = None,
        num_prefix_tokens: Natural = 1,
    ) -> None:
        super().__init__(num_classes, in_channels, num_prefix_tokens)
        if len(reduction) != 2:
            raise ValueError(f"CrossCovarianceHead: reduction is two positive widths, got {list(reduction)}")
        self.representation = CrossCovariance(in_channels, *reduction)
        self.normalization = build_normalization(normalization, reduction[0])
        if isinstance(self.normalization, ISQRTCOV):
            raise ValueError(
                "CrossCovarianceHead: ISQRTCOV takes the square root of a covariance, and a "
                "cross-covariance has none; choose SvPN"
            )
        if self.normalization.vec != "full":
            raise ValueError("CrossCovarianceHead: the matrix is not symmetric; write vec: full")
        self.word_dim = reduction[0] * reduction[1]
        self.cls_dim = in_channels if num_prefix_tokens else 0
        self.reset_classifier(num_classes)

    def pool(self, x_bnc: paddle.Tensor) -> paddle.Tensor:
        """Pooled words, ``[B, a·b]``."""
        # The power normalization runs on the transposed matrix, as officially: its learned start vector has
        # the length of the first width.
        transposed = self.normalization.matrix(self.representation(x_bnc[:, self.num_prefix_tokens :]))
        pooled = transposed.transpose([0, 2, 1]).flatten(1).astype(x_bnc.dtype)
        # matrix() leaves out the dropout, which falls on the vector.
        if hasattr(self.normalization, "drop"):
            pooled = self.normalization.drop(pooled)
        return pooled

    def forward_parts(self, x_bnc: paddle.Tensor) -> tuple[paddle.Tensor | None, paddle.Tensor]:
        """See :meth:`FusedHead.forward_parts`."""
        self.check_tokens(x_bnc, pooled_allowed=False)
        word_logits = self.visual_fc(self.pool(x_bnc))
        if not self.num_prefix_tokens:
            return None, word_logits
        return self.cls_fc(x_bnc[:, 0]), word_logits
