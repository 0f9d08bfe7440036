"""Second-order matrices of a head before and after their normalization, and what this does to them.

Legend: n items, h heads, k singular values s₁ ≥ s₂ ≥ ... of a matrix.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from passl_sot.config import UserError
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.heads.base import Matrices
from passl_sot.nn.normalization import ISQRTCOV, MatrixNorm, SvPN
from passl_sot.utils.figure import heading, new_figure
from passl_sot.vis.gradients import as_arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEADS = 8  # whose matrices are drawn, at most
# Inches: the whole, a head's matrix at least, the bar of colors, titles, a line of words, charts.
_WIDTH, _SMALLEST_PANEL = 11.0, 1.5
_BAR, _HEAD, _LINE, _CHART = 0.9, 0.85, 0.28, 3.6
_MARGIN = 0.15
_CENTER: dict[str, Any] = {"fontsize": 10, "ha": "center", "va": "top"}
_SMALLEST = 1e-6  # of the largest singular value; what is below is rounding noise of float32
_SAME = 0.005  # a change of a fraction that doesn't count
_COLORS = ("#1f6fb4", "#d1651f")
_NAMES = ("before", "after")


def second_order(model: Classifier, inputs: tuple[paddle.Tensor, ...]) -> Matrices:
    """The matrices by which a model's head pools words; a UserError where it has none.

    Args:
        model: In evaluation mode.
        inputs: What its call takes: images, or texts with their masks.
    """
    found = None
    if hasattr(model.head, "matrices"):
        with paddle.no_grad():
            found = model.head.matrices(*as_arguments(model.forward_features(*inputs)))
    if found is None:
        kind = getattr(model.head, "representation_name", "none")
        raise UserError(
            f"the model's head, {type(model.head).__name__} with representation {kind}, has no second-order "
            "matrix: SecondOrderHead with MGCrP or GCP and CrossCovarianceHead have one"
        )
    return found


class Spectra:
    """Second-order matrices of items: their mean, and the singular values of each."""

    def __init__(self) -> None:
        self.norm: MatrixNorm | None = None
        self._sums: list[Any] = [0.0, 0.0]
        self._values: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def add(self, matrices: Matrices) -> None:
        """Takes in those of a batch."""
        self.norm = matrices.norm
        for i, tensor in enumerate((matrices.before, matrices.after)):
            part = tensor.numpy().astype("float64")
            self._sums[i] = self._sums[i] + part.sum(axis=0)
            self._values[i].append(np.linalg.svd(part, compute_uv=False))

    @property
    def singular_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Before and after, each ``[n, h, k]``."""
        before, after = (np.concatenate(values) for values in self._values)
        return before, after

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean matrix of each head, ``[h, rows, columns]``, before and after."""
        before, after = (total / len(self.singular_values[0]) for total in self._sums)
        return before, after

    def verdict(self) -> str:
        """What the normalization does, in a sentence."""
        (first, share, _), (_, share_after, _) = (_facts(values) for values in self.singular_values)
        words = _words(self.norm)
        if not first:
            return f"{words}: the matrices are zero, as nothing is pooled"
        if share_after < share - _SAME:
            return f"{words}: the spectrum becomes flatter, the first singular value dominates less"
        if share_after > share + _SAME:
            return f"{words}: the spectrum becomes steeper, the first singular value dominates more"
        return f"{words}: a matrix is scaled as a whole, all its singular values by one factor"

    def summary(self) -> str:
        """The same with numbers."""
        (first, share, spread), (first_after, share_after, spread_after) = map(_facts, self.singular_values)
        lines = [
            f"{self.verdict()}.",
            f"s₁ is {first:.3g} before and {first_after:.3g} after (geometric mean), and of the sum of all "
            f"singular values {100 * share:.0f} % before and {100 * share_after:.0f} % after.",
        ]
        if len(self.singular_values[0]) > 1:
            lines.append(
                f"From one item to another s₁ differs by a factor of {spread:.3g} before and "
                f"{spread_after:.3g} after (one standard deviation)."
            )
        return "\n".join(lines)

    def figure(self, title: str) -> "Figure":
        """Mean matrices of the heads as heat maps, and their singular values as charts.

        Args:
            title: Of the item, or of all of them.
        """
        count, rows, columns = self.means[0].shape
        heads = min(_HEADS, count)
        gap = max(1, columns // 10)
        joined = heads * (columns + gap) - gap
        # A single matrix leaves room for the other beside it.
        wide = (_WIDTH - 2 * _BAR) / 2
        if heads > 1:
            wide = max(_WIDTH - _BAR, heads * _SMALLEST_PANEL)
        high = (wide - _MARGIN) * rows / joined
        places = [(0.0, _HEAD), (wide + _BAR, _HEAD)]
        if heads > 1:
            places = [(0.0, _HEAD), (0.0, _HEAD + high + 2 * _LINE)]
        bottom = places[1][1] + high + 2 * _LINE
        figure = new_figure(max(_WIDTH, wide + _BAR), bottom + _CHART)
        title_words = heading(f"{title}\n{self.verdict()}")
        figure.text(0.5, 1 - 0.1 / figure.get_figheight(), title_words.pop("t"), **title_words, **_CENTER)
        for name, matrices, (left, top) in zip(_NAMES, self.means, places, strict=True):
            axes = _axes_at(figure, left + _MARGIN, top, wide - _MARGIN, high)
            bar = _axes_at(figure, left + wide + 0.08, top, 0.13, high)
            _draw_matrices(axes, bar, name, matrices, gap)
        half = figure.get_figwidth() / 2
        charts = [_axes_at(figure, x + 0.75, bottom + _LINE, half - 0.9, _CHART - 0.85) for x in (0.0, half)]
        self._draw_charts(*charts)
        return figure

    def _draw_charts(self, whole: "Axes", shape: "Axes") -> None:
        floor = _SMALLEST * max(values.max() for values in self.singular_values)
        kinds = zip(_NAMES, _COLORS, ("-", "--"), self.singular_values, strict=True)
        for name, color, style, values in kinds:
            logs = np.ma.log10(np.ma.masked_less_equal(values, floor))
            numbers = np.arange(1, values.shape[-1] + 1)
            for head in logs.mean(axis=0):
                whole.plot(numbers, 10.0**head, color=color, alpha=0.3, linewidth=0.8)
            mean = logs.mean(axis=(0, 1))
            whole.plot(numbers, 10.0**mean, color=color, linewidth=2, label=name)
            if len(values) > 1:
                spread = logs.mean(axis=1).std(axis=0)
                whole.fill_between(
                    numbers, 10.0 ** (mean - spread), 10.0 ** (mean + spread), color=color, alpha=0.15
                )
            relative = (logs - logs[..., :1]).mean(axis=(0, 1))
            shape.plot(numbers, 10.0**relative, style, color=color, linewidth=2, label=name)
        items, heads, _ = self.singular_values[0].shape
        shown = ["thin: each head"] * (heads > 1) + ["band: one std over items"] * (items > 1)
        whole.set_title("; ".join(["singular values (mean)", *shown]), fontsize=8.5)
        shape.set_title("divided by the first: the spectrum's shape", fontsize=8.5)
        whole.set_ylabel("singular value")
        shape.set_ylabel("of the first")
        for axes in (whole, shape):
            axes.set_yscale("log")
            axes.set_xlabel("number of the singular value")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)


def _axes_at(figure: "Figure", left: float, top: float, wide: float, high: float) -> "Axes":
    """A pair of axes at a place in inches from above left."""
    # By hand: matplotlib's own layout draws everything twice, half a second for each figure.
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))


def _draw_matrices(axes: "Axes", bar: "Axes", name: str, matrices: np.ndarray, gap: int) -> None:
    """Matrices of heads side by side; what of the entries is beyond the 99.5th percentile has its color."""
    count, rows, columns = matrices.shape
    # Few entries, such as a diagonal's, would leave all others pale.
    limit = float(np.percentile(np.abs(matrices), 99.5)) or 1.0
    shown = matrices[:_HEADS]
    joined = np.full((rows, len(shown) * (columns + gap) - gap), np.nan)
    starts = np.arange(len(shown)) * (columns + gap)
    for start, matrix in zip(starts, shown, strict=True):
        joined[:, start : start + columns] = matrix
    picture = axes.imshow(
        joined, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto"
    )
    labels = [f"head {number}" for number in range(1, len(shown) + 1)] if count > 1 else [""]
    axes.set_xticks(starts + (columns - 1) / 2, labels, fontsize=8)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    left = f" (the first {_HEADS} of {count} heads)" * (count > _HEADS)
    axes.set_title(f"{name} normalization: {rows}×{columns}{left}", fontsize=9)
    axes.figure.colorbar(picture, cax=bar, extend="both").set_label("entries", fontsize=8)
    bar.tick_params(labelsize=7)


def _facts(values_nhk: np.ndarray) -> tuple[float, float, float]:
    """Geometric mean of s₁, mean fraction of s₁ in the sum, and the factor by which s₁ differs by item."""
    first = values_nhk[..., 0]
    used = first > 0
    if not used.any():
        return 0.0, 0.0, 1.0
    logs = np.ma.log(np.ma.masked_equal(first, 0.0))
    share = float((first[used] / values_nhk.sum(axis=-1)[used]).mean())
    return float(np.exp(logs.mean())), share, float(np.exp(logs.mean(axis=1).std()))


def _words(norm: MatrixNorm | None) -> str:
    """What normalizes, with the settings that decide what it does."""
    if isinstance(norm, SvPN):
        values = f"{norm.num_sv or 'all'} singular value{'s' * (norm.num_sv != 1)}"
        iterations = f"{norm.num_iters} iteration{'s' * (norm.num_iters != 1)}"
        return f"SvPN, power {norm.alpha:g}, {values}, {iterations}"
    if isinstance(norm, ISQRTCOV):
        return f"ISQRTCOV, {norm.num_iters} Newton-Schulz steps"
    if type(norm) is MatrixNorm:
        return "no normalization"
    return type(norm).__name__
