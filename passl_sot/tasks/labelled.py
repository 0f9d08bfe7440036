"""What all classifications have in common, whatever their items are: classes, losses, scores, predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import paddle
import paddle.nn.functional as F

from passl_sot.config import Config, ConfigError, Fault, NonNegativeByEpoch, NotEmpty, value_of_epoch, zh
from passl_sot.metrics import (
    CalibrationMeter,
    ClassificationMeter,
    save_confusion,
    save_reliability,
    write_report,
)
from passl_sot.metrics.classification import write_table
from passl_sot.modeling.classifier import Classifier
from passl_sot.nn.precision import at_least_float32
from passl_sot.tasks.base import Batch, Task
from passl_sot.weights.checkpoint import CheckpointError, require

HEAD = "config.model.head.num_classes"


class LabelledTask(Task):
    """Base of classifications: items to logits to the `loss:` section's loss.

    A head with several outputs (`fusion_type: sum_loss`, `DistilledHead`) has their losses added.

    Args:
        weights: Factor of each output's loss: a number, or a schedule over epochs as in
            `config.epoch_schedule`; null adds them as they are. The log then also has each loss.

    Attributes:
        class_names: Name of each label.
        several: Whether an item may have several labels; each class then has a probability of its own.
        preprocessing: How items are prepared for the model: a part of the card.
        new_meter: Makes the meter of items with one label each, by the number of classes.
    """

    several = False
    preprocessing: dict[str, Any]
    new_meter: Any = ClassificationMeter

    def __init__(self, *, weights: Annotated[list[NonNegativeByEpoch], NotEmpty()] | None = None):
        self.weights = weights
        self.class_names: list[str] = []
        self.set_epoch(0)

    # -- before training ----------------------------------------------------------------------------
    def describe_items(self, train: Any) -> str:
        """As `Task.describe_items`, with the number of classes."""
        return f"{self.words.items}, {len(train.class_names)} classes"

    # -- training -----------------------------------------------------------------------------------
    def set_epoch(self, epoch: int) -> None:
        """Follows the schedules of the weights."""
        self.now = [value_of_epoch("task.weights", weight, epoch) for weight in self.weights or ()]

    def step(self, model: paddle.nn.Layer, batch: Batch) -> dict[str, paddle.Tensor]:
        """As `Task.step`; the model gives logits [B, K], or a tuple of them.

        Beside the inputs a batch has `label` int64 [B] or soft targets float32 [B, K]. A ConfigError says
        that there are more or fewer weights than outputs.
        """
        logits = model(*self.inputs(batch))
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

    # -- the card -----------------------------------------------------------------------------------
    def describe(self) -> dict[str, Any]:
        """Class names in label order, and how items are prepared for the model."""
        return {"class_names": self.class_names, "preprocessing": self.preprocessing}

    @classmethod
    def check_card(cls, path: Path, meta: Mapping[str, Any]) -> None:
        """As `Task.check_card`; there must be as many class names as the model has classes."""
        require(path, meta, {HEAD: int, "class_names": list, "preprocessing": dict})
        needed, optional = cls.preparations()
        found = meta["preprocessing"]
        wanted = {**needed, **{key: kind for key, kind in optional.items() if key in found}}
        require(path, meta, {f"preprocessing.{key}": kind for key, kind in wanted.items()})
        # What a newer version prepares otherwise, this one would prepare wrongly.
        unknown = found.keys() - {*needed, *optional}
        if unknown:
            raise CheckpointError(
                f"{path} prepares its input by {', '.join(sorted(unknown))} (preprocessing in its header), "
                "which this version doesn't know: update passl_sot" + zh("written_by_newer")
            )
        classes = meta["config"]["model"]["head"]["num_classes"]
        for key in [key for key in ("class_names", "class_ids") if key in meta]:
            require(path, meta, {key: list})
            names = meta[key]
            if not all(isinstance(name, str) for name in names):
                raise CheckpointError(
                    f"{path} is damaged: {key} in its header holds something else than names"
                )
            if len(names) != classes:
                raise CheckpointError(
                    f"{path} is damaged: {key} in its header has {len(names)} entries, but its model "
                    f"{classes} classes ({HEAD})"
                )

    @classmethod
    def preparations(cls) -> tuple[dict[str, type], dict[str, type]]:
        """Keys of `preprocessing` and their types: those that every card has, and those that it may have."""
        raise NotImplementedError

    def check_resume(self, path: Path, card: Mapping[str, Any]) -> None:
        """The data must have the classes that a checkpoint was trained on."""
        # Names, not only their number: renamed folders number the classes anew.
        known = card["class_names"]
        if known != self.class_names:
            raise CheckpointError(
                f"{path} was trained on the classes {known[:8]}, the data have "
                f"{self.class_names[:8]}: resume with the same classes, or begin anew by --init-from"
                + zh("checkpoint_classes")
            )

    # -- evaluation ---------------------------------------------------------------------------------
    def open_data(
        self, model: Classifier, node: Config, card: Mapping[str, Any], names: Sequence[str] | None = None
    ) -> Any:
        """The dataset of a `dataset:` section, prepared for a model as its card says.

        Args:
            node: The section.
            card: As for `prepare_evaluation`, of which this is the first part.
            names: Of the classes, in label order; None for the data's own, whatever classes the model has.

        Raises:
            CheckpointError: The model doesn't take items that are prepared so.
            DataError: The data hold other classes.
        """
        raise NotImplementedError

    def known_classes(self, card: Mapping[str, Any], found: Sequence[str] = ()) -> Sequence[str] | None:
        """The names by which a checkpoint's classes are numbered; None for the data's own.

        Args:
            found: What the data call their classes: where the checkpoint's have ids, folders may have these
                for names, or the numbers.
        """
        # Bare weights come without.
        if card.get("classes_unnamed"):
            return None
        names = card.get("class_names")
        ids = card.get("class_ids")
        if names and ids:
            numbers = [str(number) for number in range(len(ids))]
            return next((choice for choice in (ids, numbers) if choice and set(found) <= set(choice)), names)
        return names

    def name_classes(self, model: Classifier, val: Any) -> None:
        """Names the model's classes as the data do; those that it alone knows get their numbers.

        Raises:
            CheckpointError: The data have more classes.
        """
        known = len(val.class_names)
        if model.num_classes < known:
            raise CheckpointError(
                f"the model has {model.num_classes} classes, the data {known}: set model.head.num_classes"
            )
        self.class_names = [*val.class_names, *map(str, range(known, model.num_classes))]

    def guess(self, val: Any) -> float | None:
        """As `Task.guess`: the fraction of the largest class, and a standard deviation of its count."""
        if self.several:
            return None
        share = val.class_counts().max() / len(val)
        return float(100 * (share + (share * (1 - share) / len(val)) ** 0.5))

    def meter(self, model: Classifier, val: Any, *, rows: bool = False) -> Any:
        """As `Task.meter`."""
        meter = self.new_meter(model.num_classes)
        if rows:
            return RowMeter(meter, len(val))
        return meter

    def measure(self, model: paddle.nn.Layer, batch: Batch, meter: Any) -> None:
        """As `Task.measure`."""
        logits = at_least_float32(model(*self.inputs(batch))).numpy()
        meter.take(batch["index"].numpy(), logits, batch["label"].numpy())

    def details(self, meter: Any) -> dict[str, Any]:
        """Scores of each class and, of a meter with rows, what its reliability picture shows."""
        pairs = zip(self.class_names, meter.per_class(), strict=True)
        found: dict[str, Any] = {"per_class": [{"name": name, **row} for name, row in pairs]}
        if isinstance(meter, RowMeter):
            found["reliability"] = meter.calibration.groups(meter.noun)
        return found

    def columns(self, val: Any) -> dict[str, list[str]]:
        """What stands for each item of a dataset in tables, by the name of a column."""
        raise NotImplementedError

    def write_files(self, meter: Any, val: Any, folder: Path) -> list[Path]:
        """`per_class.csv`, `confusion.csv` and, of a meter with rows, `predictions.csv`."""
        files = write_report(meter, self.class_names, folder)
        if isinstance(meter, RowMeter):
            files.append(folder / "predictions.csv")
            shown = self.columns(val)
            rows = meter.rows[:, :3].tolist()
            cells = (
                [*item, int(true), int(best), self.class_names[int(best)], f"{probability:.6f}"]
                for *item, (true, best, probability) in zip(*shown.values(), rows, strict=True)
            )
            write_table(files[-1], [*shown, "label", "class", "name", "probability"], cells)
        return files

    def draw(self, meter: Any, folder: Path, title: str) -> list[Path]:
        """`confusion.png` and, of a meter with rows, `reliability.png`."""
        files = [folder / "confusion.png"]
        save_confusion(files[0], meter.confusion, self.class_names, title, meter.noun)
        if isinstance(meter, RowMeter):
            files.append(folder / "reliability.png")
            save_reliability(files[-1], meter.calibration, title, meter.noun)
        return files

    # -- prediction ---------------------------------------------------------------------------------
    def probabilities(self, outputs: paddle.Tensor) -> paddle.Tensor:
        """Of the classes by logits [B, K]; with several labels each item, each class has its own."""
        if self.several:
            return F.sigmoid(outputs)
        return F.softmax(outputs)

    def decode(self, outputs: paddle.Tensor, top_k: int) -> list[dict[str, Any]]:
        """The `top_k` most probable classes (or all K) of each item, best first, by logits [B, K]."""
        probabilities = self.probabilities(outputs)
        rows = []
        for row in probabilities.numpy():
            best = np.argsort(-row, kind="stable")[:top_k].tolist()
            names = [self.class_names[i] for i in best]
            rows.append({"classes": best, "names": names, "probabilities": [float(row[i]) for i in best]})
        return rows


class RowMeter:
    """A meter of one label each, and beside it the prediction for each item, by its index in the dataset."""

    def __init__(self, meter: ClassificationMeter, items: int):
        self._meter = meter
        self.calibration = CalibrationMeter(items)
        # Label, predicted class, and the probabilities of the latter and of the label.
        self.rows = np.zeros((items, 4))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meter, name)

    def take(self, index: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> None:
        """As of `ClassificationMeter`."""
        self._meter.take(index, logits, labels)
        self.calibration.take(index, logits, labels)
        # Paddle's, so that evaluation and prediction agree to the last printed digit.
        probabilities = F.softmax(paddle.to_tensor(logits)).numpy()
        best = probabilities.argmax(axis=1)
        of_label = probabilities[np.arange(len(labels)), labels]
        self.rows[index] = np.column_stack([labels, best, probabilities.max(axis=1), of_label])

    def gather(self, total: Any) -> None:
        """As of `ClassificationMeter`."""
        self._meter.gather(total)
        self.calibration.gather(total)
        # Every item is evaluated by one process and 0 in the others, so the sum is the whole.
        self.rows = total(self.rows)

    def result(self) -> dict[str, float]:
        """As of `ClassificationMeter`, with the scores of `CalibrationMeter`."""
        *scores, items = self._meter.result().items()
        return dict([*scores, *self.calibration.result().items(), items])
