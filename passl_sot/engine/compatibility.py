"""Whether model and data fit each other, checked before the first batch."""

from passl_sot.config.chinese import zh
from passl_sot.config.loader import ConfigError, Fault
from passl_sot.data import LabelledImages
from passl_sot.modeling.classifier import Classifier


def check_fit(model: Classifier, train: LabelledImages, val: LabelledImages, loss: str) -> None:
    """Compares what the transforms give with what the model takes.

    Args:
        model: The model.
        train: Training dataset.
        val: Validation dataset.
        loss: Name of the loss.

    Raises:
        ConfigError: Image sizes or channels differ, sizes depend on the file, or mixing knows another number
            of classes.
    """
    faults = []
    height, width = model.backbone.img_size
    wanted = height if height == width else [height, width]
    for split, dataset in (("train", train), ("val", val)):
        path = f"dataloader.{split}.dataset.transforms"
        given = dataset.output_hw
        if given is None:
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
    stage = getattr(train, "batch_stage", None)
    mixed = getattr(stage, "num_classes", None)
    if mixed is not None and mixed != model.num_classes:
        message = (
            f"Mixup has num_classes {mixed}, the head {model.num_classes}: write ${{model.head.num_classes}}"
        )
        faults.append(Fault("dataloader.train.dataset.batch_transforms", message))
    if train.multi_hot is not None and loss == "CrossEntropyLoss":
        message = (
            "CrossEntropyLoss takes one label per image to be true, and the data have several (multi_label): "
            "write loss: {name: BinaryCrossEntropyLoss}" + zh("multi_label_loss")
        )
        faults.append(Fault("loss.name", message))
    if faults:
        raise ConfigError(faults)
