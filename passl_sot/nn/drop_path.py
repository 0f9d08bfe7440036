"""Stochastic depth."""

from collections.abc import Mapping

import paddle
import paddle.nn.functional as F
from paddle import nn

__all__ = ["DropPath", "drop_path_rates", "rate_of_epoch"]


class DropPath(nn.Layer):
    """Drops a whole residual branch for some samples of a batch while training.

    One Bernoulli draw per sample; kept samples are divided by the keep probability, so the
    expectation is unchanged (Huang et al., "Deep Networks with Stochastic Depth", 2016).

    Args:
        rate: Probability of dropping, in [0, 1).

    Raises:
        ValueError: ``rate`` lies outside [0, 1).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop-path rate must lie in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[B, ...]``. Returns: the same shape."""
        if self.rate == 0.0 or not self.training:
            return x
        # A dropout over one number per sample: no arithmetic on shapes, so any traced batch works.
        axes = list(range(1, x.ndim))
        corner = paddle.slice(x, axes=axes, starts=[0] * len(axes), ends=[1] * len(axes))
        return x * F.dropout(paddle.ones_like(corner), p=self.rate, training=True)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"rate={self.rate:g}"


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates that grow linearly over the blocks, from 0 for the first to ``last`` for the last."""
    return [last * i / (depth - 1) if depth > 1 else 0.0 for i in range(depth)]


def rate_of_epoch(rate: float | Mapping[str, float], epoch: int) -> float:
    """The drop-path rate in an epoch.

    Args:
        rate: One number for all epochs, or a schedule: first epochs (counted from 0) to rates, such as
            ``{0: 0.4, 260: 0.6}``; the keys may be text, as a YAML file gives them.
        epoch: Epoch, counted from 0.

    Raises:
        ValueError: A key is no whole number, or the schedule does not start at epoch 0.
    """
    if not isinstance(rate, Mapping):
        return rate
    try:
        steps = {int(first): value for first, value in rate.items()}
    except ValueError:
        raise ValueError(f"drop_path_rate: the keys of a schedule are epochs, got {list(rate)}") from None
    if min(steps, default=-1) != 0:
        raise ValueError(f"drop_path_rate: a schedule starts at epoch 0, got {list(rate)}")
    return steps[max(first for first in steps if first <= max(epoch, 0))]
