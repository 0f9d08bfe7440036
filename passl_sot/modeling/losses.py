"""Loss functions of classification. Legend: B batch, K classes."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.config import NonNegative, Registry, Share, zh
from passl_sot.nn.precision import at_least_float32

LOSSES = Registry("loss", "passl_sot.modeling.losses")

ClassWeights = list[NonNegative] | Literal["auto"] | None


class Loss(nn.Layer):
    """Base of all losses: weights of classes, and tuples of logits.

    Args:
        class_weights: One for each class, or none; "auto" is N / (K·n) for a class with n of the N training
            images, so that all classes count alike.
    """

    def __init__(self, class_weights: ClassWeights) -> None:
        super().__init__()
        self.automatic = class_weights == "auto"
        self.weights: paddle.Tensor | None = None
        if class_weights is not None and not self.automatic:
            self.weights = paddle.to_tensor(class_weights, "float32")

    def use_class_counts(self, counts: Sequence[int]) -> None:
        """Told what the training images are; a ValueError if weights are for another number of classes.

        Args:
            counts: Number of images of each class.
        """
        if self.automatic:
            # N / (K·n). A class without images would have infinite weight; it never counts, so any number
            # will do.
            n = np.maximum(np.asarray(counts, np.float64), 1)
            self.weights = paddle.to_tensor(n.sum() / (len(n) * n), "float32")
        elif self.weights is not None and len(self.weights) != len(counts):
            raise ValueError(
                f"has {len(self.weights)} entries for {len(counts)} classes" + zh("class_weights_count")
            )

    def forward(
        self, logits: paddle.Tensor | tuple[paddle.Tensor, ...], target: paddle.Tensor
    ) -> paddle.Tensor:
        """Mean loss over the batch, a scalar; float32 for 16-bit logits.

        Args:
            logits: ``[B, K]``; several in a tuple have their losses added.
            target: Class indices ``[B]`` or soft targets ``[B, K]`` (floats).

        Raises:
            ValueError: Shapes do not fit, or class counts for automatic weights are not known.
        """
        if isinstance(logits, (tuple, list)):
            return sum(self.forward(part, target) for part in logits)
        soft = paddle.is_floating_point(target)
        given = list(target.shape)
        if soft and given != list(logits.shape):
            raise ValueError(f"soft targets must have the shape {list(logits.shape)}, got {given}")
        if not soft and len(given) != 1:
            raise ValueError(f"class indices must have the shape [batch], got {given}")
        if self.automatic and self.weights is None:
            raise ValueError("class_weights 'auto' needs use_class_counts() first")
        logits = at_least_float32(logits)
        if soft:
            return self._of_soft(logits, target.astype(logits.dtype))
        return self._of_classes(logits, target)

    def _of_soft(self, logits_bk: paddle.Tensor, target_bk: paddle.Tensor) -> paddle.Tensor:
        raise NotImplementedError

    def _of_classes(self, logits_bk: paddle.Tensor, label_b: paddle.Tensor) -> paddle.Tensor:
        raise NotImplementedError


@LOSSES.register()
class CrossEntropyLoss(Loss):
    """Softmax cross entropy, as timm's recipes use it, with class weights as in PyTorch; see ``Loss``.

    Class indices are smoothed: (1-ε)·(-log p_y) + ε·mean over classes of (-log p). With weights, -log p of
    each class is multiplied by the class's; with class indices the sum over the batch is divided by the
    sum of the labels' weights, with soft targets by B. ``label_smoothing`` is ε.
    """

    def __init__(self, *, label_smoothing: Share = 0.0, class_weights: ClassWeights = None) -> None:
        super().__init__(class_weights)
        self.label_smoothing = label_smoothing

    def _of_soft(self, logits_bk: paddle.Tensor, target_bk: paddle.Tensor) -> paddle.Tensor:
        # Not smoothed: mixup smooths when it mixes, and smoothing twice is a usual mistake.
        log_p = F.log_softmax(logits_bk, axis=-1)
        if self.weights is not None:
            log_p = log_p * self.weights.astype(log_p.dtype)
        return -(target_bk * log_p).sum(axis=-1).mean()

    def _of_classes(self, logits_bk: paddle.Tensor, label_b: paddle.Tensor) -> paddle.Tensor:
        if self.weights is not None:
            weights = self.weights.astype(logits_bk.dtype)
            target = _smoothed(label_b, logits_bk, self.label_smoothing)
            # Every class's term is weighted by its own weight, and the whole divided by the labels': as
            # PyTorch smooths with weights.
            total = -(target * F.log_softmax(logits_bk, axis=-1) * weights).sum()
            return total / paddle.gather(weights, label_b).sum()
        loss = F.cross_entropy(logits_bk, label_b)
        if self.label_smoothing:
            # The mean of -log p over the classes is logsumexp(x) - mean(x).
            even = (paddle.logsumexp(logits_bk, axis=-1) - logits_bk.mean(axis=-1)).mean()
            loss = (1.0 - self.label_smoothing) * loss + self.label_smoothing * even
        return loss


@LOSSES.register()
class MeanSquaredErrorLoss(Loss):
    """The mean square of the differences between outputs ``[B, K]`` and numbers of the same shape."""

    def __init__(self) -> None:
        super().__init__(None)

    def _of_soft(self, logits_bk: paddle.Tensor, target_bk: paddle.Tensor) -> paddle.Tensor:
        return F.mse_loss(logits_bk, target_bk)

    def _of_classes(self, logits_bk: paddle.Tensor, label_b: paddle.Tensor) -> paddle.Tensor:
        raise ValueError("MeanSquaredErrorLoss takes numbers, not classes: write CrossEntropyLoss")


@LOSSES.register()
class BinaryCrossEntropyLoss(Loss):
    """Sigmoid cross entropy: each class is a yes-or-no question; the mean over batch and classes.

    For several labels per image, and for one as in "ResNet strikes back" (arXiv 2110.00476) and DeiT III
    (arXiv 2204.07118), which count every class in a mixture as present: ``target_threshold: 0.0``.

    Args:
        label_smoothing: ε of class indices; they become 1-ε+ε/K and ε/K, as in timm. Soft targets are taken
            as they are.
        target_threshold: Targets above it become 1, others 0; None leaves them.
        sum_classes: Add the classes' losses up instead of taking their mean.
    """

    def __init__(
        self,
        *,
        label_smoothing: Share = 0.0,
        target_threshold: Share | None = None,
        sum_classes: bool = False,
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__(class_weights)
        self.label_smoothing = label_smoothing
        self.target_threshold = target_threshold
        self.sum_classes = sum_classes

    def _of_soft(self, logits_bk: paddle.Tensor, target_bk: paddle.Tensor) -> paddle.Tensor:
        if self.target_threshold is not None:
            target_bk = (target_bk > self.target_threshold).astype(logits_bk.dtype)
        loss = F.binary_cross_entropy_with_logits(logits_bk, target_bk, reduction="none")
        if self.weights is not None:
            loss = loss * self.weights.astype(loss.dtype)
        if self.sum_classes:
            return loss.sum(axis=-1).mean()
        return loss.mean()

    def _of_classes(self, logits_bk: paddle.Tensor, label_b: paddle.Tensor) -> paddle.Tensor:
        return self._of_soft(logits_bk, _smoothed(label_b, logits_bk, self.label_smoothing))


def _smoothed(label_b: paddle.Tensor, logits_bk: paddle.Tensor, smoothing: float) -> paddle.Tensor:
    classes = logits_bk.shape[-1]
    target = F.one_hot(label_b, classes).astype(logits_bk.dtype)
    return target * (1.0 - smoothing) + smoothing / classes


def hard_distillation(logits: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    """Cross entropy of logits with a teacher's decisions, ``[B, K]`` both (arXiv 2012.12877, equation 3)."""
    return F.cross_entropy(at_least_float32(logits), teacher.argmax(axis=-1))


def soft_distillation(logits: paddle.Tensor, teacher: paddle.Tensor, tau: float) -> paddle.Tensor:
    """τ² KL(teacher ‖ student) at temperature τ, by logits ``[B, K]`` (arXiv 2012.12877, equation 2)."""
    log_q = F.log_softmax(at_least_float32(logits) / tau, axis=-1)
    log_p = F.log_softmax(at_least_float32(teacher) / tau, axis=-1)
    # A mean over B·K, where the equation means one over B: as DeiT's code does.
    return (log_p.exp() * (log_p - log_q)).mean() * tau**2
