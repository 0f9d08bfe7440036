"""The arithmetic mean of the weights of several models."""

from collections.abc import Mapping

import numpy as np

from passl_sot.weights import CheckpointError

_STATISTICS = "._variance"  # of each BatchNorm


class WeightSum:
    """Weights of one model or more, added up in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, np.ndarray] = {}
        self._kinds: dict[str, np.dtype] = {}

    def plus(self, arrays: Mapping[str, np.ndarray], source: str) -> "WeightSum":
        """The sum with one model more; this one stays as it is.

        Args:
            arrays: The model's weights by name, BatchNorm statistics included.
            source: Where they are from, for errors.

        Raises:
            CheckpointError: They have other names or shapes than those before, or other whole numbers, of
                which there is no mean.
        """
        more = WeightSum()
        more.count = self.count + 1
        # The first model's types are those of the mean.
        more._kinds = self._kinds or {name: array.dtype for name, array in arrays.items()}
        # Sorted, so that an error names the same tensor each time.
        for name in sorted({*more._kinds, *arrays}):
            if name not in arrays or name not in more._kinds:
                raise CheckpointError(f"{source} has not the weights of the first: {name} is in one alone")
            array = np.asarray(arrays[name])
            if self.count:
                self._check(name, array, source)
            # Counters and tables of indices: alike in all models, or refused.
            if more._kinds[name].kind != "f":
                more._sums[name] = array
            elif self.count:
                more._sums[name] = self._sums[name] + array
            else:
                more._sums[name] = array.astype(np.float64)
        return more

    def _check(self, name: str, array: np.ndarray, source: str) -> None:
        before = self._sums[name]
        if array.shape != before.shape:
            raise CheckpointError(
                f"{source}: {name} is {list(array.shape)}, and {list(before.shape)} in the first"
            )
        if self._kinds[name].kind != "f" and not np.array_equal(array, before):
            raise CheckpointError(f"{source}: {name} are other whole numbers than in the first")

    def mean(self) -> dict[str, np.ndarray]:
        """The mean weights, in the types of the first model."""
        means = {}
        for name, kind in self._kinds.items():
            means[name] = self._sums[name]
            if kind.kind == "f":
                means[name] = (self._sums[name] / self.count).astype(kind)
        return means

    def statistics(self) -> int:
        """How many BatchNorm layers the models have, whose means and variances are averaged as well."""
        return sum(name.endswith(_STATISTICS) for name in self._kinds)
