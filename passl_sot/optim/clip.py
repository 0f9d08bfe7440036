"""Global-norm gradient clipping with torch's formula."""

import math

import paddle

from passl_sot.nn.precision import at_least_float32


def global_grad_norm(parameters: list[paddle.Tensor]) -> float:
    """L2 norm over all gradients together; non-finite where any gradient is. Waits for the device."""
    # Squares of half-precision gradients would overflow.
    squares = [at_least_float32(p.grad).square().sum() for p in parameters if p.grad is not None]
    if not squares:
        return 0.0
    return math.sqrt(float(paddle.stack(squares).sum()))


@paddle.no_grad()
def scale_gradients(parameters: list[paddle.Tensor], factor: float) -> None:
    """Multiplies every gradient by `factor`, in place."""
    for p in parameters:
        if p.grad is not None:
            p.grad.scale_(factor)


def clip_by_global_norm(parameters: list[paddle.Tensor], norm: float, max_norm: float) -> None:
    """Scales the gradients to at most `max_norm`, given their global `norm` (`clip_grad_norm_` of torch)."""
    factor = max_norm / (norm + 1e-6)  # torch's, against a norm of 0
    if factor < 1:
        scale_gradients(parameters, factor)
