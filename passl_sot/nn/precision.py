"""Islands of float32 inside mixed-precision models, for what loses its meaning in 16 bits: softmax,
covariances, matrix normalizations. Such code casts its input up, switches autocasting off, and casts back.
"""

from contextlib import AbstractContextManager

import paddle
import paddle.nn.functional as F


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
