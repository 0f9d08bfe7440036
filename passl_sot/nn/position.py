"""Position tables, and learned tables brought to another size."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn.precision import at_least_float32


def sinusoid_table(num_positions: int, dim: int) -> paddle.Tensor:
    """Fixed sinusoidal position table (Vaswani et al. 2017, section 3.5).

    ``[1, num_positions, dim]``, float32; row p, column j holds the sine (even j) or cosine (odd j) of
    ``p / 10000 ** (2 * (j // 2) / dim)``, so that row 0 is 0, 1, 0, 1, ...
    """
    # Computed in float64 and rounded, as the official SoT and T2T-ViT codes do, so that the bits agree.
    column = np.arange(dim)
    angle = np.arange(num_positions)[:, None] / np.power(10000.0, 2.0 * (column // 2) / dim)[None, :]
    table = np.where(column % 2 == 0, np.sin(angle), np.cos(angle))
    return paddle.to_tensor(table[None].astype("float32"))


def bicubic_matrix(new: int, old: int) -> np.ndarray:
    """Weights ``[new, old]`` of bicubic interpolation along one axis, float64; rows sum to 1.

    Keys' kernel with a = -0.75, centers of pixels aligned (``align_corners=False``), the border
    repeated, no antialiasing.
    """
    # That is PyTorch's interpolate(mode="bicubic"), with which DeiT's and Swin's authors bring their tables
    # to another size.
    a = -0.75
    center = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(center)
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        t = np.abs(first + tap - center)
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * (t**3 - 5 * t**2 + 8 * t - 4)
        column = np.clip(first + tap, 0, old - 1).astype("int64")
        np.add.at(matrix, (np.arange(new), column), np.where(t <= 1, near, far))
    return matrix


def _resize_grid(grid_hwc: np.ndarray, new: tuple[int, int]) -> np.ndarray:
    rows, columns = (bicubic_matrix(n, o) for n, o in zip(new, grid_hwc.shape[:2], strict=True))
    return np.einsum("hi,wj,ijc->hwc", rows, columns, grid_hwc.astype("float64"), optimize=True)


def resize_position_table(
    table: np.ndarray, prefix: int, old: tuple[int, int], new: tuple[int, int]
) -> np.ndarray:
    """A learned position table ``[1, P+N, C]`` interpolated to another grid (rows and columns), in its type.

    The rows of the ``prefix`` (P) tokens before the words stay.
    """
    if old == new:
        return table
    words = _resize_grid(table[0, prefix:].reshape(*old, -1), new).reshape(new[0] * new[1], -1)
    return np.concatenate([table[0, :prefix], words.astype(table.dtype)])[None]


def repeat_positions(table: np.ndarray, first: int, length: int) -> np.ndarray:
    """A learned table of the positions of tokens in texts, ``[F+L, C]``, for texts of another length.

    Fewer rows are the first ones. More are the old ones again from the first on, as Longformer (arXiv
    2004.05150) starts from RoBERTa: texts that fitted before are computed as before, which interpolated rows
    would not leave them.

    Args:
        table: The rows.
        first: Rows F before that of a text's first token, which stay.
        length: Tokens that a text may have.
    """
    rows = np.arange(length) % (len(table) - first) + first
    return np.concatenate([table[:first], table[rows]])


def resize_position_map(values_bchw: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """A position map ``[1, C, H, W]`` interpolated to another grid, bicubically."""
    grid_hwc = _resize_grid(np.moveaxis(values_bchw[0], 0, 2), grid)
    return np.ascontiguousarray(np.moveaxis(grid_hwc, 2, 0)[None]).astype(values_bchw.dtype)


def interpolate_map(values_bchw: paddle.Tensor, grid: Sequence[Any]) -> paddle.Tensor:
    """As ``resize_position_map``, of a tensor to a grid that a traced graph may not know yet."""
    return F.interpolate(values_bchw, size=list(grid), mode="bicubic", align_corners=False)


def resize_bias_table(table: np.ndarray, old: int, new: int) -> np.ndarray:
    """Relative position biases interpolated to another side of a window, in their type.

    From ``[(2·old - 1)², h]``, one row per offset, row by row, to ``[(2·new - 1)², h]``.
    """
    if old == new:
        return table
    side = 2 * new - 1
    grid = _resize_grid(table.reshape(2 * old - 1, 2 * old - 1, -1), (side, side))
    return grid.reshape(side * side, -1).astype(table.dtype)


def resize_parameter(layer: nn.Layer, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the values of the parameter ``name`` of ``layer``, given as float32 or float64.

    The parameter stays the same object where the shape does. Otherwise it is a new one of the
    same type, frozen if the old one was: an optimizer built before still holds the old one.
    """
    old = getattr(layer, name)
    # NumPy has no bfloat16.
    values = change(at_least_float32(old).numpy())
    if tuple(old.shape) != values.shape:
        zero = nn.initializer.Constant(0.0)
        parameter = layer.create_parameter(list(values.shape), dtype=old.dtype, default_initializer=zero)
        parameter.stop_gradient = old.stop_gradient
        setattr(layer, name, parameter)
    with paddle.no_grad():
        getattr(layer, name).set_value(paddle.to_tensor(values).astype(old.dtype))
