"""Classification: images to one class each or, where the data have them, to several labels each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import paddle
import paddle.nn.functional as F

from passl_sot.config import (
    Config,
    ConfigError,
    Fault,
    NonNegativeByEpoch,
    NotEmpty,
    value_at,
    value_of_epoch,
    zh,
)
from passl_sot.data import LabelledImages, build_dataset, build_transforms, check_data
from passl_sot.data.schema import DataSection
from passl_sot.imageio.decode import read_given, read_image
from passl_sot.imageio.files import max_file_bytes
from passl_sot.metrics import (
    ClassificationMeter,
    MultiLabelMeter,
    save_confusion,
    write_label_report,
    write_report,
)
from passl_sot.metrics.classification import write_table
from passl_sot.modeling.classifier import Classifier
from passl_sot.nn.precision import at_least_float32
from passl_sot.tasks.base import TASKS, Batch, Task, Words
from passl_sot.tasks.image_faults import find_faults, input_faults
from passl_sot.weights.checkpoint import CheckpointError, require

_Meter = ClassificationMeter | MultiLabelMeter

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
class ClassificationTask(Task):
    """Images to logits to the `loss:` section's loss.

    A head with several outputs (`fusion_type: sum_loss`, `DistilledHead`) has their losses added.

    Args:
        weights: Factor of each output's loss: a number, or a schedule over epochs as in
            `config.epoch_schedule`; null adds them as they are. The log then also has each loss.

    Attributes:
        class_names: Name of each label.
        several: Whether an image may have several labels; each class then has a probability of its own, and
            the mean average precision chooses the best weights rather than top-1.
    """

    row = Prediction
    kind = "image"

    def __init__(self, *, weights: Annotated[list[NonNegativeByEpoch], NotEmpty()] | None = None):
        self.weights = weights
        self.class_names: list[str] = []
        self._set_several(False)
        self.set_epoch(0)

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

    def describe_items(self, train: LabelledImages) -> str:
        """As `Task.describe_items`, with the number of classes."""
        return f"{self.words.items}, {len(train.class_names)} classes"

    # -- training -----------------------------------------------------------------------------------
    def set_epoch(self, epoch: int) -> None:
        """Follows the schedules of the weights."""
        self.now = [value_of_epoch("task.weights", weight, epoch) for weight in self.weights or ()]

    def step(self, model: paddle.nn.Layer, batch: Batch) -> dict[str, paddle.Tensor]:
        """As `Task.step`; the model gives logits [B, K], or a tuple of them.

        A batch has `image` float32 [B, C, H, W], and `label` int64 [B] or soft targets float32 [B, K]. A
        ConfigError says that there are more or fewer weights than outputs.
        """
        logits = model(batch["image"])
        if not self.now:
            return {"loss": self.loss(logits, batch["label"])}
        if not isinstance(logits, tuple | list):
            logits = [logits]
        if len(logits) != len(self.now):
            message = f"has {len(self.now)} entries, and the head gives {len(logits)} outputs"
            raise ConfigError([Fault("task.weights", message + zh("weights_count"))])
        losses = [self.loss(part, batch["label"]) for part in logits]
        total = sum(weight * loss for weight, loss in zip(self.now, losses, strict=True))
        return {"loss": total, **{f"loss_{i}": loss for i, loss in enumerate(losses)}}

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
    def describe(self) -> dict[str, Any]:
        """Class names in label order, and how images are prepared for the model."""
        return {"class_names": self.class_names, "preprocessing": self.preprocessing}

    def make_card(self, node: Config, names: Sequence[str]) -> dict[str, Any]:
        """As `Task.make_card`."""
        self.class_names = list(names)
        self.preprocessing = {
            key: node[key] for key in ("transforms", "apply_exif", "channels") if key in node
        }
        return self.describe()

    @classmethod
    def check_card(cls, path: Path, meta: Mapping[str, Any]) -> None:
        """As `Task.check_card`; there must be as many class names as the model has classes."""
        head = "config.model.head.num_classes"
        wanted = {head: int, "class_names": list, "preprocessing": dict, "preprocessing.transforms": list}
        kinds = {"apply_exif": bool, "channels": int}
        preprocessing = meta.get("preprocessing")
        if isinstance(preprocessing, dict):
            wanted |= {f"preprocessing.{key}": kinds[key] for key in kinds if key in preprocessing}
        require(path, meta, wanted)
        # What a newer version prepares otherwise, this one would prepare wrongly.
        unknown = preprocessing.keys() - {"transforms", *kinds}
        if unknown:
            raise CheckpointError(
                f"{path} prepares images by {', '.join(sorted(unknown))} (preprocessing in its header), "
                "which this version doesn't know: update passl_sot" + zh("written_by_newer")
            )
        classes = meta["config"]["model"]["head"]["num_classes"]
        names = meta["class_names"]
        if not all(isinstance(name, str) for name in names):
            raise CheckpointError(
                f"{path} is damaged: class_names in its header holds something else than names"
            )
        if len(names) != classes:
            raise CheckpointError(
                f"{path} is damaged: class_names in its header has {len(names)} entries, but its model "
                f"{classes} classes ({head})"
            )

    def check_resume(self, path: Path, card: Mapping[str, Any]) -> None:
        """The data must have the classes that a checkpoint was trained on."""
        # Names, not only their number: renamed folders number the classes anew.
        known = card["class_names"]
        if known != self.class_names:
            raise CheckpointError(
                f"{path} was trained on the classes {known[:8]}, the data have "
                f"{self.class_names[:8]}: resume with the same class folders, or begin anew by --init-from"
                + zh("checkpoint_classes")
            )

    # -- evaluation ---------------------------------------------------------------------------------
    def prepare_evaluation(self, model: Classifier, node: Config, card: Mapping[str, Any]) -> LabelledImages:
        """The images of the config, prepared and numbered as the checkpoint says.

        Classes that the model alone knows are named by their numbers.
        """
        if card:
            node = Config({**node, **card["preprocessing"]})
        names = card.get("class_names")
        if card.get("classes_unnamed"):
            names = None  # published weights come without: the data's own count
        val = build_dataset(node, class_names=names)
        faults = input_faults("val", model, val)
        if faults and card:
            message = f"the checkpoint prepares images that its model doesn't take: {faults[0].message}"
            raise CheckpointError(message)
        if faults:
            raise ConfigError(faults)
        self._set_several(val.multi_hot is not None)
        known = len(val.class_names)
        if model.num_classes < known:
            raise CheckpointError(
                f"the model has {model.num_classes} classes, the data {known}: set model.head.num_classes"
            )
        self.class_names = [*val.class_names, *map(str, range(known, model.num_classes))]
        return val

    def guess(self, val: LabelledImages) -> float | None:
        """As `Task.guess`: the fraction of the largest class, and a standard deviation of its count."""
        if self.several:
            return None
        share = val.class_counts().max() / len(val)
        return float(100 * (share + (share * (1 - share) / len(val)) ** 0.5))

    def meter(self, model: Classifier, val: LabelledImages, *, rows: bool = False) -> _Meter:
        """As `Task.meter`."""
        if val.multi_hot is not None:
            return MultiLabelMeter(model.num_classes, len(val))
        if rows:
            return _RowMeter(model.num_classes, len(val))
        return ClassificationMeter(model.num_classes)

    def measure(self, model: paddle.nn.Layer, batch: Batch, meter: _Meter) -> None:
        """As `Task.measure`."""
        logits = at_least_float32(model(batch["image"])).numpy()
        meter.take(batch["index"].numpy(), logits, batch["label"].numpy())

    def details(self, meter: _Meter) -> dict[str, Any]:
        """Scores of each class."""
        pairs = zip(self.class_names, meter.per_class(), strict=True)
        return {"per_class": [{"name": name, **row} for name, row in pairs]}

    def write_files(self, meter: _Meter, val: LabelledImages, folder: Path) -> list[Path]:
        """`per_class.csv` and `predictions.csv`; with one label each also `confusion.csv`."""
        paths = [val.path(i) for i in range(len(val))]
        if isinstance(meter, MultiLabelMeter):
            return write_label_report(meter, self.class_names, paths, folder)
        files = write_report(meter, self.class_names, folder)
        if isinstance(meter, _RowMeter):
            files.append(folder / "predictions.csv")
            rows = zip(paths, meter.rows.tolist(), strict=True)
            cells = (
                [path, int(true), int(best), self.class_names[int(best)], f"{probability:.6f}"]
                for path, (true, best, probability) in rows
            )
            write_table(files[-1], ["path", "label", "class", "name", "probability"], cells)
        return files

    def draw(self, meter: _Meter, folder: Path, title: str) -> list[Path]:
        """With one label each `confusion.png`."""
        if isinstance(meter, MultiLabelMeter):
            return []
        path = folder / "confusion.png"
        save_confusion(path, meter.confusion, self.class_names, title)
        return [path]

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

    def read(self, item: Any) -> dict[str, Any]:
        """One image, prepared for the model: a path, or what `imageio.decode.read_given` takes."""
        read = read_given
        if isinstance(item, str | Path):
            read = read_image
        array = read(item, apply_exif=self.apply_exif, channels=self.channels)
        # Evaluation's transforms draw nothing, so any generator does.
        return {"image": self.transforms(array, np.random.default_rng(0))}

    def probabilities(self, outputs: paddle.Tensor) -> paddle.Tensor:
        """Of the classes by logits [B, K]; with several labels each image, each class has its own."""
        if self.several:
            return F.sigmoid(outputs)
        return F.softmax(outputs)

    def decode(self, outputs: paddle.Tensor, top_k: int) -> list[dict[str, Any]]:
        """The `top_k` most probable classes (or all K) of each image, best first, by logits [B, K]."""
        probabilities = self.probabilities(outputs)
        rows = []
        for row in probabilities.numpy():
            best = np.argsort(-row, kind="stable")[:top_k].tolist()
            names = [self.class_names[i] for i in best]
            rows.append({"classes": best, "names": names, "probabilities": [float(row[i]) for i in best]})
        return rows


class _RowMeter(ClassificationMeter):
    """Also keeps the prediction for each image, by its index in the dataset."""

    def __init__(self, num_classes: int, images: int):
        super().__init__(num_classes)
        self.rows = np.zeros((images, 3))  # label, predicted class and its probability

    def take(self, index: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> None:
        super().take(index, logits, labels)
        # Paddle's, so that evaluation and prediction agree to the last printed digit.
        probabilities = F.softmax(paddle.to_tensor(logits)).numpy()
        best = probabilities.argmax(axis=1)
        self.rows[index] = np.column_stack([labels, best, probabilities.max(axis=1)])

    def gather(self, total: Any) -> None:
        super().gather(total)
        # Every image is evaluated by one process and 0 in the others, so the sum is the whole.
        self.rows = total(self.rows)
