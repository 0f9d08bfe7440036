"""Whether probabilities are what they say: calibration errors and Brier score in NumPy, and the picture.

The confidence of a prediction is the probability of the predicted class. Of 100 items with a confidence of
0.8 a calibrated model has 80 right.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from passl_sot.metrics.classification import WholeSetMeter
from passl_sot.utils.figure import heading, new_figure

BINS = 15  # Guo et al.'s


@dataclass
class Bins:
    """Items in groups of similar confidence, from low to high; groups without items are left out.

    Attributes:
        edges: Bounds of each group, [M, 2]; the upper one belongs to it.
        counts: Items, int64 [M].
        confidence: Their mean confidence, [M].
        accuracy: Fraction of them that is right, [M].
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, confidence: np.ndarray, right: np.ndarray, edges: np.ndarray) -> "Bins":
        """Sorts items into groups.

        Args:
            confidence: [N].
            right: Whether each is predicted right, [N].
            edges: Rising bounds of the groups, the outermost ones included, [M + 1].
        """
        # Equal confidences are never parted, or the order of the items would count.
        place = np.searchsorted(edges[1:-1], confidence)
        counts = np.bincount(place, minlength=len(edges) - 1)
        some = counts > 0
        sums = [np.bincount(place, values, len(edges) - 1)[some] for values in (confidence, right)]
        means = [total / counts[some] for total in sums]
        return cls(np.column_stack([edges[:-1], edges[1:]])[some], counts[some], *means)

    def error(self) -> float:
        """The mean distance of accuracy and confidence over the items, 0 to 1; NaN without items."""
        if not len(self.counts):
            return math.nan
        return float(np.average(abs(self.accuracy - self.confidence), weights=self.counts))


class CalibrationMeter(WholeSetMeter):
    """Calibration of predictions of one label each; equal groups are of the whole set, so all are kept.

    Args:
        items: Of the set.
    """

    def __init__(self, items: int):
        # Confidence and Brier score of each item; and whether it is right.
        super().__init__(np.zeros((items, 2), np.float64), np.zeros(items, np.int64))

    def take(self, index: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> None:
        """Takes in a batch: places [B] in the set, logits [B, K], classes [B]."""
        logits = logits.astype(np.float64)
        exps = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exps / exps.sum(axis=1, keepdims=True)
        best = logits.argmax(axis=1)
        rows = np.arange(len(labels))
        true = np.zeros_like(probabilities)
        true[rows, labels] = 1
        squares = np.square(probabilities - true).sum(axis=1)
        self.outputs[index] = np.column_stack([probabilities[rows, best], squares])
        self.labels[index] = best == labels
        self.counted[index] += 1

    def bins(self, *, equal: bool = False) -> Bins:
        """The items in 15 groups, of equal width or, with `equal`, of equal numbers of items."""
        seen = self.counted > 0
        confidence = self.outputs[seen, 0]
        edges = np.linspace(0, 1, BINS + 1)
        if equal and len(confidence):
            edges = np.quantile(confidence, edges)
        return Bins.of(confidence, self.labels[seen], edges)

    def result(self) -> dict[str, float]:
        """Calibration errors in per cent, and the Brier score, 0 to 2; all the lower the better.

        `ece` is over groups of equal width (Guo et al., "On Calibration of Modern Neural Networks", 2017,
        eq. 3), `adaptive_ece` over groups of equal numbers (Nguyen and O'Connor, 2015), between whose bounds
        scikit-learn interpolates as here; `brier` the mean squared distance of probabilities from the truth,
        summed over the classes (Brier, 1950). NaN without items.
        """
        brier = math.nan
        if self.items:
            brier = float(self.outputs[self.counted > 0, 1].mean())
        return {
            "ece": 100 * self.bins().error(),
            "adaptive_ece": 100 * self.bins(equal=True).error(),
            "brier": brier,
        }

    def groups(self, noun: str) -> list[dict[str, float]]:
        """The groups of equal width: bounds, mean confidence, accuracy (0 to 1) and number of items."""
        bins = self.bins()
        columns = (*bins.edges.T, bins.confidence, bins.accuracy, bins.counts)
        keys = ("above", "to", "confidence", "accuracy", noun)
        return [
            dict(zip(keys, row, strict=True))
            for row in zip(*(column.tolist() for column in columns), strict=True)
        ]


def save_reliability(path: Path, meter: CalibrationMeter, title: str, noun: str) -> None:
    """Draws accuracy over confidence, in groups of equal width, and how many items each has, into a PNG."""
    bins = meter.bins()
    result = meter.result()
    left, right = bins.edges.T
    width = right - left
    figure = new_figure(5, 6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(left, bins.accuracy, width, align="edge", color="C0", edgecolor="white", label="accuracy")
    # From what was right to what was said.
    gap = bins.confidence - bins.accuracy
    for label, color, chosen in (("too sure", "C3", gap > 0), ("too unsure", "C1", gap < 0)):
        place = (left[chosen], gap[chosen], width[chosen], bins.accuracy[chosen])
        upper.bar(*place, align="edge", color=color, edgecolor="white", hatch="//", label=label)
    upper.plot([0, 1], [0, 1], "--", color="0.4", linewidth=1, label="calibrated")
    upper.set_ylabel("accuracy")
    upper.set_ylim(0, 1)
    upper.legend(fontsize=8, loc="upper left")
    shares = bins.counts / max(bins.counts.sum(), 1)
    lower.bar(left, shares, width, align="edge", color="C0", edgecolor="white")
    lower.set_ylabel(f"share of {noun}")
    lower.set_xlabel("confidence")
    lower.set_xlim(0, 1)
    scores = (
        f"ECE {result['ece']:.2f} %, adaptive {result['adaptive_ece']:.2f} %, Brier {result['brier']:.3f}"
    )
    figure.suptitle(**heading("\n".join(filter(None, [title, scores]))), fontsize=10)
    figure.set_layout_engine("tight")
    figure.savefig(path)
