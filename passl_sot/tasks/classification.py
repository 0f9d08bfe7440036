"""Classification: images to one class each or, where the data have them, to several labels each."""

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import paddle
from PIL import Image

from passl_sot.config import Config, ConfigError, Fault, NonNegativeByEpoch, NotEmpty, value_at
from passl_sot.data import LabelledImages, build_dataset, build_transforms, check_data
from passl_sot.data.given import collect_images
from passl_sot.data.schema import DataSection
from passl_sot.imageio.decode import read_given, read_image
from passl_sot.imageio.files import max_file_bytes
from passl_sot.metrics import MultiLabelMeter, write_label_report
from passl_sot.modeling.classifier import Classifier
from passl_sot.tasks.base import TASKS, Batch, Words, path_of
from passl_sot.tasks.image_faults import find_faults, input_faults, kind_faults
from passl_sot.tasks.labelled import LabelledTask
from passl_sot.weights.checkpoint import CheckpointError

# What is one image, though some can be iterated.
_ONE = (str, Path, bytes, bytearray, memoryview, Image.Image)

_IF_FLAT = (
    "likely the learning rate is far too low or too high, the labels don't belong to the images, "
    "augmentation leaves too little of them, or the layers that matter are frozen"
)
_IF_GUESSED = (
    "likely there are too few images to learn more than themselves (add some, or start from weights: "
    "--pretrained), the classes of the two splits differ in more than their names, or validation's "
    "transforms prepare other images than training's"
)


@dataclass
class Prediction:
    """The prediction for one image.

    Attributes:
        path: The file; empty for an array.
        classes: Indices of the most probable classes, best first; empty if the image can't be read.
        names: Theirs; so are `probabilities`, in [0, 1].
        error: Why the image can't be read; empty if it can.
    """

    path: str = ""
    classes: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    error: str = ""


@TASKS.register()
class ClassificationTask(LabelledTask):
    """Images to logits to the `loss:` section's loss; see `LabelledTask`.

    Where images have several labels, the mean average precision chooses the best weights rather than top-1.
    """

    def __init__(self, *, weights: Annotated[list[NonNegativeByEpoch], NotEmpty()] | None = None):
        super().__init__(weights=weights)
        self._set_several(False)

    def _set_several(self, several: bool) -> None:
        self.several = several
        self.score = "top1"
        spoken = "top-1"
        if several:
            self.score = "map"
            spoken = "mean average precision"
        self.words = Words(item="image", score=spoken, unit=" %", if_flat=_IF_FLAT, if_guessed=_IF_GUESSED)

    # -- before training ----------------------------------------------------------------------------
    def check(
        self,
        model: Classifier,
        train: LabelledImages,
        val: LabelledImages,
        section: DataSection,
        *,
        every_item: bool = False,
    ) -> None:
        """As `Task.check`: class sets, labels and files; sizes and channels; classes of loss and Mixup."""
        strangers = kind_faults(model, {"train": train, "val": val})
        if strangers:
            raise ConfigError(strangers)
        loader = section.train.loader
        options: dict[str, Any] = {"max_bad": loader.max_bad, "timeout": loader.timeout}
        if every_item:
            options |= {"sample": "all", "progress": True}
        check_data(train, val, model.num_classes, **options)
        faults = self._faults(model, train, val)
        if faults:
            raise ConfigError(faults)

    def _faults(self, model: Classifier, train: LabelledImages, val: LabelledImages) -> list[Fault]:
        return find_faults(self.loss, model, train, val)

    def prepare(self, model: Classifier, train: LabelledImages, section: DataSection) -> None:
        """As `Task.prepare`; the loss learns the number of images of each class."""
        self._set_several(train.multi_hot is not None)
        self.loss.use_class_counts(train.class_counts())
        self.make_card(section.val.dataset, train.class_names)

    # -- training -----------------------------------------------------------------------------------
    def inputs(self, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        """The images [B, C, H, W]."""
        return (batch["image"],)

    def probe(self, model: Classifier, size: int) -> Batch:
        """Noise of class 0."""
        return {
            "image": paddle.randn([size, model.backbone.in_chans, *model.backbone.img_size]),
            "label": paddle.zeros([size], "int64"),
        }

    # -- the card -----------------------------------------------------------------------------------
    def make_card(self, node: Config, names: Sequence[str]) -> dict[str, Any]:
        """As `Task.make_card`."""
        self.class_names = list(names)
        keys = ("transforms", "apply_exif", "channels")
        self.preprocessing = {key: node[key] for key in keys if key in node}
        return self.describe()

    @classmethod
    def preparations(cls) -> tuple[dict[str, type], dict[str, type]]:
        """As `LabelledTask.preparations`."""
        return {"transforms": list}, {"apply_exif": bool, "channels": int}

    # -- evaluation ---------------------------------------------------------------------------------
    def prepare_evaluation(self, model: Classifier, node: Config, card: Mapping[str, Any]) -> LabelledImages:
        """The images of the config, prepared and numbered as the checkpoint says.

        Classes that the model alone knows are named by their numbers.
        """
        val = self.open_data(model, node, card)
        known = self.known_classes(card, val.found_classes)
        if known is not None:
            val.use_class_names(known)
        self._set_several(val.multi_hot is not None)
        self.name_classes(model, val)
        if "class_ids" in card:  # the data may call them by these
            self.class_names = card["class_names"]
        return val

    def open_data(
        self, model: Classifier, node: Config, card: Mapping[str, Any], names: Sequence[str] | None = None
    ) -> LabelledImages:
        """As `LabelledTask.open_data`."""
        if card:
            node = Config({**node, **card["preprocessing"]})
        dataset = build_dataset(node, class_names=names)
        faults = input_faults("val", model, dataset)
        if faults and card:
            message = f"the checkpoint prepares images that its model doesn't take: {faults[0].message}"
            raise CheckpointError(message)
        if faults:
            raise ConfigError(faults)
        return dataset

    def meter(self, model: Classifier, val: LabelledImages, *, rows: bool = False) -> Any:
        """As `Task.meter`."""
        if val.multi_hot is not None:
            return MultiLabelMeter(model.num_classes, len(val))
        return super().meter(model, val, rows=rows)

    def columns(self, val: LabelledImages) -> dict[str, list[str]]:
        """The files."""
        return {"path": [val.path(i) for i in range(len(val))]}

    def write_files(self, meter: Any, val: LabelledImages, folder: Path) -> list[Path]:
        """`per_class.csv` and `predictions.csv`; with one label each also `confusion.csv`."""
        if isinstance(meter, MultiLabelMeter):
            return write_label_report(meter, self.class_names, self.columns(val)["path"], folder)
        return super().write_files(meter, val, folder)

    def draw(self, meter: Any, folder: Path, title: str) -> list[Path]:
        """With one label each `confusion.png`."""
        if isinstance(meter, MultiLabelMeter):
            return []
        return super().draw(meter, folder, title)

    # -- prediction ---------------------------------------------------------------------------------
    def use_card(self, card: Mapping[str, Any]) -> None:
        """As `Task.use_card`; an ImageError where the limit of the size of files is set to nonsense."""
        max_file_bytes()
        self.class_names = card["class_names"]
        preprocessing = card["preprocessing"]
        self.apply_exif: bool = preprocessing.get("apply_exif", True)
        self.channels: int = preprocessing.get("channels", 3)
        self.transforms = build_transforms(preprocessing["transforms"], channels=self.channels)
        self._set_several(bool(value_at(card["config"], "dataloader.train.dataset.multi_label")))

    def items_of(self, node: Mapping[str, Any], card: Mapping[str, Any]) -> list[str]:
        """The files."""
        return self.columns(build_dataset(node))["path"]

    def collect(self, arguments: Sequence[str], columns: Sequence[str]) -> list[str]:
        """Files, folders (searched below), patterns and lists; see `collect_images`."""
        return collect_images(arguments)

    def items(self, given: Any) -> list[Any]:
        """As `Task.items`; one folder, pattern or list stands for its images."""
        if isinstance(given, str | Path) and (os.path.exists(given) or glob.has_magic(str(given))):
            return collect_images([str(given)])
        if isinstance(given, _ONE) or getattr(given, "ndim", 4) < 4:
            return [given]
        if not hasattr(given, "__iter__"):
            raise TypeError(f"a {type(given).__name__} is no image and no list of them")
        return list(given)

    def read(self, item: Any) -> dict[str, Any]:
        """One image, prepared for the model: a path, or what `imageio.decode.read_given` takes."""
        read = read_given
        if isinstance(item, str | Path):
            read = read_image
        array = read(item, apply_exif=self.apply_exif, channels=self.channels)
        # Evaluation's transforms draw nothing, so any generator does.
        return {"image": self.transforms(array, np.random.default_rng(0))}

    def row(self, item: Any, error: str, values: Mapping[str, Any]) -> Prediction:
        """As `Task.row`."""
        return Prediction(path=path_of(item), error=error, **values)
