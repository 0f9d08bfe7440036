"""Scores of texts, as GLUE has them: by counts for classes, over all sentences for numbers. In NumPy."""

import math

import numpy as np

from passl_sot.metrics.classification import ClassificationMeter, WholeSetMeter


class SentenceMeter(ClassificationMeter):
    """Scores of sentences of one class each; all but the loss are 100 times what their formulas give."""

    noun = "sentences"

    def result(self) -> dict[str, float]:
        """Accuracy, Matthews correlation, F1, mean cross entropy (nats), and the number of sentences.

        With two classes F1 is that of the second; it and the mean over the classes (`macro_f1`) are those of
        scikit-learn, as is the correlation. An empty meter gives NaN.
        """
        total = self.items
        if not total:
            scores = ("accuracy", "matthews", "f1", "macro_f1", "loss")
            return {**dict.fromkeys(scores, math.nan), self.noun: 0}
        macro = 100 * self.macro_f1()
        f1 = macro
        if self.num_classes == 2:
            f1 = 100 * self.per_class()[1]["f1"]
        return {
            "accuracy": 100 * float(np.trace(self.confusion)) / total,
            "matthews": 100 * matthews(self.confusion),
            "f1": f1,
            "macro_f1": macro,
            "loss": float(self.sums[2]) / total,
            self.noun: total,
        }


def matthews(confusion: np.ndarray) -> float:
    """The correlation of true (rows) and predicted classes (columns), -1 to 1; 0 where either is constant.

    For K classes that of Gorodkin, "Comparing two K-category assignments by a K-category correlation
    coefficient", 2004.
    """
    counts = confusion.astype(np.float64)
    true = counts.sum(axis=1)
    predicted = counts.sum(axis=0)
    total = counts.sum()
    covariance = np.trace(counts) * total - true @ predicted
    spread = (total**2 - true @ true) * (total**2 - predicted @ predicted)
    if spread <= 0:
        return 0.0
    return float(covariance / math.sqrt(spread))


class CorrelationMeter(WholeSetMeter):
    """How predicted numbers follow the true ones; a correlation is one of the whole set.

    Args:
        sentences: Of the set.
    """

    def __init__(self, sentences: int):
        super().__init__(np.zeros(sentences, np.float64), np.zeros(sentences, np.float64))

    def take(self, index: np.ndarray, outputs: np.ndarray, labels: np.ndarray) -> None:
        """Takes in a batch: places [B] in the set, outputs [B, 1], true numbers [B]."""
        self.outputs[index] = outputs[:, 0]
        self.labels[index] = labels
        self.counted[index] += 1

    def result(self) -> dict[str, float]:
        """Pearson's and Spearman's correlation times 100, mean squared error, and the number of sentences.

        The correlations are NaN where either side is constant.
        """
        found = {"pearson": math.nan, "spearman": math.nan, "loss": math.nan, "sentences": self.items}
        if self.items:
            found["pearson"] = 100 * _pearson(self.outputs, self.labels)
            found["spearman"] = 100 * _pearson(_ranks(self.outputs), _ranks(self.labels))
            found["loss"] = float(np.square(self.outputs - self.labels).mean())
        return found


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    # Asked first: of equal numbers the mean may be another by rounding.
    if not np.ptp(x) or not np.ptp(y):
        return math.nan
    x = x - x.mean()
    y = y - y.mean()
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


def _ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value among all, from 1; equal ones share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
