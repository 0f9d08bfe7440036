"""Loss functions of classification.

Legend: B batch, K classes.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn.precision import at_least_float32
from passl_sot.utils.ranges import Share
from passl_sot.utils.registry import Registry

__all__ = ["LOSSES", "CrossEntropyLoss", "hard_distillation", "soft_distillation"]

LOSSES = Registry("loss", "passl_sot.modeling.losses")


@LOSSES.register()
class CrossEntropyLoss(nn.Layer):
    """Softmax cross entropy, as timm's recipes use it.

    Class indices are smoothed: (1-ε)·(-log p_y) + ε·mean over classes of (-log p). Soft targets
    are taken as they are: mixup smooths when it mixes, and smoothing twice is a usual mistake.

    Args:
        label_smoothing: ε, in [0, 1).

    Raises:
        ValueError: ε lies outside its range.
    """

    def __init__(self, *, label_smoothing: Share = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(
        self, logits: paddle.Tensor | tuple[paddle.Tensor, ...], target: paddle.Tensor
    ) -> paddle.Tensor:
        """Mean loss over the batch.

        Args:
            logits: ``[B, K]``; several in a tuple have their losses added.
            target: Class indices ``[B]`` (integers), or soft targets ``[B, K]`` (floats).

        Returns:
            A scalar, float32 for 16-bit logits.

        Raises:
            ValueError: The shapes do not fit.
        """
        if isinstance(logits, (tuple, list)):
            return sum(self.forward(part, target) for part in logits)
        logits = at_least_float32(logits)
        if paddle.is_floating_point(target):
            if list(target.shape) != list(logits.shape):
                raise ValueError(
                    f"soft targets must have the shape {list(logits.shape)}, got {list(target.shape)}"
                )
            log_p = F.log_softmax(logits, axis=-1)
            return -(target.astype(log_p.dtype) * log_p).sum(axis=-1).mean()
        if target.ndim != 1:
            raise ValueError(f"class indices must have the shape [batch], got {list(target.shape)}")
        loss = F.cross_entropy(logits, target)
        if self.label_smoothing:
            # The mean of -log p over the classes is logsumexp(x) - mean(x).
            even = (paddle.logsumexp(logits, axis=-1) - logits.mean(axis=-1)).mean()
            loss = (1.0 - self.label_smoothing) * loss + self.label_smoothing * even
        return loss


def hard_distillation(logits: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    """Cross entropy with the teacher's decisions, a scalar (arXiv 2012.12877, equation 3).

    Args:
        logits: The student's ``[B, K]``.
        teacher: The teacher's ``[B, K]``.
    """
    return F.cross_entropy(at_least_float32(logits), teacher.argmax(axis=-1))


def soft_distillation(logits: paddle.Tensor, teacher: paddle.Tensor, tau: float) -> paddle.Tensor:
    """τ² KL(teacher ‖ student) at temperature τ, a scalar (arXiv 2012.12877, equation 2).

    The sum over the batch is divided by B·K, not by B, as DeiT's code does.

    Args:
        logits: The student's ``[B, K]``.
        teacher: The teacher's ``[B, K]``.
        tau: Temperature τ.
    """
    log_q = F.log_softmax(at_least_float32(logits) / tau, axis=-1)
    log_p = F.log_softmax(at_least_float32(teacher) / tau, axis=-1)
    return (log_p.exp() * (log_p - log_q)).mean() * tau**2
