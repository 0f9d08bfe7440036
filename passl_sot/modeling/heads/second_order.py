"""Second-order heads: classify by the class token and by pooled word tokens, which keep detail it misses.

SoT (arXiv 2104.10935, section 3.2) pools the words by multi-head cross-covariances with
singular-value power normalization, and adds the logits of both.

Differences from the official code: one class serves backbones with and without a class token,
``sum_loss`` adds the logits by itself in evaluation, and combinations that cannot work are refused.

Legend: B batch, P prefix tokens, N word tokens, C width, K classes, h heads, d ``wr_dim``.
"""

import math
from typing import Annotated, Literal

import paddle

from passl_sot.config import Count, Natural
from passl_sot.modeling.heads import HEADS
from passl_sot.modeling.heads.base import FUSED_PARTS, FusedHead, Matrices, Parts
from passl_sot.nn.initializers import linear
from passl_sot.nn.normalization import ISQRTCOV, NORMALIZATIONS, MatrixNorm, SvPN, build_normalization
from passl_sot.nn.second_order import CrossCovariance, MGCrP, covariance, masked_mean


@HEADS.register()
class SecondOrderHead(FusedHead):
    """Class-token logits fused with logits of pooled word tokens; a ValueError if choices exclude each other.

    Other arguments are those of ``Head``.

    Args:
        representation: How words are pooled. "MGCrP" and "GCP": second order; "GAP": mean; "fc": no words,
            the class token goes through a Linear to ``fc_dim`` first; "none": the class token alone.
        fusion_type: "sum_fc" adds the logits of both; "concat" classifies the joined features;
            "sum_loss" trains both logits with a loss each and adds them in evaluation;
            "aggre_all" pools all tokens, prefix included, and uses nothing else; "words" uses the pooled
            words alone.
        num_heads: Heads h of MGCrP; with ``wr_dim`` it also settles the width √(2hd²) of GCP.
        wr_dim: Width d of one MGCrP head.
        qkv_bias: Whether MGCrP's projection has a bias.
        normalization: Normalization of the second-order matrix, a node ``{name: ...}``; null for
            none; "default" for the official one: SvPN for MGCrP, ISQRTCOV for GCP. The other
            representations have no matrix and do not read it.
        num_prefix_tokens: As in ``Head``; with 0 all tokens are pooled and there is no ``cls_fc``.
        fc_dim: Width of the "fc" representation.
        mask_words: Whether words that a mask leaves out, the padding of texts, are kept out of the pooling.
            Without, they are pooled like others, as the authors' text models were trained.
    """

    def __init__(
        self,
        *,
        num_classes: Count,
        in_channels: Count,
        representation: Literal["MGCrP", "GAP", "GCP", "fc", "none"] = "MGCrP",
        fusion_type: Literal["sum_fc", "concat", "sum_loss", "aggre_all", "words"] = "sum_fc",
        num_heads: Count = 6,
        wr_dim: Count = 24,
        qkv_bias: bool = False,
        normalization: Annotated[dict, NORMALIZATIONS] | Literal["default"] | None = "default",
        num_prefix_tokens: Natural = 1,
        fc_dim: Count = 1280,
        mask_words: bool = True,
    ) -> None:
        super().__init__(num_classes, in_channels, num_prefix_tokens)
        self.mask_words = mask_words
        self.representation_name = representation
        self.fusion_type = fusion_type
        self._check_choices()
        word_dim = 0
        cls_dim = in_channels
        if representation == "MGCrP":
            norm = self._normalization(normalization, wr_dim)
            self.representation = MGCrP(in_channels, num_heads, wr_dim, norm, qkv_bias)
            word_dim = self.representation.out_features
        elif representation == "GCP":
            # So that the upper triangle has about as many entries as h matrices of side d.
            width = math.isqrt(2 * num_heads * wr_dim**2)
            self.dr = linear(in_channels, width)
            self.normalization = self._normalization(normalization, width)
            word_dim = self.normalization.out_features
        elif representation == "GAP":
            word_dim = in_channels
        elif representation == "fc":
            self.dim = linear(in_channels, fc_dim)
            cls_dim = fc_dim
        if fusion_type == "concat":
            word_dim += in_channels
        # With "concat" and "aggre_all" cls_fc exists and gets no gradient, as in the official code.
        self.cls_dim = cls_dim if num_prefix_tokens and fusion_type != "words" else 0
        self.word_dim = word_dim
        # With "aggre_all" one matrix holds both.
        if fusion_type == "concat" or (self.cls_dim and word_dim and fusion_type != "aggre_all"):
            self.parts = FUSED_PARTS
        self.reset_classifier(num_classes)

    def _check_choices(self) -> None:
        name = self.representation_name
        fusion = self.fusion_type
        if name in ("fc", "none"):
            if self.num_prefix_tokens == 0:
                raise ValueError(
                    f"SecondOrderHead: representation '{name}' classifies the class token, and with "
                    "num_prefix_tokens 0 there is none; choose MGCrP, GCP or GAP"
                )
            if fusion != "sum_fc":
                raise ValueError(
                    f"SecondOrderHead: representation '{name}' uses no words, so fusion_type "
                    f"'{fusion}' has nothing to fuse; leave fusion_type at sum_fc"
                )
        elif self.num_prefix_tokens == 0 and fusion != "sum_fc":
            raise ValueError(
                f"SecondOrderHead: fusion_type '{fusion}' needs a class token, and with num_prefix_tokens "
                "0 there is none; leave fusion_type at sum_fc"
            )

    def _normalization(self, cfg: dict | str | None, side: int) -> MatrixNorm:
        gcp = self.representation_name == "GCP"
        if cfg == "default":
            return ISQRTCOV(input_dim=side) if gcp else SvPN(input_dim=side)
        if cfg is None and gcp:
            return MatrixNorm(input_dim=side, vec="triu")  # symmetric: half of it says it all
        norm = build_normalization(cfg, side)
        if isinstance(norm, ISQRTCOV) and not gcp:
            raise ValueError(
                "SecondOrderHead: ISQRTCOV takes the square root of a covariance, and MGCrP gives "
                "cross-covariances, which have none; choose SvPN, or representation GCP"
            )
        return norm

    def pool(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """Pooled words (all tokens for "aggre_all"), ``[B, features]``."""
        words, mask = self.words(x_bnc, mask_bn, self._first_word)
        if self.representation_name == "GAP":
            return masked_mean(words, mask)
        if self.representation_name == "GCP":
            return self.normalization(covariance(self.dr(words), mask)).astype(x_bnc.dtype)
        return self.representation(words, mask)

    @property
    def _first_word(self) -> int:
        return 0 if self.fusion_type == "aggre_all" else self.num_prefix_tokens

    def matrices(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> Matrices | None:
        """See `Head.matrices`: h of MGCrP, one of GCP."""
        words, mask = self.words(x_bnc, mask_bn, self._first_word)
        if self.representation_name == "MGCrP":
            before = self.representation.matrices(words, mask)
            norm = self.representation.norm
        elif self.representation_name == "GCP":
            before = covariance(self.dr(words), mask).unsqueeze(1)
            norm = self.normalization
        else:
            return None
        return Matrices(before, norm.matrix(before.flatten(0, 1)).reshape(before.shape), norm)

    def features(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> Parts:
        """See `FusedHead.features`; with "concat", "aggre_all" and "words" the second is all there is."""
        self.check_tokens(x_bnc, pooled_allowed=False)
        if self.representation_name == "none":
            return x_bnc[:, 0], None
        if self.representation_name == "fc":
            return self.dim(x_bnc[:, 0]), None
        pooled = self.pool(x_bnc, mask_bn)
        if self.fusion_type == "concat":
            return None, paddle.concat([x_bnc[:, 0], pooled], axis=1)
        if self.fusion_type in ("aggre_all", "words") or self.num_prefix_tokens == 0:
            return None, pooled
        return x_bnc[:, 0], pooled

    def forward_part(
        self, part: str, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None
    ) -> paddle.Tensor:
        """See `FusedHead.forward_part`; with "concat" the bias is in neither part."""
        if self.fusion_type != "concat" or part not in self.parts:
            return super().forward_part(part, x_bnc, mask_bn)
        # The class token's features come first.
        rows = slice(self.in_channels) if part == "ClassT" else slice(self.in_channels, None)
        return paddle.matmul(self.pre_logits(x_bnc, mask_bn)[:, rows], self.visual_fc.weight[rows])

    def forward(
        self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None
    ) -> paddle.Tensor | tuple[paddle.Tensor, ...]:
        """Tokens ``[B, P+N, C]`` to logits ``[B, K]``; in training with "sum_loss" to both parts."""
        if self.fusion_type == "sum_loss" and self.training and self.num_classes:
            return self.forward_parts(x_bnc, mask_bn)
        return super().forward(x_bnc, mask_bn)


@HEADS.register()
class CrossCovarianceHead(FusedHead):
    """The head of So-ViT, the first version of SoT (arXiv 2104.10935v1, official commit c2d076e).

    Its matrix is a single cross-covariance between two reductions; a ValueError for choices that do not fit.

    Other arguments are those of ``Head``.

    Args:
        reduction: Their widths a and b.
        normalization: Normalization of the ``[b, a]`` matrix, a node ``{name: ...}``; null for none.
            It must suit a matrix that is not square: SvPN (the official one), EPN, SqrtD, SqrtT, LN.
        num_prefix_tokens: As in ``Head``; with 0 all tokens are pooled and there is no ``cls_fc``.
        mask_words: As of ``SecondOrderHead``; BatchNorm then learns from words that count alone.
    """

    def __init__(
        self,
        *,
        num_classes: Count,
        in_channels: Count,
        reduction: list[Count] = (64, 48),
        normalization: Annotated[dict, NORMALIZATIONS] | None = None,
        num_prefix_tokens: Natural = 1,
        mask_words: bool = True,
    ) -> None:
        super().__init__(num_classes, in_channels, num_prefix_tokens)
        self.mask_words = mask_words
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
        if num_prefix_tokens:
            self.parts = FUSED_PARTS
        self.reset_classifier(num_classes)

    def pool(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """Pooled words, ``[B, a·b]``."""
        words, mask = self.words(x_bnc, mask_bn, self.num_prefix_tokens)
        # The power normalization runs on the transposed matrix, as officially: its learned start vector has
        # the length of the first width.
        transposed = self.normalization.matrix(self.representation(words, mask))
        pooled = transposed.transpose([0, 2, 1]).flatten(1).astype(x_bnc.dtype)
        # matrix() leaves out the dropout, which falls on the vector.
        if hasattr(self.normalization, "drop"):
            pooled = self.normalization.drop(pooled)
        return pooled

    def matrices(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> Matrices:
        """See `Head.matrices`: one, ``[b, a]``."""
        before = self.representation(*self.words(x_bnc, mask_bn, self.num_prefix_tokens))
        after = self.normalization.matrix(before)
        return Matrices(before.unsqueeze(1), after.unsqueeze(1), self.normalization)

    def features(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> Parts:
        """See `FusedHead.features`."""
        self.check_tokens(x_bnc, pooled_allowed=False)
        return x_bnc[:, 0] if self.num_prefix_tokens else None, self.pool(x_bnc, mask_bn)
