"""Exact scores of images with several labels each, in NumPy, and the files that show them."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from passl_sot.metrics.classification import WholeSetMeter, class_rows, write_per_class, write_table


class MultiLabelMeter(WholeSetMeter):
    """Average precision and F1 of each of K classes.

    Scores of all images, over all processes, are kept: an average precision is one of the whole set.
    """

    def __init__(self, num_classes: int, images: int):
        shape = (images, num_classes)
        super().__init__(np.zeros(shape, np.float64), np.zeros(shape, np.int64))
        self.num_classes = num_classes

    def take(self, index: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> None:
        """Takes in a batch: places [B] in the set, scores [B, K] (above 0: yes), labels [B, K] of 0 and 1."""
        self.outputs[index] = logits
        self.labels[index, : labels.shape[1]] = labels  # a model may know more classes than the data
        self.counted[index] += 1

    def result(self) -> dict[str, float]:
        """Mean average precision and macro F1 in per cent, mean binary cross entropy, and number of images.

        Classes without an image are left out of the means.
        """
        result = {"map": math.nan, "macro_f1": math.nan, "loss": math.nan, "images": self.items}
        rows = [row for row in self.per_class() if row["images"]]
        if rows:
            result["map"] = 100 * float(np.mean([row["ap"] for row in rows]))
            result["macro_f1"] = 100 * float(np.mean([row["f1"] for row in rows]))
        if self.items:
            x = self.outputs
            # log(1 + exp(-|x|)) can't overflow.
            loss = np.maximum(x, 0) - x * self.labels + np.log1p(np.exp(-np.abs(x)))
            result["loss"] = float(loss.mean())
        return result

    def per_class(self) -> list[dict[str, float]]:
        """Images, average precision, precision, recall and F1 (0 to 1) of each class; 0 where undefined."""
        predicted = self.outputs > 0
        true = self.labels > 0
        hits = (predicted & true).sum(axis=0)
        ap = np.array([_average_precision(*pair) for pair in zip(self.outputs.T, true.T, strict=True)])
        return class_rows("images", hits, true.sum(axis=0), predicted.sum(axis=0), ap=ap)


def write_label_report(
    meter: MultiLabelMeter, class_names: Sequence[str], paths: Sequence[str], folder: Path
) -> list[Path]:
    """Writes `per_class.csv` and `predictions.csv` into `folder`.

    The second has a row per image: its labels and those predicted, as lists for `ListFile` have them (`0,3`,
    or `-` for none), then the probability of each class. `paths` are in the order of the set. Returns the
    paths of both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    per_class = folder / "per_class.csv"
    predictions = folder / "predictions.csv"
    write_per_class(per_class, class_names, meter.per_class(), ("images", "ap", "precision", "recall", "f1"))
    # Beyond ±700 an exp would overflow; the probability has been 0 or 1 for long.
    probabilities = 1 / (1 + np.exp(-np.clip(meter.outputs, -700, 700)))
    rows = (
        [path, _numbers(true), _numbers(logits), *(f"{p:.6f}" for p in row)]
        for path, true, logits, row in zip(paths, meter.labels, meter.outputs, probabilities, strict=True)
    )
    write_table(predictions, ["path", "labels", "predicted", *class_names], rows)
    return [per_class, predictions]


def _numbers(row: np.ndarray) -> str:
    """The classes whose entry is above 0, or `-`."""
    return ",".join(map(str, np.flatnonzero(row > 0))) or "-"


def _average_precision(scores: np.ndarray, true: np.ndarray) -> float:
    """The mean, over the images of the class, of the precision among all that score at least as high."""
    if not true.any():
        return 0.0
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(true[order])
    # Of equal scores all count: the last place of each run of them.
    last = np.searchsorted(-ranked, -ranked, side="right") - 1
    precision = hits[last] / (last + 1)
    return float(precision[true[order]].mean())
