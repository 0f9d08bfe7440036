"""Teachers: frozen models that others learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from passl_sot.engine import state
from passl_sot.engine.checkpoint import CheckpointError, read_weights
from passl_sot.modeling.classifier import Classifier
from passl_sot.utils.config import ConfigError, Fault
from passl_sot.utils.ranges import NotEmpty
from passl_sot.utils.shipped import model_config

_PATH = "task.teacher"


@dataclass(kw_only=True)
class TeacherSection:
    """`teacher:` a model with weights.

    Attributes:
        config: A YAML file (of this project or a run's `config.yaml`) or a model's name; its `model:` section
            counts.
        weights: A checkpoint, `.safetensors` or `.pdparams`; only `--dry-run` does without.
    """

    config: Annotated[str, NotEmpty()]
    weights: Annotated[str, NotEmpty()] | None = None


def build_teacher(
    section: TeacherSection, student: Classifier, class_names: Sequence[str] | None = None
) -> Classifier:
    """The teacher with its weights, frozen, in evaluation mode.

    Args:
        section: What it is.
        student: The model that will learn from it.
        class_names: The student's classes in label order, where they are known.

    Raises:
        ConfigError: No weights are named; or classes, input size or channels differ from the student's.
        CheckpointError: The weights can't be read, don't fit, or belong to other classes.
    """
    if section.weights is None:
        message = (
            f"the recipe learns from a teacher, whose weights are not given: write {_PATH}.weights=FILE (and "
            f"{_PATH}.config, now {section.config!r}), or train without one by task=null / 请提供教师模型权重"
        )
        raise ConfigError([Fault(f"{_PATH}.weights", message)])
    cfg = model_config(section.config)
    teacher = Classifier(architecture=cfg.model.architecture, head=cfg.model.head)
    faults = _misfits(teacher, student, section.config)
    if faults:
        raise ConfigError(faults)
    arrays, meta = read_weights(section.weights)
    known = meta.get("class_names")
    if known and class_names is not None and list(known) != list(class_names):
        raise CheckpointError(
            f"the teacher {section.weights} was trained on the classes {known[:8]}, the data have "
            f"{list(class_names)[:8]} / 教师模型的类别与数据不一致"
        )
    state.load_model(teacher, arrays, str(section.weights))
    teacher.eval()
    for parameter in teacher.parameters():
        parameter.stop_gradient = True
    return teacher


def _misfits(teacher: Classifier, student: Classifier, config: str) -> list[Fault]:
    """Both see the same images and name the same classes."""
    faults = []
    if teacher.num_classes != student.num_classes:
        message = (
            f"the teacher {config!r} knows {teacher.num_classes} classes and the student "
            f"{student.num_classes} (model.head.num_classes): take a teacher trained on the same classes "
            "/ 教师与学生类别数不同"
        )
        faults.append(Fault(f"{_PATH}.config", message))
    for what, theirs, ours, setting in (
        ("of size", _size(teacher), _size(student), "img_size"),
        ("with channels", teacher.backbone.in_chans, student.backbone.in_chans, "in_chans"),
    ):
        if theirs != ours:
            message = (
                f"the teacher {config!r} takes images {what} {theirs} and the student {ours} "
                f"(model.architecture.{setting}), and both get the same images: give it a config (with "
                f"_base_) whose model.architecture.{setting} is the student's / 教师与学生输入不同"
            )
            faults.append(Fault(f"{_PATH}.config", message))
    return faults


def _size(model: Classifier) -> str:
    return "x".join(map(str, model.backbone.img_size))
