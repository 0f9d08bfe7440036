"""What a training step computes. Another objective is another task, not a flag in the loop.

A task is configured from YAML (`task:`; left out, it is `ClassificationTask`), prepared with what the run has
built, and then called with the model and a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Protocol

import paddle

from passl_sot.config import NotEmpty, Positive
from passl_sot.config.chinese import zh
from passl_sot.config.epoch_schedule import NonNegativeByEpoch, UnitIntervalByEpoch, value_of_epoch
from passl_sot.config.loader import Config, ConfigError, Fault
from passl_sot.config.registry import Registry
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.heads.distilled import DistilledHead
from passl_sot.modeling.losses import LOSSES, hard_distillation, soft_distillation
from passl_sot.tasks.teacher import Normalization, TeacherSection, build_teacher, normalization_of
from passl_sot.utils.logger import get_logger

log = get_logger()
TASKS = Registry("task", "passl_sot.tasks")


class Task(Protocol):
    """What the trainer needs of a task.

    Attributes:
        missing: Path of a setting that training needs and the config leaves empty; "" where none is.
    """

    missing: str

    def prepare(
        self,
        loss,
        model: Classifier,
        class_names: Sequence[str] | None,
        normalization: Normalization | None,
    ) -> None:
        """Takes what the run has built (see `build_task`), and how its training images are normalised."""

    def set_epoch(self, epoch: int) -> None:
        """Told before each epoch, counted from 0; for what follows a schedule."""

    def __call__(self, model: paddle.nn.Layer, batch: dict) -> dict[str, paddle.Tensor]:
        """One forward pass of `model`, which may be wrapped for several processes.

        Args:
            model: Maps [B, 3, H, W] to logits.
            batch: `image` [B, 3, H, W] float32, and `label` int64 [B] or soft targets float32 [B, K].

        Returns:
            Named scalars; `loss` is the one to differentiate, others are logged.
        """


def build_task(
    cfg: Config,
    model: Classifier,
    class_names: Sequence[str] | None = None,
    *,
    class_counts: Sequence[int] | None = None,
    trial: bool = False,
) -> Task:
    """Builds the task that an experiment's `task:` and `loss:` describe.

    Args:
        cfg: A checked experiment.
        model: The model to be trained, without any wrapper.
        class_names: Classes of the data in label order, where they are known.
        class_counts: Training images of each class, where they are known; for the loss's class weights.
        trial: For an estimate: take `ClassificationTask` where something that training needs is missing.

    Raises:
        ConfigError: The task doesn't fit the model, or the loss the data.
        CheckpointError: A teacher's weights can't be read or don't fit.
    """
    node: Mapping[str, Any] = cfg.get("task") or {"name": "ClassificationTask"}
    task: Task = TASKS.build(node)
    if trial and task.missing:
        log.warning("%s is not given: the estimate is for training without it", task.missing)
        task = ClassificationTask()
    loss = LOSSES.build(cfg.loss)
    if class_counts is not None:
        try:
            loss.use_class_counts(class_counts)
        except ValueError as error:
            where = cfg.origin_of("loss", "class_weights")
            raise ConfigError([Fault("loss.class_weights", str(error), where)]) from error
    try:
        task.prepare(loss, model, class_names, normalization_of(cfg.dataloader.train.dataset))
    except ConfigError as error:
        placed = [replace(f, origin=f.origin or cfg.origin_of(*f.path.split("."))) for f in error.faults]
        raise ConfigError(placed) from error
    return task


@TASKS.register()
class ClassificationTask:
    """Images to logits to the `loss:` section's loss.

    A head with several outputs (`fusion_type: sum_loss`, `DistilledHead`) has their losses added.

    Args:
        weights: What the loss of each output is multiplied by: a number, or a schedule over epochs as in
            `config.epoch_schedule`; null adds them as they are. The log then also has each loss.
    """

    missing = ""

    def __init__(self, *, weights: Annotated[list[NonNegativeByEpoch], NotEmpty()] | None = None):
        self.weights = weights
        self.set_epoch(0)

    def prepare(
        self,
        loss,
        model: Classifier,
        class_names: Sequence[str] | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        """As `Task.prepare`."""
        self.loss = loss

    def set_epoch(self, epoch: int) -> None:
        """Follows the schedules of the weights."""
        self.now = [value_of_epoch("task.weights", weight, epoch) for weight in self.weights or ()]

    def __call__(self, model: paddle.nn.Layer, batch: dict) -> dict[str, paddle.Tensor]:
        """As `Task.__call__`.

        Raises:
            ConfigError: There are more or fewer weights than outputs.
        """
        logits = model(batch["image"])
        if not self.now:
            return {"loss": self.loss(logits, batch["label"])}
        parts = logits if isinstance(logits, (tuple, list)) else [logits]
        if len(parts) != len(self.now):
            message = f"has {len(self.now)} entries, and the head gives {len(parts)} outputs" + zh(
                "weights_count"
            )
            raise ConfigError([Fault("task.weights", message)])
        losses = [self.loss(part, batch["label"]) for part in parts]
        total = sum(weight * loss for weight, loss in zip(self.now, losses, strict=True))
        return {"loss": total, **{f"loss_{i}": loss for i, loss in enumerate(losses)}}


@TASKS.register()
class DistillationTask:
    """Distillation through a token (Touvron et al., arXiv 2012.12877, section 4), by the official formula.

    The class head learns the labels, with the `loss:` section's loss; the distillation head learns what a
    frozen teacher makes of the same images, augmented and mixed as the student gets them:
    `(1 - alpha) * loss(class head, labels) + alpha * distillation(distillation head, teacher)`.

    Args:
        teacher: The teacher's config and weights.
        kind: "hard": cross entropy with the teacher's decision, without smoothing. "soft": tau² KL(teacher
            || student) of distributions at temperature tau, divided by batch times classes.
        alpha: Share of the distillation loss, or a schedule over epochs as in `config.epoch_schedule`.
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
        self.section = teacher
        self.missing = "" if teacher.weights else "task.teacher.weights"
        self.kind = kind
        self.alpha = alpha
        self.tau = tau
        self.set_epoch(0)

    def prepare(
        self,
        loss,
        model: Classifier,
        class_names: Sequence[str] | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        """Builds the teacher; as `Task.prepare`.

        Raises:
            ConfigError: The head isn't `DistilledHead`, or the teacher doesn't fit the student.
            CheckpointError: The teacher's weights can't be read, don't fit or are of other classes.
        """
        if not isinstance(model.head, DistilledHead):
            message = (
                f"DistillationTask needs a head with a distillation token, and {type(model.head).__name__} "
                "has none: take DistilledHead and a backbone with distilled: true, or write task: null"
                + zh("needs_distilled_head")
            )
            raise ConfigError([Fault("model.head.name", message)])
        self.loss = loss
        self.teacher = build_teacher(self.section, model, class_names, normalization)

    def set_epoch(self, epoch: int) -> None:
        """Follows the schedule of alpha."""
        self.share = value_of_epoch("task.alpha", self.alpha, epoch)

    def __call__(self, model: paddle.nn.Layer, batch: dict) -> dict[str, paddle.Tensor]:
        """As `Task.__call__`, with the two losses apart as `base_loss` and `distillation_loss`."""
        by_class, by_teacher = model(batch["image"])
        with paddle.no_grad():
            taught = self.teacher(batch["image"])
        base = self.loss(by_class, batch["label"])
        if self.kind == "hard":
            distillation = hard_distillation(by_teacher, taught)
        else:
            distillation = soft_distillation(by_teacher, taught, self.tau)
        total = (1 - self.share) * base + self.share * distillation
        return {"loss": total, "base_loss": base, "distillation_loss": distillation}
