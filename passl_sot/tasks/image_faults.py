"""Where images, model and loss of a classification contradict each other, told before training begins."""

from collections.abc import Mapping
from typing import Any

from passl_sot.config import Fault, zh
from passl_sot.data import LabelledImages
from passl_sot.modeling.backbones.text_backbone import TextBackbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.losses import CrossEntropyLoss


def kind_faults(model: Classifier, datasets: Mapping[str, Any]) -> list[Fault]:
    """Whether it is images that the datasets, by split, hold and the model takes."""
    others = [f"dataloader.{split}.dataset" for split, data in datasets.items() if hasattr(data, "tokenizer")]
    if isinstance(model.backbone, TextBackbone):
        others.append("model.architecture")
    if not others:
        return []
    message = (
        f"{' and '.join(others)} are for texts, and this task is for images: write "
        "task: {name: TextClassificationTask}" + zh("needs_text_task")
    )
    return [Fault("task", message)]


def find_faults(loss: Any, model: Classifier, train: LabelledImages, val: LabelledImages) -> list[Fault]:
    """What keeps a model from being trained on images by a loss."""
    faults = [*input_faults("train", model, train), *input_faults("val", model, val)]
    # Soft targets of another width would fail at the first batch, with shapes and no names.
    mixed = getattr(train.batch_stage, "num_classes", None)
    if mixed is not None and mixed != model.num_classes:
        message = (
            f"Mixup has num_classes {mixed}, the head {model.num_classes}: write ${{model.head.num_classes}}"
        )
        faults.append(Fault("dataloader.train.dataset.batch_transforms", message))
    # It would run, and learn to divide one certainty among an image's labels.
    if train.multi_hot is not None and isinstance(loss, CrossEntropyLoss):
        message = (
            "CrossEntropyLoss takes one label per image to be true, and the data have several "
            "(multi_label): write loss: {name: BinaryCrossEntropyLoss}" + zh("multi_label_loss")
        )
        faults.append(Fault("loss.name", message))
    try:
        loss.use_class_counts(train.class_counts())
    except ValueError as error:
        faults.append(Fault("loss.class_weights", str(error)))
    return faults


def input_faults(split: str, model: Classifier, dataset: LabelledImages) -> list[Fault]:
    """Differences between the output of a split's transforms and the input of the model."""
    faults = []
    height, width = model.backbone.img_size
    given = dataset.output_hw
    path = f"dataloader.{split}.dataset.transforms"
    if given is None:
        wanted: Any = [height, width]
        if height == width:
            wanted = height
        message = (
            f"images keep different sizes, and the model takes {height}x{width}: end with "
            f"{{name: CenterCrop, size: {wanted}}}, or give Resize [{height}, {width}]"
            + zh("image_sizes_differ")
        )
        faults.append(Fault(path, message))
    elif tuple(given) != (height, width):
        message = (
            f"images become {given[0]}x{given[1]}, and model.architecture.img_size is {height}x{width}: "
            f"write size: ${{model.architecture.img_size}} in the transforms" + zh("img_size_differs")
        )
        faults.append(Fault(path, message))
    if dataset.channels != model.backbone.in_chans:
        message = (
            f"images have {dataset.channels} channel(s), and model.architecture.in_chans is "
            f"{model.backbone.in_chans}: write one number in both" + zh("channels_differ")
        )
        faults.append(Fault(f"dataloader.{split}.dataset.channels", message))
    return faults
