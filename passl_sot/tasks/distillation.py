"""Distillation: a classifier that also learns from another one, its frozen teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import paddle

from passl_sot.config import (
    ConfigError,
    Fault,
    NotEmpty,
    Positive,
    UnitIntervalByEpoch,
    make_section,
    model_config,
    value_of_epoch,
    zh,
)
from passl_sot.data import TRANSFORMS, LabelledImages
from passl_sot.data.schema import DataSection
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.heads.linear import DistilledHead
from passl_sot.modeling.losses import hard_distillation, soft_distillation
from passl_sot.modeling.schema import read_model
from passl_sot.tasks.base import TASKS, Batch, check_card
from passl_sot.tasks.classification import ClassificationTask
from passl_sot.utils.logger import get_logger
from passl_sot.weights import state
from passl_sot.weights.checkpoint import CheckpointError, read_weights

log = get_logger()
_PATH = "task.teacher"


@dataclass(kw_only=True)
class TeacherSection:
    """`teacher:` a model with weights.

    Attributes:
        config: A YAML file (of this project or a run's `config.yaml`) or a model's name; its `model:` section
            counts, and, where the weights are no checkpoint of ours, how it normalizes validation images.
        weights: A checkpoint, `.safetensors` or `.pdparams`; only `--dry-run` does without.
    """

    config: Annotated[str, NotEmpty()]
    weights: Annotated[str, NotEmpty()] | None = None


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
    def complaint(cls, training_mode: str) -> str:
        """As `Task.complaint`."""
        # In evaluation mode the two heads give one mean of logits, and each needs a loss of its own.
        if training_mode != "eval":
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

    def prepare(self, model: Classifier, train: LabelledImages, section: DataSection) -> None:
        """As `Task.prepare`; builds the teacher, and a ConfigError tells how it doesn't fit the student."""
        super().prepare(model, train, section)
        self.teacher = _build_teacher(self.section, model, train.class_names, section.train.dataset)

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


def _build_teacher(
    section: TeacherSection, student: Classifier, class_names: Sequence[str], dataset: Mapping[str, Any]
) -> Classifier:
    """The teacher with its weights, frozen, in evaluation mode; `dataset:` is of the images that both get."""
    if section.weights is None:
        message = (
            f"the recipe learns from a teacher, whose weights are not given: write {_PATH}.weights=FILE (and "
            f"{_PATH}.config, now {section.config!r}), or train without one by task=null"
            + zh("teacher_weights")
        )
        raise ConfigError([Fault(f"{_PATH}.weights", message)])
    teacher = read_model(section.config).build()
    # By the models alone, before weights are read, which may take a while.
    faults = _misfits(teacher, student, section.config)
    if faults:
        raise ConfigError(faults)
    arrays, meta = read_weights(section.weights)
    if meta:
        check_card(section.weights, meta)
    known = meta.get("class_names")
    if known and list(known) != list(class_names):
        raise CheckpointError(
            f"the teacher {section.weights} was trained on the classes {known[:8]}, the data have "
            f"{list(class_names)[:8]}" + zh("teacher_class_names")
        )
    _check_normalization(section, meta.get("preprocessing"), dataset)
    state.load_model(teacher, arrays, str(section.weights))
    teacher.eval()  # for good: the trainer's modes reach the student alone
    for parameter in teacher.parameters():
        parameter.stop_gradient = True
    return teacher


def _normalization(dataset: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std by a `dataset:` section, or a checkpoint's preprocessing; None if it doesn't normalize."""
    for node in (*(dataset.get("transforms") or ()), *(dataset.get("batch_transforms") or ())):
        if node["name"] == "Normalize":
            built = TRANSFORMS.build(node)
            built.fit(dataset.get("channels", 3))
            return built.mean, built.std
    return None


def _check_normalization(
    section: TeacherSection, own: Mapping[str, Any] | None, dataset: Mapping[str, Any]
) -> None:
    """Compares the teacher's own images, by its checkpoint or its config, with those it will get."""
    ours = _normalization(dataset)
    if ours is None:
        return
    key = "weights"
    if not own:
        key = "config"
        data = model_config(section.config).get("dataloader")
        if data is not None:
            own = make_section(DataSection, data).val.dataset
    source = str(getattr(section, key))
    theirs = _normalization(own or {})
    if theirs is None:
        log.warning(
            "%s: neither the weights nor the config %s say how the teacher's images are normalised; see that "
            "it is with mean %s and std %s, as the student's" + zh("teacher_normalization_unknown"),
            _PATH,
            section.config,
            *map(list, ours),
        )
    elif not all(np.allclose(a, b, rtol=0, atol=1e-3) for a, b in zip(theirs, ours, strict=True)):
        message = (
            f"by {source!r} the teacher's images are normalised with mean {list(theirs[0])} and std "
            f"{list(theirs[1])}, the student's (dataloader.train.dataset) with {list(ours[0])} and "
            f"{list(ours[1])}, and both get the same images: give both Normalize of the student's config the "
            "teacher's values, or take another teacher" + zh("teacher_normalization")
        )
        raise ConfigError([Fault(f"{_PATH}.{key}", message)])


def _misfits(teacher: Classifier, student: Classifier, config: str) -> list[Fault]:
    """Both see the same images and name the same classes."""
    faults = []
    if teacher.num_classes != student.num_classes:
        message = (
            f"the teacher {config!r} knows {teacher.num_classes} classes and the student "
            f"{student.num_classes} (model.head.num_classes): take a teacher trained on the same classes"
            + zh("teacher_classes")
        )
        faults.append(Fault(f"{_PATH}.config", message))
    sizes = ["x".join(map(str, model.backbone.img_size)) for model in (teacher, student)]
    channels = [model.backbone.in_chans for model in (teacher, student)]
    inputs = (("of size", sizes, "img_size"), ("with channels", channels, "in_chans"))
    for kind, (theirs, ours), setting in inputs:
        if theirs != ours:
            message = (
                f"the teacher {config!r} takes images {kind} {theirs} and the student {ours} "
                f"(model.architecture.{setting}), and both get the same images: give it a config (with "
                f"_base_) whose model.architecture.{setting} is the student's" + zh("teacher_input")
            )
            faults.append(Fault(f"{_PATH}.config", message))
    return faults
