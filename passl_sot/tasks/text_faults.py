"""Where texts, model and loss contradict each other, told before training begins."""

from typing import Any

from passl_sot.config import Fault, zh
from passl_sot.modeling.backbones.text_backbone import TextBackbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.losses import MeanSquaredErrorLoss


def find_faults(task: Any, model: Classifier, train: Any, val: Any) -> list[Fault]:
    """What keeps a model from being trained on texts by a task."""
    faults = [*input_faults("train", model, train), *input_faults("val", model, val)]
    faults += _label_faults(task, model, train)
    if task.lm_weight and not hasattr(model.backbone, "language_loss"):
        message = (
            f"{type(model.backbone).__name__} doesn't predict the next token: write task.lm_weight: 0, or "
            "take GPT"
        )
        faults.append(Fault("task.lm_weight", message))
    return faults


def kind_faults(model: Classifier, datasets: dict[str, Any]) -> list[Fault]:
    """Whether it is texts that the datasets hold and the model takes."""
    faults = []
    if not isinstance(model.backbone, TextBackbone):
        message = (
            f"TextClassificationTask needs a backbone over texts (BERT, RoBERTa, GPT), and "
            f"{type(model.backbone).__name__} is none" + zh("needs_text_backbone")
        )
        faults.append(Fault("model.architecture.name", message))
    for split, dataset in datasets.items():
        if not hasattr(dataset, "tokenizer"):
            message = (
                f"TextClassificationTask needs texts (GLUE, TextTable, TextFolder), and "
                f"{type(dataset).__name__} has none" + zh("needs_texts")
            )
            faults.append(Fault(f"dataloader.{split}.dataset.name", message))
    return faults


def input_faults(split: str, model: Classifier, dataset: Any) -> list[Fault]:
    """Differences between a split's tokens and those that the model takes."""
    faults = []
    backbone: Any = model.backbone
    place = f"dataloader.{split}.dataset"

    def tell(path: str, message: str) -> None:
        faults.append(Fault(path, message))

    tokens = dataset.tokenizer.vocab_size
    if tokens > backbone.vocab_size:
        tell(
            "model.architecture.vocab_size",
            f"the tokenizer of {split} knows {tokens} tokens, the model {backbone.vocab_size}: write "
            f"vocab_size: {tokens}, or take the tokenizer that the model was pretrained with"
            + zh("vocab_size_differs"),
        )
    longest = max(dataset.max_length, dataset.pad_to or 0)
    if longest > backbone.max_positions:
        key = "max_length" if dataset.max_length == longest else "pad_to"
        tell(
            f"{place}.{key}",
            f"texts may have {longest} tokens, and the model takes {backbone.max_positions} "
            f"(model.architecture.max_positions): write {key}: {backbone.max_positions}"
            + zh("text_too_long"),
        )
    types = dataset.num_types
    if types > 1 and not backbone.num_types:
        tell(
            f"{place}.tokenizer",
            f"it tells a first and a second text apart by types of tokens, and {type(backbone).__name__} "
            "knows none: take the tokenizer that the model was pretrained with" + zh("token_types"),
        )
    elif types > max(backbone.num_types, 1):
        tell(
            "model.architecture.num_types",
            f"the texts of {split} have {types} types of tokens, the model {backbone.num_types}: write "
            f"num_types: {types}" + zh("token_types"),
        )
    return faults


def _label_faults(task: Any, model: Classifier, train: Any) -> list[Fault]:
    """Contradictions of labels, loss and score."""
    faults = []
    numbers = train.regression
    if numbers != task.regression:
        message = f"the labels are classes, and {task.score} is of numbers: write score: accuracy"
        if numbers:
            message = f"the labels are numbers, and {task.score} is of classes: write score: pearson"
        faults.append(Fault("task.score", message + zh("score_kind")))
    elif numbers != isinstance(task.loss, MeanSquaredErrorLoss):
        wanted = {True: "MeanSquaredErrorLoss", False: "CrossEntropyLoss"}[numbers]
        message = f"{type(task.loss).__name__} is not for such labels: write {{name: {wanted}}}"
        faults.append(Fault("loss", message + zh("score_kind")))
    if numbers and model.num_classes != 1:
        message = f"the head has {model.num_classes} outputs, and a number needs one: write num_classes: 1"
        faults.append(Fault("model.head.num_classes", message + zh("class_count_differs", count=1)))
    if not numbers:
        try:
            task.loss.use_class_counts(train.class_counts())
        except ValueError as error:
            faults.append(Fault("loss.class_weights", str(error)))
    return faults
