"""Islands of float32 inside mixed-precision models, for what loses its meaning in 16 bits: softmax,
covariances, matrix normalizations. Such code casts its input up, switches autocasting off, and casts back.
And the check of a model's input, which must be of floating-point numbers to begin with.
"""

from contextlib import AbstractContextManager
from typing import Any

import paddle
import paddle.nn.functional as F

_WHOLE_NUMBERS = (paddle.uint8, paddle.int8, paddle.int16, paddle.int32, paddle.int64, paddle.bool)


def is_low_precision(x: paddle.Tensor) -> bool:
    """Whether ``x`` is float16 or bfloat16."""
    return x.dtype in (paddle.float16, paddle.bfloat16)


def at_least_float32(x: paddle.Tensor) -> paddle.Tensor:
    """``x`` as float32 when it is float16 or bfloat16, else ``x`` itself."""
    # float64 stays, so that double-precision checks are exact. In float16 an epsilon of 1e-8 would be zero.
    return x.astype("float32") if is_low_precision(x) else x


def autocast_off() -> AbstractContextManager[None]:
    """A block in which ``paddle.amp.auto_cast`` of an outer block has no effect."""
    return paddle.amp.auto_cast(enable=False)


def softmax(x: paddle.Tensor, axis: int = -1) -> paddle.Tensor:
    """Softmax computed in float32 for 16-bit inputs; the result has the input's type."""
    if is_low_precision(x):
        return F.softmax(at_least_float32(x), axis=axis).astype(x.dtype)
    return F.softmax(x, axis=axis)


def check_floats(name: str, x: Any) -> None:
    """Raise a TypeError that says what to do unless ``x`` is a tensor of floating-point numbers."""
    kind = str(x.dtype).rpartition(".")[2] if hasattr(x, "dtype") else ""
    normalized = "(x.astype('float32') / 255 - mean) / std"
    cure = "with the recipe's mean and std, or give images to passl_sot.Predictor, which prepares them"
    # A traced graph has tensors of another class.
    if paddle.in_dynamic_mode() and not isinstance(x, paddle.Tensor):
        if "float" in kind:
            cure = "write model(paddle.to_tensor(x).astype('float32'))"
        else:
            cure = f"write model(paddle.to_tensor({normalized})) {cure}"
        given = " ".join(filter(None, (type(x).__module__.partition(".")[0], type(x).__name__, kind)))
        raise TypeError(f"{name} takes a paddle.Tensor of float32, got {given}: {cure}")
    if x.dtype in _WHOLE_NUMBERS:
        raise TypeError(f"{name} takes float32, got {kind} pixels: write model({normalized}) {cure}")
