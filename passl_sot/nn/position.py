"""Position tables."""

import numpy as np
import paddle
import paddle.nn.functional as F

__all__ = ["resample_table", "sinusoid_table"]


def sinusoid_table(num_positions: int, dim: int) -> paddle.Tensor:
    """Fixed sinusoidal position table (Vaswani et al. 2017, section 3.5).

    Row p, column j holds the sine (even j) or cosine (odd j) of
    ``p / 10000 ** (2 * (j // 2) / dim)``. Computed in float64 and rounded to float32, as the
    official SoT and T2T-ViT codes do, so that the bits agree.

    Args:
        num_positions: Number of rows N; row 0 is 0, 1, 0, 1, ...
        dim: Width C.

    Returns:
        Tensor ``[1, N, C]``, float32.
    """
    column = np.arange(dim)
    angle = np.arange(num_positions)[:, None] / np.power(10000.0, 2.0 * (column // 2) / dim)[None, :]
    table = np.where(column % 2 == 0, np.sin(angle), np.cos(angle))
    return paddle.to_tensor(table[None].astype("float32"))


def resample_table(table_bchw: paddle.Tensor, grid_size: tuple[int, int]) -> paddle.Tensor:
    """A learned position table for another grid: bicubic, corners not aligned, as DeiT's authors do.

    Args:
        table_bchw: Table ``[1, C, H, W]``.
        grid_size: Rows and columns wanted.

    Returns:
        ``[1, C, *grid_size]``, of the same type; the table itself where the grid is its own.
    """
    if tuple(table_bchw.shape[2:]) == tuple(grid_size):
        return table_bchw
    with paddle.no_grad():
        return F.interpolate(table_bchw, size=list(grid_size), mode="bicubic", align_corners=False)
