"""One name per operation. Only here does it matter whether a CPU, a GPU or a static graph computes it.

On a CPU in eager mode, operations that Paddle's kernels are slow at come from `cpu` (the same mathematics in
other Paddle operations) and, where numba is installed, from `cpu_numba` (compiled loops). On a GPU, in a
static graph and for 16-bit types all are Paddle's own. A static graph is for other engines, too: what they
are slow at is formulated otherwise there (`_traced`). Results are the same up to rounding.

Legend: B batch, C channels, H rows, W columns, N = H·W pixels or tokens, h heads, d width of a head.
"""

import math
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn.ops import cpu, cpu_loops, cpu_numba
from passl_sot.nn.precision import is_low_precision, softmax

_MANY_KEYS = 10  # times the head width; above, scaling the products costs several % of a block


# Not translated: the answer in a static graph is always False, and translation takes time.
@paddle.jit.not_to_static
def _on_cpu(x: paddle.Tensor) -> bool:
    if not paddle.in_dynamic_mode():
        return False
    return x.place.is_cpu_place() and x.dtype in (paddle.float32, paddle.float64)


# As above: while a graph is traced, the answer is always True.
@paddle.jit.not_to_static
def _traced() -> bool:
    return not paddle.in_dynamic_mode()


def _learning(*tensors: paddle.Tensor) -> int:
    """How many of the tensors get a gradient."""
    if not paddle.is_grad_enabled():
        return 0
    return sum(not t.stop_gradient for t in tensors)


def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """x · weight + bias: ``[..., in]`` and ``[in, out]`` to ``[..., out]``."""
    if bias is None or not _on_cpu(x):
        return F.linear(x, weight, bias)
    if _learning(weight, bias) == 2:
        return cpu.linear(x, weight, bias)
    if _learning(x, weight, bias):
        return F.linear(x, weight, bias)
    return cpu.biased_product(x, weight, bias)


def layer_norm(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    """LayerNorm of ``[..., C]`` over its last axis, with scale and shift ``[C]``."""
    # Where scale and shift are frozen, Paddle 3.3's kernel leaves the scale out of the gradient.
    if _on_cpu(x) and _learning(x):
        return cpu.layer_norm(x, weight, bias, epsilon)
    return F.layer_norm(x, [x.shape[-1]], weight, bias, epsilon)


def pad_grid(x_bhwc: paddle.Tensor, rows: int, columns: int) -> paddle.Tensor:
    """Rows of zeros below and columns of zeros at the right of ``[B, H, W, C]``."""
    return framed(framed(x_bhwc, 1, 0, rows), 2, 0, columns)


def framed(x: paddle.Tensor, axis: int, before: int, behind: int) -> paddle.Tensor:
    """So many lines of zeros before and behind a tensor, along an axis."""
    if not before and not behind:
        return x
    # Not by `F.pad`: where channels come last, that of oneDNN, the default of exported programs, gives wrong
    # numbers, and overwrites memory in its other form.
    zeros = paddle.zeros_like(paddle.slice(x, [axis], [0], [1]))
    return paddle.concat([*[zeros] * before, x, *[zeros] * behind], axis=axis)


def windows(
    x_bhwc: paddle.Tensor, kernel: int, stride: int, padding: int, grid: tuple[Any, Any]
) -> paddle.Tensor:
    """Overlapping windows with zeros around: ``[B, H, W, C]`` to ``[B, N, kernel²·C]``, channels innermost.

    As `F.unfold` and a transpose give them, but for the order of the numbers in a window. ``kernel`` is more
    than ``stride`` and at most twice as much; ``grid`` says how many windows there are, N in all.
    """
    rows, columns = grid
    # A line is cut to pieces of `stride` pixels. A window's is one piece and the beginning of the next: two
    # runs of numbers, each copied whole.
    behind = 2 * stride - kernel + padding
    x = framed(framed(x_bhwc, 1, padding, behind), 2, padding, behind)
    x = x[:, :, : (columns + 1) * stride]
    rest = (kernel - stride) * x_bhwc.shape[3]
    runs = []
    for i in range(kernel):
        line = x[:, i : i + (rows - 1) * stride + 1 : stride]
        line = line.reshape([0, rows, columns + 1, stride * x_bhwc.shape[3]])
        runs.append(line[:, :, :-1])
        runs.append(line[:, :, 1:, :rest])
    return paddle.concat(runs, axis=-1).flatten(1, 2)


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """Exact GELU of any shape; without gradients it may be in the memory of ``x``."""
    if cpu_numba.available(x):
        return cpu_loops.gelu(x)
    if not _on_cpu(x):
        return F.gelu(x)
    if _learning(x):
        return cpu.gelu(x)
    return x.multiply_(cpu.normal_cdf(x))


def dropout(x: paddle.Tensor, rate: float) -> paddle.Tensor:
    """Dropout of any shape, as while training."""
    if cpu_numba.available(x):
        return cpu_loops.dropout(x, rate)
    return F.dropout(x, p=rate)


def tanh_gelu(x: paddle.Tensor) -> paddle.Tensor:
    """GELU by its approximation with tanh, of any shape."""
    if _on_cpu(x) and _learning(x):
        return cpu.tanh_gelu(x)
    if _traced():
        # Written out: of the operator paddle2onnx makes the exact GELU. Engines know the formula.
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))
        return x * 0.5 * (1.0 + paddle.tanh(inner))
    return F.gelu(x, approximate=True)


def channel_bias(x_bcn: paddle.Tensor, bias_c: paddle.Tensor) -> paddle.Tensor:
    """Add one number per channel to ``[B, C, N]``; without gradients in the memory of ``x``."""
    # Not for [B, C, H, W]: with two axes after the channel's, Paddle's kernel takes twenty times as long.
    if _on_cpu(x_bcn) and not _learning(x_bcn, bias_c):
        return x_bcn.add_(bias_c.unsqueeze(-1))
    return x_bcn + bias_c.unsqueeze(-1)


def pointwise(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """1×1 convolution of ``[B, C, N]``, or in graphs of ``[B, C, H, W]``, by a weight ``[C, out]``."""
    if x.ndim == 4:
        # Of a product with the weight on the left, OpenVINO can't use a processor's 16-bit and 8-bit units.
        return F.conv2d(x, weight.t().unsqueeze([2, 3]), bias)
    out = paddle.matmul(weight, x, transpose_x=True)
    return out if bias is None else channel_bias(out, bias)


def conv2d(
    x_bchw: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor | None,
    stride: list[int],
    padding: list[int],
    groups: int = 1,
) -> paddle.Tensor:
    """Convolution of ``[B, C, H, W]`` with kernels ``[out, C / groups, k, k]``."""
    if not _on_cpu(x_bchw):
        return F.conv2d(x_bchw, weight, bias, stride=stride, padding=padding, groups=groups)
    if weight.shape[2:] == [1, 1] and groups == 1 and not any(padding):
        # A matrix product: Paddle's convolution takes up to 4 times as long.
        if stride != [1, 1]:
            x_bchw = x_bchw[:, :, :: stride[0], :: stride[1]]
        size = x_bchw.shape[2:]
        maps = paddle.matmul(weight.flatten(1), x_bchw.flatten(2))
    else:
        maps = F.conv2d(x_bchw, weight, stride=stride, padding=padding, groups=groups)
        size = maps.shape[2:]
        maps = maps.flatten(2)
    if bias is not None:
        maps = channel_bias(maps, bias)
    return maps.reshape([0, 0, *size])


def depthwise3x3(
    x: paddle.Tensor,
    kernel: paddle.Tensor,
    bias: paddle.Tensor | None = None,
    before: paddle.Tensor | None = None,
) -> paddle.Tensor:
    """Depth-wise 3×3 convolution of ``x``, or of GELU(x + before), with stride 1 and zeros around.

    From ``[B, C, H, W]`` to the same, by a kernel ``[C, 9]``; ``bias`` and ``before`` are ``[C]``. With
    ``before``, and without gradients, the result may take the memory of ``x``.
    """
    if cpu_numba.available(x):
        return cpu_numba.depthwise3x3(x, kernel, bias, before)
    if _traced():
        return F.conv2d(x, kernel.reshape([-1, 1, 3, 3]), bias, padding=1, groups=kernel.shape[0])
    size = x.shape[2:]
    if before is not None:
        x = gelu(channel_bias(x.flatten(2), before)).reshape([0, 0, *size])
    maps = _depthwise3x3(x, kernel.reshape([-1, 1, 3, 3]))
    if bias is None:
        return maps
    return channel_bias(maps.flatten(2), bias).reshape([0, 0, *size])


def _depthwise3x3(x_bchw: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    if _on_cpu(x_bchw) and cpu.packing_pays(x_bchw):
        packed = _depthwise3x3(cpu.pack(x_bchw).unsqueeze(0), weight)
        return cpu.unpack(packed.squeeze(0), x_bchw.shape[0])
    if _on_cpu(x_bchw) and _learning(x_bchw, weight) == 2:
        return cpu.depthwise3x3(x_bchw, weight)
    return F.conv2d(x_bchw, weight, padding=1, groups=weight.shape[0])


def conv_mlp(
    x_bchw: paddle.Tensor, fc1: nn.Layer, conv: nn.Layer, fc2: nn.Layer, drop: nn.Dropout
) -> paddle.Tensor:
    """The layers of `passl_sot.nn.conv_mlp.ConvMlp` on maps ``[B, C, H, W]``, which gives the same shape.

    ``conv`` adds its input; ``drop`` comes after the activation and after the output.
    """
    if _traced():
        hidden = conv(drop(gelu(fc1(x_bchw, fc1.bias))), conv.bias)
        return drop(fc2(hidden, fc2.bias))
    size = x_bchw.shape[2:]
    # The layers are called, and not only their weights read, so that hooks on them are run.
    if cpu_numba.available(x_bchw) and not (drop.training and drop.p):
        # The first bias, GELU and the depth-wise convolution are one pass over the hidden maps.
        hidden = fc1(x_bchw.flatten(2)).reshape([0, 0, *size])
        hidden = conv(hidden, conv.bias, before=fc1.bias)
        return fc2(hidden.flatten(2), fc2.bias).reshape([0, 0, *size])
    # A pass less: the depth-wise bias goes through the last product.
    bias = fc2.bias + paddle.matmul(conv.bias, fc2.weight)
    packed = _on_cpu(x_bchw) and cpu.packing_pays(x_bchw)
    if packed:
        maps = cpu.pack(x_bchw, ones=True)
        size = maps.shape[1:]
        # The bias by a channel of ones, which leaves the gaps between the images zero.
        weight = paddle.concat([fc1.weight, fc1.bias.unsqueeze(0)], axis=0)
        hidden = paddle.matmul(weight, maps.flatten(1), transpose_x=True).unsqueeze(0)
    else:
        hidden = fc1(x_bchw.flatten(2), fc1.bias)
    hidden = conv(drop(gelu(hidden)).reshape([0, 0, *size]))
    out = fc2(hidden.flatten(2), bias).reshape([0, 0, *size])
    if packed:
        out = cpu.unpack(out.squeeze(0), x_bchw.shape[0])
    return drop(out)


def attention(
    q_bhnd: paddle.Tensor,
    k_bhnd: paddle.Tensor,
    v_bhnd: paddle.Tensor,
    scale: float,
    dropout_rate: float = 0.0,
    bias_whnm: paddle.Tensor | None = None,
) -> paddle.Tensor:
    """softmax(scale · q kᵀ + bias) v, with dropout of attention weights.

    Queries and the result are ``[B, h, N, d]``, keys and values ``[B, h, M, d]``; the bias is ``[h, N, M]``,
    or ``[W, h, N, M]`` repeated along the batch, where W divides B, or alike for all heads, ``[B, 1, ?, M]``.
    """
    if bias_whnm is None and _fused_attention_serves(q_bhnd):
        q, k, v = (t.transpose([0, 2, 1, 3]) for t in (q_bhnd, k_bhnd, v_bhnd))
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_rate, scale=scale)
        return out.transpose([0, 2, 1, 3])
    attn_bhnm = attention_weights(q_bhnd, k_bhnd, scale, bias_whnm)
    if dropout_rate > 0.0:
        attn_bhnm = dropout(attn_bhnm, dropout_rate)
    return paddle.matmul(attn_bhnm, v_bhnd)


def attention_weights(
    q_bhnd: paddle.Tensor, k_bhnd: paddle.Tensor, scale: float, bias_whnm: paddle.Tensor | None = None
) -> paddle.Tensor:
    """softmax(scale · q kᵀ + bias), ``[B, h, N, M]``; arguments as for `attention`."""
    loops = cpu_numba.available(q_bhnd)
    # Scaled queries are fewer numbers than scaled products.
    if _many_keys(k_bhnd) and not loops:
        q_bhnd = q_bhnd * scale
        scale = 1.0
    products = paddle.matmul(q_bhnd, k_bhnd, transpose_y=True)
    if scale != 1.0 and (bias_whnm is not None or not loops):
        products = products * scale
        scale = 1.0
    if bias_whnm is not None and _of_each(bias_whnm, products):
        products = products + bias_whnm.astype(products.dtype)
    elif bias_whnm is not None:
        # Without axes of size 1 in front: with them Paddle's CPU kernels take eight times as long.
        repeated = products.reshape([-1, *bias_whnm.shape]) + bias_whnm.astype(products.dtype)
        products = repeated.reshape([-1, *products.shape[1:]])
    return cpu_loops.softmax(products, scale) if loops else softmax(products)


# Not translated, as what follows: a graph would decide anew in every run.
@paddle.jit.not_to_static
def _of_each(bias_whnm: paddle.Tensor, products_bhnm: paddle.Tensor) -> bool:
    """Whether the bias is of each sample, for all heads."""
    return bias_whnm.ndim == 4 and bias_whnm.shape[1] == 1 and bias_whnm.shape[0] == products_bhnm.shape[0]


@paddle.jit.not_to_static
def _many_keys(k_bhnd: paddle.Tensor) -> bool:
    return k_bhnd.shape[-2] > _MANY_KEYS * k_bhnd.shape[-1]


def _fused_attention_serves(q: paddle.Tensor) -> bool:
    # On a CPU Paddle 3.3's fused kernel takes 2 to 3 times as long as the products written out. The GPU's
    # serves 16-bit types with head widths that are multiples of 8, up to 256.
    on_gpu = paddle.is_compiled_with_cuda() and paddle.get_device().startswith("gpu")
    return on_gpu and is_low_precision(q) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
