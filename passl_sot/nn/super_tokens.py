"""Super-token attention: few tokens, gathered from many by soft association (STViT, arXiv 2211.11167).

An image is cut into windows; the mean of each is the start of a super token. Every pixel is
associated with the nine super tokens around it, a weighted mean of the pixels makes the super
tokens anew, self-attention mixes them, and the same association gives them back to the pixels.

Legend: B batch, M = m_h·m_w super tokens (one per window), n = s·s pixels of a window, C width,
9 neighbors row by row (4 is the window's own).
"""

import numpy as np
import paddle
from paddle import nn

from passl_sot.nn import ops
from passl_sot.nn.block import Attention
from passl_sot.nn.precision import at_least_float32, autocast_off, softmax

_MASS_EPS = 1e-12


def neighbor_table(rows: int, columns: int) -> np.ndarray:
    """Numbers of the nine neighbors of every cell of a grid, ``[rows·columns, 9]``.

    Cells count row by row; a neighbor outside the grid has the number ``rows·columns``.
    """
    grid = np.full((rows + 2, columns + 2), rows * columns, dtype="int64")
    grid[1:-1, 1:-1] = np.arange(rows * columns).reshape(rows, columns)
    shifts = [grid[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return np.stack(shifts, axis=-1).reshape(rows * columns, 9)


def _gather_rows(x_bmc: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    """Rows of ``[B, M, C]`` by number, M meaning a row of zeros; ``[B, len(index), C]``."""
    # The official code gathers neighbors by a convolution with nine frozen kernels and adds them up by its
    # transpose, which takes 3 times as long as these look-ups with channel-last products.
    table = paddle.concat([x_bmc, paddle.zeros_like(x_bmc[:, :1])], axis=1)
    return paddle.index_select(table, index, axis=1)


def _shifted(x: paddle.Tensor) -> list[paddle.Tensor]:
    """Neighbors k = 0…8 of every cell of ``[B, m_h, m_w, ...]``, zeros outside the grid, in its shape."""
    # For graphs of open size, where no table of numbers can be made.
    x = ops.framed(ops.framed(x, 1, 1, 1), 2, 1, 1)
    bands = (x[:, :-2], x[:, 1:-1], x[:, 2:])
    return [part for band in bands for part in (band[:, :, :-2], band[:, :, 1:-1], band[:, :, 2:])]


class _Kernels(nn.Layer):
    """A frozen table of the official state dict, where conversion finds and checks it; never used."""

    def __init__(self) -> None:
        super().__init__()
        eye = paddle.eye(9, dtype=paddle.get_default_dtype()).reshape([9, 1, 3, 3])
        self.register_buffer("weights", eye, persistable=False)


class SuperTokenAttention(nn.Layer):
    """Attention among super tokens, or plain attention where every token is its own super token.

    The association has no gradient: gradients flow through the means it weighs. Rows and columns of
    zeros are added at the bottom and right where windows don't fit; they are pooled and associated
    like pixels. Sides of the maps are ints, or tensors in a graph of open size.

    Other arguments are those of ``Attention``.

    Args:
        window: Side s of a window in pixels, at least 1; 1 for plain attention.
        num_iters: Rounds of association, at least 1; the published models use 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: int,
        num_iters: int = 1,
        qkv_bias: bool = True,
        attn_dropout: float = 0.0,
        proj_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if window < 1 or num_iters < 1:
            raise ValueError(f"window ({window}) and num_iters ({num_iters}) must be at least 1")
        self.window = window
        self.num_iters = num_iters
        self.scale = dim**-0.5
        self.unfold = _Kernels()
        self.fold = _Kernels()
        self.stoken_refine = Attention(dim, num_heads, qkv_bias, attn_dropout, proj_dropout, qkv_by_head=True)

    def forward(self, x_bchw: paddle.Tensor, norm: nn.LayerNorm) -> paddle.Tensor:
        """Args: x_bchw: ``[B, C, H, W]``; norm: LayerNorm over the channels. Returns: ``[B, C, H, W]``."""
        # The norm is applied here, where channels come last anyway.
        dim, height, width = x_bchw.shape[1:]
        pixels = norm(x_bchw.transpose([0, 2, 3, 1]))
        if self.window == 1:
            out = self.stoken_refine(pixels.flatten(1, 2)).transpose([0, 2, 1])
            return out.reshape([0, 0, height, width])
        s = self.window
        pixels, rows, columns = self._cut(pixels)
        with autocast_off():
            exact = at_least_float32(pixels)
            weights, mass = self.associate(exact, rows, columns)
            sums = paddle.matmul(weights, exact, transpose_x=True)
            tokens = self._collect(sums, rows, columns) / (mass + _MASS_EPS)
        tokens = self.stoken_refine(tokens.astype(pixels.dtype))
        near = self._spread(tokens, rows, columns)
        out = paddle.matmul(weights.astype(near.dtype), near)
        out = out.reshape([0, rows, columns, s, s * dim]).transpose([0, 1, 3, 2, 4])
        out = out.reshape([0, rows * s, columns * s, dim]).transpose([0, 3, 1, 2])
        if not isinstance(rows, int) or rows * s != height or columns * s != width:
            out = out[:, :, :height, :width]
        return out

    def assign(self, x_bchw: paddle.Tensor, norm: nn.LayerNorm) -> tuple[np.ndarray, tuple[int, int]]:
        """The super token of every pixel: of those around it the one with the largest weight, for pictures.

        A neighbor outside the grid takes part in the softmax, as in ``associate``, and gets no pixel.

        Args:
            x_bchw: As of ``forward``.
            norm: The same.

        Returns:
            Numbers of the last iteration's super tokens, int64 ``[B, H, W]``, counted row by row from 0; and
            rows and columns of these.
        """
        height, width = x_bchw.shape[2:]
        s = self.window
        pixels, rows, columns = self._cut(norm(x_bchw.transpose([0, 2, 3, 1])))
        with autocast_off():
            weights, _ = self.associate(at_least_float32(pixels), rows, columns)
        table = neighbor_table(rows, columns)[None, :, None]
        strongest = np.where(table < rows * columns, weights.numpy(), -1.0).argmax(axis=-1)
        numbers = np.take_along_axis(table, strongest[..., None], axis=-1)
        numbers = numbers.reshape(-1, rows, columns, s, s).transpose(0, 1, 3, 2, 4)
        return numbers.reshape(-1, rows * s, columns * s)[:, :height, :width], (rows, columns)

    def _cut(self, pixels_bhwc: paddle.Tensor) -> tuple[paddle.Tensor, int, int]:
        """Pixels by window, ``[B, M, n, C]``, padded where windows don't fit; rows and columns of windows."""
        height, width, dim = pixels_bhwc.shape[1:]
        s = self.window
        rows = (height + s - 1) // s
        columns = (width + s - 1) // s
        if isinstance(rows, int):
            pixels = ops.pad_grid(pixels_bhwc, rows * s - height, columns * s - width)
        else:
            pixels = ops.pad_grid(pixels_bhwc, s - 1, s - 1)[:, : rows * s, : columns * s]
        # In two steps, each of which moves longer pieces than one transposition of six axes would.
        pixels = pixels.reshape([0, rows, s, columns, s * dim]).transpose([0, 1, 3, 2, 4])
        return pixels.reshape([0, rows * columns, s * s, dim]), rows, columns

    def associate(
        self, pixels_bmnc: paddle.Tensor, rows: int, columns: int
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Association of pixels with the nine super tokens around them, without gradient.

        From normalized pixels by window, ``[B, M, n, C]``, at least float32, of ``rows`` by ``columns``
        windows: weights ``[B, M, n, 9]`` whose rows sum to 1, and each super token's mass ``[B, M, 1]``.
        """
        with paddle.no_grad():
            pixels = pixels_bmnc.detach()
            pool = paddle.full([1, pixels.shape[2]], 1.0 / pixels.shape[2], dtype=pixels.dtype)
            tokens = paddle.matmul(pool, pixels).squeeze(2)
            for i in range(self.num_iters):
                # Neighbors outside the grid are vectors of zeros: they take their part of the softmax, and it
                # is lost, as officially.
                near = self._spread(tokens, rows, columns)
                weights = softmax(paddle.matmul(pixels, near, transpose_y=True) * self.scale)
                mass = self._collect(weights.sum(axis=2).unsqueeze(-1), rows, columns)
                if i < self.num_iters - 1:
                    sums = paddle.matmul(weights, pixels, transpose_x=True)
                    tokens = self._collect(sums, rows, columns) / (mass + _MASS_EPS)
        return weights, mass

    def _spread(self, tokens_bmc: paddle.Tensor, rows: int, columns: int) -> paddle.Tensor:
        # [B, M, C] to the nine super tokens around each window, [B, M, 9, C].
        if not isinstance(rows, int):
            grid = tokens_bmc.reshape([0, rows, columns, tokens_bmc.shape[-1]])
            return paddle.stack(_shifted(grid), axis=3).flatten(1, 2)
        index = paddle.to_tensor(neighbor_table(rows, columns).reshape(-1))
        near = _gather_rows(tokens_bmc, index)
        return near.reshape([-1, rows * columns, 9, tokens_bmc.shape[-1]])

    def _collect(self, parts_bm9c: paddle.Tensor, rows: int, columns: int) -> paddle.Tensor:
        # The adjoint of _spread: parts for a super token, of nine windows, summed; [B, M, C].
        # Neighbor k of window m is the window for which m is neighbor 8 - k.
        if not isinstance(rows, int):
            grid = parts_bm9c.reshape([0, rows, columns, 9, parts_bm9c.shape[-1]])
            return sum(part[:, :, :, 8 - k] for k, part in enumerate(_shifted(grid))).flatten(1, 2)
        count = rows * columns
        window = neighbor_table(rows, columns)
        place = np.where(window < count, window * 9 + np.arange(8, -1, -1), count * 9)
        index = paddle.to_tensor(place.reshape(-1))
        parts = _gather_rows(parts_bm9c.flatten(1, 2), index)
        return parts.reshape([-1, count, 9, parts_bm9c.shape[-1]]).sum(axis=2)
