"""Compiled loops for a CPU, where numba is installed.

Paddle's depth-wise convolution takes several times as long as the memory traffic it stands for, and the GELU
before it another few passes. Here both are one loop over a map that stays in the cache. For float32 outside
graphs; `passl_sot.nn.ops` calls them, and has the same from Paddle's operations for all else.

Legend: R maps, C channels, H rows, W columns; a map is one channel of one image. Inside, a map has a column
of zeros after each row and a row of zeros at both ends, so that its nine neighbors are shifts of one array.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle.autograd import PyLayer

from passl_sot.imageio.kernels import jit

try:
    import numba
except ImportError:  # an extra
    numba = None

# Of arithmetic that may be reordered. Not nnan, ninf: NaN and infinity must stay visible.
_FLAGS = {"nsz", "contract", "reassoc", "arcp"}
_F = np.float32
_ONE = _F(1.0)
_HALF = _F(0.5)
# Φ(x) - 1/2, and the GELU's slope Φ(x) + x·φ(x) - 1/2, as x·P(x²)/Q(x²) on |x| up to a limit, beyond which
# both are 1/2 in float32: fitted by least squares, errors below 1e-8. Lowest power first; Q begins with 1.
_CDF_END = _F(5.4)
_SLOPE_END = _F(6.0)
_A0, _A1, _A2, _A3 = map(_F, (0.398942228, 0.0338136517, 0.00467724105, 0.000168706193))
_A4, _A5 = map(_F, (6.37836448e-06, 2.29632263e-08))
_B1, _B2, _B3, _B4, _B5 = map(_F, (0.251424096, 0.0286296225, 0.00188381979, 7.37452177e-05, 1.20560135e-06))
_C0, _C1, _C2, _C3 = map(_F, (0.797884502, -0.0149417202, 0.0134452263, 0.000341807214))
_C4, _C5, _C6, _C7 = map(_F, (3.197198e-05, 1.2779768e-06, 1.41982468e-08, -3.0223832e-11))
_D1, _D2, _D3, _D4 = map(_F, (0.314605947, 0.046721766, 0.00430899213, 0.000272766593))
_D5, _D6 = map(_F, (1.15285866e-05, 4.08214636e-07))


def _compiled(function: Callable) -> Callable:
    """As `jit.compiled`, where numba is installed."""
    if numba is None:
        return function
    return jit.compiled(function, fastmath=_FLAGS)


@_compiled
def _gelu(x, bias, out):
    # A quotient of polynomials makes vector instructions; erf would be a call for each number.
    for i in range(x.size):
        y = x[i] + bias
        t = min(max(y, -_CDF_END), _CDF_END)
        z = t * t
        top = ((((_A5 * z + _A4) * z + _A3) * z + _A2) * z + _A1) * z + _A0
        bottom = ((((_B5 * z + _B4) * z + _B3) * z + _B2) * z + _B1) * z + _ONE
        out[i] = y * (_HALF + t * top / bottom)


@_compiled
def _times_slope(x, bias, out):
    for i in range(x.size):
        t = min(max(x[i] + bias, -_SLOPE_END), _SLOPE_END)
        z = t * t
        top = ((((((_C7 * z + _C6) * z + _C5) * z + _C4) * z + _C3) * z + _C2) * z + _C1) * z + _C0
        bottom = (((((_D6 * z + _D5) * z + _D4) * z + _D3) * z + _D2) * z + _D1) * z + _ONE
        out[i] *= _HALF + t * top / bottom


@_compiled
def _pad(x, width, padded):
    """A map ``[H·W]`` into its place between the zeros."""
    for i in range(x.size // width):
        start = (i + 1) * (width + 1) + 1
        for j in range(width):
            padded[start + j] = x[i * width + j]


@_compiled
def _crop(spaced, width, bias, out):
    """Rows of W + 1 to a map ``[H·W]``, plus a number."""
    for i in range(out.size // width):
        for j in range(width):
            out[i * width + j] = spaced[i * (width + 1) + j] + bias


@_compiled
def _convolve(padded, k, pitch, out):
    """Sum of the nine neighbors by the weights ``k``, row by row of the pitch."""
    n = out.size
    above = padded[: n + 2]
    beside = padded[pitch : pitch + n + 2]
    below = padded[2 * pitch : 2 * pitch + n + 2]
    # In registers: read inside the loop, they might be changed by the writes to `out`.
    k0, k1, k2, k3, k4, k5, k6, k7, k8 = k[0], k[1], k[2], k[3], k[4], k[5], k[6], k[7], k[8]
    for p in range(n):
        a = k0 * above[p] + k1 * above[p + 1] + k2 * above[p + 2]
        b = k3 * beside[p] + k4 * beside[p + 1] + k5 * beside[p + 2]
        c = k6 * below[p] + k7 * below[p + 1] + k8 * below[p + 2]
        out[p] = a + b + c


@_compiled
def _correlate(grad, padded, pitch, out):
    """Adds, for each of the nine neighbors, the sum of its products with ``grad``."""
    n = grad.size
    for row in range(3):
        line = padded[row * pitch : row * pitch + n + 2]
        x = _F(0)
        y = _F(0)
        z = _F(0)
        for p in range(n):
            x += grad[p] * line[p]
            y += grad[p] * line[p + 1]
            z += grad[p] * line[p + 2]
        out[3 * row] += x
        out[3 * row + 1] += y
        out[3 * row + 2] += z


@_compiled
def _sum(x):
    total = _F(0)
    for i in range(x.size):
        total += x[i]
    return total


@_compiled
def _forward(x, before, kernel, after, width, out):
    pixels = x.shape[1]
    pitch = width + 1
    padded = np.zeros(pixels // width * pitch + 2 * pitch + 2, np.float32)
    spaced = np.empty(pixels // width * pitch, np.float32)
    active = np.empty(pixels, np.float32)
    for r in range(x.shape[0]):
        c = r % kernel.shape[0]
        if before.size > 0:
            _gelu(x[r], before[c], active)
            _pad(active, width, padded)
        else:
            _pad(x[r], width, padded)
        _convolve(padded, kernel[c], pitch, spaced)
        _crop(spaced, width, after[c], out[r])


@_compiled
def _backward(x, before, kernel, grad, width, grad_x, grad_before, grad_kernel, grad_after):
    pixels = x.shape[1]
    pitch = width + 1
    padded = np.zeros(pixels // width * pitch + 2 * pitch + 2, np.float32)
    padded_grad = np.zeros(padded.size, np.float32)
    spaced = np.empty(pixels // width * pitch, np.float32)
    active = np.empty(pixels, np.float32)
    turned = np.empty(9, np.float32)
    for r in range(x.shape[0]):
        c = r % kernel.shape[0]
        for k in range(9):
            turned[k] = kernel[c, 8 - k]
        _pad(grad[r], width, padded_grad)
        _convolve(padded_grad, turned, pitch, spaced)
        _crop(spaced, width, _F(0), grad_x[r])
        if before.size > 0:
            _gelu(x[r], before[c], active)
            _pad(active, width, padded)
            _times_slope(x[r], before[c], grad_x[r])
            grad_before[c] += _sum(grad_x[r])
        else:
            _pad(x[r], width, padded)
        _correlate(padded_grad[pitch + 1 : pitch + 1 + spaced.size], padded, pitch, grad_kernel[c])
        grad_after[c] += _sum(grad[r])


def _view(x: paddle.Tensor | None, *shape: int) -> np.ndarray:
    """The tensor's own memory as an array, empty for None; the tensor must outlive it."""
    if x is None:
        return np.empty(0, np.float32)
    numbers = (ctypes.c_float * x.size).from_address(x.data_ptr())
    return np.frombuffer(numbers, np.float32).reshape(shape)


def _run(x, kernel, after, before, out: paddle.Tensor) -> paddle.Tensor:
    maps = (x.shape[0] * x.shape[1], -1)
    views = _view(x, *maps), _view(before, -1), _view(kernel, -1, 9), _view(after, -1)
    _forward(*views, x.shape[3], _view(out, *maps))
    return out


class _Depthwise(PyLayer):
    @staticmethod
    def forward(ctx: Any, x, kernel, after, before):
        ctx.save_for_backward(x, kernel, before)
        ctx.learning = [not t.stop_gradient for t in (x, kernel, after, before) if t is not None]
        return _run(x, kernel, after, before, paddle.empty_like(x))

    @staticmethod
    def backward(ctx: Any, grad):
        x, kernel, before = ctx.saved_tensor()
        grad = grad.contiguous()
        grad_x = paddle.empty_like(x)
        # Sums over all images in float64: in float32 the last bits of many terms would be lost.
        channels = kernel.shape[0]
        sums = [np.zeros(channels), np.zeros((channels, 9)), np.zeros(channels)]
        maps = (x.shape[0] * x.shape[1], -1)
        views = _view(x, *maps), _view(before, -1), _view(kernel, -1, 9), _view(grad, *maps)
        _backward(*views, x.shape[3], _view(grad_x, *maps), *sums)
        of_before, of_kernel, of_after = (paddle.to_tensor(s.astype("float32")) for s in sums)
        # Paddle wants None for a frozen input, and no place for one that is None itself: `before`, the last.
        grads = (grad_x, of_kernel, of_after, of_before)
        return tuple(g if learns else None for g, learns in zip(grads, ctx.learning, strict=False))


def available(x: paddle.Tensor) -> bool:
    """Whether the loops serve ``x``: numba is installed, ``x`` float32 in main memory, no graph."""
    if numba is None or not paddle.in_dynamic_mode():
        return False
    return x.place.is_cpu_place() and x.dtype == paddle.float32 and x.size > 0


def depthwise3x3(
    x: paddle.Tensor,
    kernel: paddle.Tensor,
    after: paddle.Tensor | None = None,
    before: paddle.Tensor | None = None,
) -> paddle.Tensor:
    """See `passl_sot.nn.ops.depthwise3x3`; where `available`."""
    x = x.contiguous()
    kernel = kernel.contiguous()
    if after is None:
        after = paddle.zeros([kernel.shape[0]])
    parts = [t for t in (x, kernel, after, before) if t is not None]
    if paddle.is_grad_enabled() and not all(t.stop_gradient for t in parts):
        return _Depthwise.apply(x, kernel, after, before)
    return _run(x, kernel, after, before, paddle.empty_like(x) if before is None else x)
