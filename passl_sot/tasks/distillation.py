"""Distillation: a classifier that also learns from another one."""

from typing import Literal

import paddle

from passl_sot.config import ConfigError, Fault, Positive, UnitIntervalByEpoch, value_of_epoch, zh
from passl_sot.data import LabelledImages
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.heads.linear import DistilledHead
from passl_sot.modeling.losses import hard_distillation, soft_distillation
from passl_sot.tasks.base import TASKS, Batch, Settings, placed
from passl_sot.tasks.classification import ClassificationTask
from passl_sot.tasks.teacher import TeacherSection, build_teacher, normalization_of


@TASKS.register()
class DistillationTask(ClassificationTask):
    """Distillation through a token (Touvron et al., arXiv 2012.12877, section 4), by the official formula.

    The class head learns the labels, with the `loss:` section's loss; the distillation head learns the
    outputs of a frozen teacher for the same images, augmented and mixed as the student gets them:
    `(1 - alpha) * loss(class head, labels) + alpha * distillation(distillation head, teacher)`.

    Args:
        teacher: The teacher's config and weights.
        kind: "hard": cross entropy with the teacher's decision, without smoothing. "soft": tau² KL(teacher
            || student) of distributions at temperature tau, divided by batch times classes.
        alpha: Weight of the distillation loss, or a schedule over epochs as in `config.epoch_schedule`.
        tau: Temperature of "soft".
    """

    def __init__(
        self,
        *,
        teacher: TeacherSection,
        kind: Literal["hard", "soft"] = "hard",
        alpha: UnitIntervalByEpoch = 0.5,
        tau: Positive = 1.0,
    ):
        self.alpha = alpha  # the base's constructor asks for epoch 0
        super().__init__()
        self.section = teacher
        if not teacher.weights:
            self.missing = "task.teacher.weights"
        self.kind = kind
        self.tau = tau

    @classmethod
    def complaint(cls, settings: Settings) -> str:
        """As `Task.complaint`."""
        # In evaluation mode the two heads give one mean of logits, and each needs a loss of its own.
        if settings.training_mode != "eval":
            return ""
        return (
            "training_mode is 'eval', in which the two heads of a distilled model answer as one: take "
            "frozen_batch_norm, or task: null"
        )

    def _faults(self, model: Classifier, train: LabelledImages, val: LabelledImages) -> list[Fault]:
        faults = super()._faults(model, train, val)
        if not isinstance(model.head, DistilledHead):
            message = (
                f"DistillationTask needs a head with a distillation token, and {type(model.head).__name__} "
                "has none: take DistilledHead and a backbone with distilled: true, or write task: null"
                + zh("needs_distilled_head")
            )
            faults.append(Fault("model.head.name", message))
        return faults

    def prepare(self, model: Classifier, train: LabelledImages, settings: Settings) -> None:
        """As `Task.prepare`; builds the teacher."""
        super().prepare(model, train, settings)
        normalization = normalization_of(settings.dataloader.train.dataset)
        try:
            self.teacher = build_teacher(self.section, model, train.class_names, normalization)
        except ConfigError as error:
            # Faults of the teacher's own file know their place already.
            raise placed(error.faults, settings) from error

    def set_epoch(self, epoch: int) -> None:
        """Follows the schedule of alpha."""
        self.share = value_of_epoch("task.alpha", self.alpha, epoch)

    def step(self, model: paddle.nn.Layer, batch: Batch) -> dict[str, paddle.Tensor]:
        """As `Task.step`, with the two losses apart as `base_loss` and `distillation_loss`."""
        cls_logits, dist_logits = model(batch["image"])
        # The same pixels as the student's, mixed and erased: its targets follow the augmentation.
        with paddle.no_grad():
            teacher_logits = self.teacher(batch["image"])
        base = self.loss(cls_logits, batch["label"])
        if self.kind == "hard":
            distillation = hard_distillation(dist_logits, teacher_logits)
        else:
            distillation = soft_distillation(dist_logits, teacher_logits, self.tau)
        total = (1 - self.share) * base + self.share * distillation
        return {"loss": total, "base_loss": base, "distillation_loss": distillation}
