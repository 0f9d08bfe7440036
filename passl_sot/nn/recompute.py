"""Recomputation of activations in the backward pass."""

from typing import Any

import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute


def recompute_block(block: nn.Layer, x: paddle.Tensor, *more: Any) -> paddle.Tensor:
    """``block(x, *more)``, whose activations are computed again when the backward pass wants them."""
    norms = [layer for layer in block.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    momenta = [norm._momentum for norm in norms]
    again = False

    def run(x: paddle.Tensor) -> paddle.Tensor:
        nonlocal again
        # The second call must leave BatchNorm's running statistics alone, or they move twice a step.
        if again:
            for norm in norms:
                norm._momentum = 1.0  # Paddle's momentum is the weight of the old statistics
        again = True
        try:
            return block(x, *more)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm._momentum = momentum

    # The re-entrant form breaks inside DataParallel.
    return recompute(run, x, use_reentrant=False)
