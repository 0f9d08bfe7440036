"""Attention inside windows of a token grid, plain or shifted (Swin, arXiv 2103.14030, section 3.2).

Legend: B batch, L = H·W tokens of the grid, C width, h heads, w side of a window, N = w²
tokens of a window, W windows of the (padded) grid.
"""

from typing import Any

import numpy as np
import paddle
from paddle import nn

from passl_sot.nn.block import Attention
from passl_sot.nn.initializers import trunc_normal_
from passl_sot.nn.position import resize_bias_table, resize_parameter

_BLOCKED = -100.0  # for a pair of tokens from different regions, in place of minus infinity; as published


def relative_position_index(window: int) -> np.ndarray:
    """Row of the bias table for each pair of tokens of a window, int64 ``[N, N]``."""
    rows, columns = np.divmod(np.arange(window * window), window)
    dy = rows[:, None] - rows[None] + window - 1
    dx = columns[:, None] - columns[None] + window - 1
    return dy * (2 * window - 1) + dx


def _padded(grid: tuple[int, int], window: int) -> tuple[int, int]:
    return -(-grid[0] // window) * window, -(-grid[1] // window) * window


def cut_windows(plane: np.ndarray, window: int) -> np.ndarray:
    """A plane ``[H, W]`` cut into windows, ``[H·W / N, N]``."""
    height, width = plane.shape
    cut = plane.reshape(height // window, window, width // window, window)
    return cut.transpose(0, 2, 1, 3).reshape(-1, window * window)


def window_order(grid: tuple[int, int], window: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Where tokens go: padding, a cyclic shift up and to the left, and partition in one.

    For each place of each window the token that stands there, int64 ``[W·N]``; padding is token L, one
    after the last. And for each token its place, int64 ``[L]``.
    """
    height, width = _padded(grid, window)
    plane = np.full((height, width), grid[0] * grid[1], dtype="int64")
    plane[: grid[0], : grid[1]] = np.arange(grid[0] * grid[1]).reshape(grid)
    order = cut_windows(np.roll(plane, (-shift, -shift), (0, 1)), window).reshape(-1)
    places = np.argsort(order, kind="stable")[: grid[0] * grid[1]]
    return order, places


def shift_mask(grid: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """Mask between tokens that are neighbors only by the cyclic shift, float32 ``[W, N, N]``.

    0 within a region, -100 between regions. A window at the border holds up to four regions.
    """
    height, width = _padded(grid, window)

    def regions(length: int) -> np.ndarray:
        place = np.arange(length)
        return (place >= length - window).astype("int64") + (place >= length - shift)

    label = cut_windows(regions(height)[:, None] * 3 + regions(width)[None], window)
    return np.where(label[:, :, None] == label[:, None, :], 0.0, _BLOCKED).astype("float32")


class WindowAttention(Attention):
    """Self-attention inside windows, with a learned bias per head and relative position.

    A grid that the window does not divide is padded by zeros on the right and below; the padding takes
    part in attention. A window larger than the grid shrinks to the grid's shorter side, and then nothing
    is shifted.

    For arguments see ``Attention``; ``window`` and ``shift``, half the side of a window, are those in use.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: tuple[int, int],
        window_size: int = 7,
        shifted: bool = False,
        qkv_bias: bool = True,
        attn_dropout: float = 0.0,
        proj_dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_dropout, proj_dropout)
        if window_size < 1:
            raise ValueError(f"window_size must be at least 1, got {window_size}")
        self.shifted = shifted
        self.window = min(window_size, *grid)
        shape = [(2 * self.window - 1) ** 2, num_heads]
        zero = nn.initializer.Constant(0.0)
        table = self.create_parameter(shape, default_initializer=zero)
        self.relative_position_bias_table = trunc_normal_(table, 0.02)
        self.plan(grid, window_size)

    def plan(self, grid: tuple[int, int], window_size: int, whole: bool = False) -> None:
        """Plan for another grid or window; the bias table is interpolated where the window changes.

        With ``whole`` a window stays whole on a smaller grid, which is padded, and is shifted on every grid,
        as in the authors' detection code: the bias table is then that of any grid.
        """
        window = window_size if whole else min(window_size, *grid)
        # As published for classification: one window over the shorter side needs no shift.
        self.shift = 0
        if self.shifted and (whole or min(grid) > window_size):
            self.shift = window_size // 2
        if window != self.window:
            sides = (self.window, window)
            name = "relative_position_bias_table"
            resize_parameter(self, name, lambda table: resize_bias_table(table, *sides))
            self.window = window
        self.grid = grid
        # Buffers that follow from the size are not saved, so that checkpoints of any size load.
        if self.shift:
            dtype = self.relative_position_bias_table.dtype
            mask = paddle.to_tensor(shift_mask(grid, window, self.shift)).astype(dtype)
            self.register_buffer("attn_mask", mask, persistable=False)
        elif "attn_mask" in self._buffers:
            del self.attn_mask
        self._set_indices()

    def share_plan(self, other: "WindowAttention") -> None:
        """Take the plan of a layer of the same width and window, and its tensors."""
        self.grid = other.grid
        self.shift = other.shift
        self.padded: bool = other.padded
        for name in ("attn_mask", "order", "places"):
            if name in other._buffers:
                self.register_buffer(name, getattr(other, name), persistable=False)

    def _set_indices(self) -> None:
        order, places = window_order(self.grid, self.window, self.shift)
        self.padded = len(order) > len(places)
        index = relative_position_index(self.window)
        for name, values in (("relative_position_index", index), ("order", order), ("places", places)):
            self.register_buffer(name, paddle.to_tensor(values), persistable=False)

    def _apply(self, *args: Any, **kwargs: Any) -> None:
        # Layer.to(dtype=...) turns buffers of integers into floats as well; 16 bits cannot hold them.
        super()._apply(*args, **kwargs)
        if self.order.dtype != paddle.int64:
            self._set_indices()

    def bias(self) -> paddle.Tensor:
        """Position bias, and mask where windows are shifted: ``[h, N, N]`` or ``[W, h, N, N]``."""
        bias = paddle.gather(self.relative_position_bias_table, self.relative_position_index.flatten())
        bias = bias.t().reshape([self.num_heads, self.window**2, self.window**2])
        if not self.shift:
            return bias
        # The mask is spread over the heads first: if both operands repeat, Paddle takes ten times as long.
        return bias + self.attn_mask.unsqueeze(1).expand([-1, self.num_heads, -1, -1])

    def forward(self, x_blc: paddle.Tensor) -> paddle.Tensor:  # type: ignore[override]
        """Args: x_blc: ``[B, L, C]``, row by row. Returns: the same shape."""
        dim = self.num_heads * self.head_dim
        # Padding is a row of zeros after the last token, to which its places in the windows point. It takes
        # part in attention as in the authors' detection code; their classification code pads nothing.
        if self.padded:
            x_blc = paddle.concat([x_blc, paddle.zeros_like(x_blc[:, :1])], axis=1)
        windows = paddle.gather(x_blc, self.order, axis=1).reshape([-1, self.window**2, dim])
        return self.in_order(super().forward(windows, self.bias()))

    def in_order(self, x: paddle.Tensor) -> paddle.Tensor:
        """Tokens of windows ``[B·W, N, D]`` to those of the grid ``[B, L, D]``, without padding."""
        return paddle.gather(x.reshape([-1, self.order.shape[0], x.shape[-1]]), self.places, axis=1)
