"""Resizing of maps in exported graphs, in a form that engines can run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
import paddle.nn.functional as F


@contextmanager
def for_engines() -> Iterator[None]:
    """Has every bilinear `F.interpolate` traced in the block written as a trilinear one of depth 1.

    On CPUs Paddle Inference 3.3.1 raises at bilinear ones, whose oneDNN form takes no numbers in float64
    (issue 77340 of Paddle). Trilinear ones have no such form.
    """
    plain: Any = F.interpolate

    def resize(
        x: paddle.Tensor,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool = False,
        align_mode: int = 0,
        data_format: str = "NCHW",
        **more: Any,
    ) -> paddle.Tensor:
        if mode != "bilinear" or data_format != "NCHW":
            return plain(x, size, scale_factor, mode, align_corners, align_mode, data_format, **more)
        if size is None:
            size = (paddle.shape(x)[2:].astype("float32") * scale_factor).astype("int32")
        if isinstance(size, (list, tuple)):
            size = paddle.concat([paddle.to_tensor(side).astype("int32").reshape([1]) for side in size])
        sizes = paddle.concat([paddle.ones([1], size.dtype), size])
        deep = plain(x.unsqueeze(2), sizes, None, "trilinear", align_corners, align_mode, "NCDHW")
        return deep.squeeze(2)

    F.interpolate = resize  # type: ignore[assignment]
    try:
        yield
    finally:
        F.interpolate = plain
