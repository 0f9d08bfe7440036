"""Resizing and pooling of maps in exported graphs, in forms that engines can run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
import paddle.nn.functional as F


@contextmanager
def for_engines() -> Iterator[None]:
    """Writes bilinear `F.interpolate` and `F.adaptive_avg_pool2d` otherwise into graphs traced in the block.

    On CPUs Paddle Inference 3.3.1 raises at bilinear resizing, whose oneDNN form takes no numbers in float64
    (issue 77340 of Paddle); trilinear resizing of one slice has no such form. Of adaptive pooling paddle2onnx
    2.1.0 knows only sizes that its bins divide; sums of products go everywhere.
    """
    interpolate: Any = F.interpolate
    pool: Any = F.adaptive_avg_pool2d

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
            return interpolate(x, size, scale_factor, mode, align_corners, align_mode, data_format, **more)
        if size is None:
            size = (paddle.shape(x)[2:].astype("float32") * scale_factor).astype("int32")
        if isinstance(size, (list, tuple)):
            size = paddle.concat([paddle.to_tensor(side).astype("int32").reshape([1]) for side in size])
        sizes = paddle.concat([paddle.ones([1], size.dtype), size])
        deep = interpolate(x.unsqueeze(2), sizes, None, "trilinear", align_corners, align_mode, "NCDHW")
        return deep.squeeze(2)

    F.interpolate = resize  # type: ignore[assignment]
    F.adaptive_avg_pool2d = _pool  # type: ignore[assignment]
    try:
        yield
    finally:
        F.interpolate = interpolate
        F.adaptive_avg_pool2d = pool


def _pool(x_bchw: paddle.Tensor, output_size: Any, *_: Any, **__: Any) -> paddle.Tensor:
    """Means over bins whose number is fixed, and whose borders follow from the size: rounded outwards."""
    if isinstance(output_size, int):
        output_size = (output_size, output_size)
    rows = _shares(paddle.shape(x_bchw)[2], output_size[0])
    columns = _shares(paddle.shape(x_bchw)[3], output_size[1])
    # Not by matmul, which oneDNN gets wrong where the inner dimension is 1.
    x_bcpw = (x_bchw.unsqueeze(2) * rows.unsqueeze(-1)).sum(3)
    return (x_bcpw.unsqueeze(3) * columns).sum(4)


def _shares(side: paddle.Tensor, bins: int) -> paddle.Tensor:
    """What each place of a side counts in each bin's mean: `[bins, side]`."""
    places = paddle.arange(side).astype("float32")
    number = paddle.arange(bins, dtype="float32").unsqueeze(1)
    # A bin reaches from floor(i n / b) to ceil((i + 1) n / b): it has each place that isn't wholly outside.
    length = side.astype("float32")
    inside = ((places + 1) * bins > number * length).astype("float32")
    inside *= (places * bins < (number + 1) * length).astype("float32")
    return inside / inside.sum(1, keepdim=True)
