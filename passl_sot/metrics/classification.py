"""Exact counts of a classification run, in NumPy, and the files that show them."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np


class ClassificationMeter:
    """Counts that add up over batches and processes: no average of averages. `k`, of top-k, is at most K.

    Attributes:
        noun: What is counted, in results and tables.
    """

    noun = "images"

    def __init__(self, num_classes: int, k: int = 5):
        self.num_classes = num_classes
        self.k = min(k, num_classes)
        self.confusion = np.zeros((num_classes, num_classes), np.int64)  # rows: true, columns: predicted
        self.sums = np.zeros(3, np.float64)  # items, correct within top k, summed loss

    def take(self, index: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> None:
        """Takes in a batch: scores [B, K] and integer classes [B]; the places `index` [B] don't matter."""
        logits = logits.astype(np.float64)
        order = np.argsort(-logits, axis=1, kind="stable")  # ties go to the lower class, as in argmax
        np.add.at(self.confusion, (labels, order[:, 0]), 1)
        top = logits.max(axis=1)
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        loss = log_sum - logits[np.arange(len(labels)), labels]
        self.sums += (len(labels), (order[:, : self.k] == labels[:, None]).any(axis=1).sum(), loss.sum())

    def gather(self, total: Callable[[np.ndarray], np.ndarray]) -> None:
        """Adds the counts of all processes up, by a function that sums an array over them."""
        self.confusion = total(self.confusion)
        self.sums = total(self.sums)

    @property
    def items(self) -> int:
        """Items taken in."""
        return int(self.sums[0])

    def result(self) -> dict[str, float]:
        """Accuracies in per cent, mean cross-entropy (nats), macro F1 and the number of images.

        An empty meter gives NaN rather than an accuracy of nothing.
        """
        items = self.items
        if not items:
            scores = ("top1", f"top{self.k}", "loss", "macro_f1")
            return {**dict.fromkeys(scores, math.nan), self.noun: 0}
        top_1 = 100 * float(np.trace(self.confusion)) / items
        top_k = 100 * float(self.sums[1]) / items  # with k = 1 of the same name and value
        return {
            "top1": top_1,
            f"top{self.k}": top_k,
            "loss": float(self.sums[2]) / items,
            "macro_f1": self.macro_f1(),
            self.noun: items,
        }

    def macro_f1(self) -> float:
        """The mean F1 (0 to 1) of the classes that have items."""
        return float(np.mean([row["f1"] for row in self.per_class() if row[self.noun]]))

    def per_class(self) -> list[dict[str, float]]:
        """Items, precision, recall and F1 (0 to 1) of each class; 0 where a quotient has no denominator."""
        true = self.confusion.sum(axis=1)
        return class_rows(self.noun, np.diag(self.confusion), true, self.confusion.sum(axis=0))


class WholeSetMeter:
    """Base of meters of scores that are of a whole set: outputs and labels of all items are kept.

    Args:
        outputs, labels: Zeros for all items, along the first axis.
    """

    def __init__(self, outputs: np.ndarray, labels: np.ndarray):
        self.outputs = outputs
        self.labels = labels
        self.counted = np.zeros(len(outputs), np.int64)

    def gather(self, total: Callable[[np.ndarray], np.ndarray]) -> None:
        """Joins the items of all processes, other ones each, by a function that sums an array."""
        self.outputs = total(self.outputs)
        self.labels = total(self.labels)
        self.counted = total(self.counted)

    @property
    def items(self) -> int:
        """Items taken in."""
        return int(self.counted.sum())


def class_rows(
    noun: str, hits: np.ndarray, true: np.ndarray, predicted: np.ndarray, **more: np.ndarray
) -> list[dict[str, float]]:
    """The rows of `per_class` by counts of each class; `more` are further scores."""
    columns = {
        noun: true,
        **more,
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(true, 1),
        "f1": 2 * hits / np.maximum(true + predicted, 1),
    }
    values = [column.tolist() for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def write_report(meter: ClassificationMeter, class_names: list[str], folder: Path) -> list[Path]:
    """Writes `per_class.csv` and `confusion.csv` into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    per_class, confusion = (folder / name for name in ("per_class.csv", "confusion.csv"))
    write_per_class(per_class, class_names, meter.per_class(), (meter.noun, "precision", "recall", "f1"))
    counts = zip(class_names, meter.confusion.tolist(), strict=True)
    write_table(confusion, ["true \\ predicted", *class_names], ([name, *row] for name, row in counts))
    return [per_class, confusion]


def write_per_class(
    path: Path, class_names: Sequence[str], rows: Sequence[Mapping[str, float]], columns: Sequence[str]
) -> None:
    """Writes a .csv of the classes: number, name, and columns of the rows of `per_class`, a count first."""
    count, *scores = columns
    cells = (
        [index, name, row[count], *(f"{row[score]:.6f}" for score in scores)]
        for index, (name, row) in enumerate(zip(class_names, rows, strict=True))
    )
    write_table(path, ["class", "name", *columns], cells)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a .csv."""
    # utf-8-sig: spreadsheets then read Chinese names right.
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
