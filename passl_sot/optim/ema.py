"""Exponential moving average of a model's weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import paddle

from passl_sot.nn.precision import at_least_float32


class ModelEMA:
    """Average of every floating-point state-dict entry, BatchNorm statistics included.

    After each update `average = decay * average + (1 - decay) * weight`, from a copy of the initial
    weights, without bias correction (timm's ModelEma, which the papers' code uses). Kept in float32, or in
    float64 where the model is.

    Args:
        model: The model to follow.
        decay: 0.99996 makes an average over about 25,000 updates.
    """

    def __init__(self, model: paddle.nn.Layer, decay: float):
        self.decay = decay
        self.updates = 0
        self._sources = {k: v for k, v in model.state_dict().items() if paddle.is_floating_point(v)}
        # In half precision, steps of 1 - decay would be rounded away.
        self.average = {k: at_least_float32(v.detach()).clone() for k, v in self._sources.items()}

    @paddle.no_grad()
    def update(self) -> None:
        """Takes in the model's weights as they are now."""
        for name, average in self.average.items():
            # As a step towards the weight, what never changes (frozen features) stays exactly as it is.
            average.add_((at_least_float32(self._sources[name]) - average).scale_(1 - self.decay))
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the model the averaged weights inside a `with` block, and its own back afterwards."""
        own = {k: v.detach().clone() for k, v in self._sources.items()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    def load(self, average: dict, updates: int) -> None:
        """Restores what `average` and `updates` held when a checkpoint was written."""
        for name, value in average.items():
            self.average[name].set_value(value)
        self.updates = updates

    @paddle.no_grad()
    def _write(self, values: dict) -> None:
        for name, target in self._sources.items():
            target.set_value(values[name].astype(target.dtype))


def choose_weights(wanted: str, ema: ModelEMA | None, updates: int, say: Callable[..., None]) -> str:
    """The weights by which a run judges itself: as wanted, unless the average can't forget its start.

    Args:
        wanted: "raw" or "ema".
        updates: Of the whole run.
        say: Told why it is "raw" instead.
    """
    if wanted == "raw" or ema is None or ema.decay**updates <= 0.01:
        return wanted
    say(
        "checkpoint.best_by: raw instead of ema, because %.0f %% of the average will still be the initial "
        "weights after this run's %d updates; a smaller ema.decay makes it usable",
        100 * ema.decay**updates,
        updates,
    )
    return "raw"
