"""The operations against Paddle's own operations, values and gradients."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl_sot.nn import ops
from passl_sot.nn.conv_mlp import Conv3x3, ConvMlp, Pointwise, ResidualDepthwise
from passl_sot.nn.layers import LayerNorm
from passl_sot.nn.ops import channel_bias, cpu, gelu, linear


def numbers(shape: list[int], seed: int, dtype: str = "float64") -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def both(function, reference, shapes, dtype="float64", tolerance=1e-11) -> None:
    """Values without and with gradients, and the gradients to every argument."""
    results = []
    for f in (function, reference):
        inputs = [numbers(shape, i, dtype) for i, shape in enumerate(shapes)]
        with paddle.no_grad():
            plain = f(*[t.clone() for t in inputs])
        for t in inputs:
            t.stop_gradient = False
        out = f(*inputs)
        np.testing.assert_allclose(plain.numpy(), out.numpy(), rtol=tolerance, atol=tolerance)
        (out * numbers(out.shape, 9, dtype)).sum().backward()
        results.append([out.numpy(), *(t.grad.numpy() for t in inputs)])
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_gelu(dtype, tolerance):
    both(gelu, F.gelu, [[3, 5, 7]], dtype, tolerance)


def test_packed_and_back():
    x = numbers([3, 2, 4, 5], 0)
    packed = cpu.pack(x, ones=True)
    assert packed.shape == [3, 4, 18]
    assert float(packed[:, :, 5::6].abs().max()) == 0.0
    assert float(packed[2].sum()) == 4 * 15
    np.testing.assert_array_equal(cpu.unpack(packed, 3)[:, :2].numpy(), x.numpy())


def test_channel_bias():
    both(channel_bias, lambda x, b: x + b.unsqueeze(-1), [[2, 3, 20], [3]])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_linear(dtype, tolerance):
    for shape in ([3, 5, 7], [4, 7], [0, 7]):
        both(linear, F.linear, [shape, [7, 6], [6]], dtype, tolerance)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (1, 1, 1), (3, 2, 1)])
def test_conv2d(kernel, stride, padding):
    both(
        lambda *inputs: ops.conv2d(*inputs, [stride, stride], [padding, padding]),
        lambda *inputs: F.conv2d(*inputs, stride=stride, padding=padding),
        [[2, 3, 5, 6], [4, 3, kernel, kernel], [4]],
    )


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_linear_with_frozen_parts(frozen):
    results = []
    for f in (linear, F.linear):
        inputs = [numbers(shape, i) for i, shape in enumerate([[2, 3, 7], [7, 6], [6]])]
        for i, t in enumerate(inputs):
            t.stop_gradient = i in frozen
        f(*inputs).sin().sum().backward()
        assert [t.grad is None for t in inputs] == [i in frozen for i in range(3)]
        results.append([t.grad.numpy() for t in inputs if t.grad is not None])
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1e3])
@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_layer_norm_where_the_mean_is_large_or_the_variance_small(mean, spread):
    layer = LayerNorm(64, epsilon=1e-6)
    grads = []
    for dtype in ("float32", "float64"):
        x = (numbers([6, 64], 0) * spread + mean).astype("float32").astype(dtype)
        x.stop_gradient = False
        layer.to(dtype=dtype)
        (layer(x) * numbers([6, 64], 1, dtype)).sum().backward()
        grads.append(x.grad.numpy())
    # What float32 numbers of this mean can tell of their deviations bounds what is possible.
    tolerance = 1e-5 + 3e-7 * mean / spread
    if tolerance < 1.0:
        assert np.abs(grads[0] - grads[1]).max() < tolerance * np.abs(grads[1]).max()
    assert np.isfinite(grads[0]).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-8), ("float32", 2e-5)])
def test_layer_norm(dtype, tolerance):
    # Paddle rounds epsilon to float32 in its own backward pass.
    layer = LayerNorm(12, epsilon=1e-3)
    layer.weight.set_value(numbers([12], 1, "float32"))
    layer.bias.set_value(numbers([12], 2, "float32"))
    layer.to(dtype=dtype)
    results = []
    for f in (layer, lambda x: F.layer_norm(x, [12], layer.weight, layer.bias, 1e-3)):
        layer.clear_gradients()
        x = numbers([3, 5, 12], 0, dtype)
        x.stop_gradient = False
        out = f(x)
        (out * numbers(out.shape, 9, dtype)).sum().backward()
        results.append([t.numpy() for t in (out, x.grad, layer.weight.grad, layer.bias.grad)])
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    constant = paddle.full([2, 12], 3.0, dtype=dtype)
    constant.stop_gradient = False
    layer(constant).sum().backward()
    assert bool(paddle.isfinite(constant.grad).all())


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (1, 2), (0, 1), (0, 2)])
def test_layer_norm_with_frozen_parts(frozen):
    layer = LayerNorm(12, epsilon=1e-3)
    tensors = [numbers([3, 5, 12], 0), layer.weight, layer.bias]
    layer.to(dtype="float64")
    layer.weight.set_value(numbers([12], 1))
    tensors[0].stop_gradient = False
    grads = []
    for _ in range(2):
        (layer(tensors[0]) * numbers([3, 5, 12], 9)).sum().backward()
        grads.append([None if t.grad is None else t.grad.numpy() for t in tensors])
        for i, t in enumerate(tensors):
            t.clear_gradient(False)
            t.stop_gradient = i in frozen
    for i, (whole, part) in enumerate(zip(*grads, strict=True)):
        if i in frozen:
            assert part is None
        else:
            np.testing.assert_allclose(part, whole, rtol=1e-8, atol=1e-8)


def plain_depthwise(x, kernel, bias, before=None):
    if before is not None:
        x = F.gelu(x + before.reshape([-1, 1, 1]))
    return F.conv2d(x, kernel.reshape([-1, 1, 3, 3]), bias, padding=1, groups=kernel.shape[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 1), (2, 2), (7, 9), (4, 47), (3, 48), (33, 57)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])  # Paddle's operations, and loops
def test_depthwise(size, dtype):
    tolerance = 1e-11 if dtype == "float64" else 2e-4
    shapes = [[3, 5, *size], [5, 9], [5], [5]]
    for count in (3, 4):  # without and with the GELU
        both(ops.depthwise3x3, plain_depthwise, shapes[:count], dtype, tolerance)
    x, kernel = numbers(shapes[0], 0, dtype), numbers([5, 9], 1, dtype)
    without_bias = plain_depthwise(x, kernel, None).numpy()
    np.testing.assert_allclose(ops.depthwise3x3(x, kernel).numpy(), without_bias, rtol=0, atol=tolerance)


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (3,), (0, 1, 2)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_frozen_parts_get_no_gradient(frozen, dtype):
    for width in (5, 60):
        shapes = [[2, 3, 4, width], [3, 9], [3], [3]]
        inputs = [numbers(shape, i, dtype) for i, shape in enumerate(shapes)]
        for i, t in enumerate(inputs):
            t.stop_gradient = i in frozen
        ops.depthwise3x3(*inputs).sum().backward()
        assert [t.grad is None for t in inputs] == [i in frozen for i in range(4)]


def reference_mlp(mlp: ConvMlp, x: paddle.Tensor) -> paddle.Tensor:
    """The MLP as a sum of plain convolutions."""
    conv = mlp.conv.conv
    hidden = F.gelu(F.conv2d(x, mlp.fc1.weight.t().unsqueeze(-1).unsqueeze(-1), mlp.fc1.bias))
    hidden = hidden + F.conv2d(hidden, conv.weight, conv.bias, padding=1, groups=hidden.shape[1])
    return F.conv2d(hidden, mlp.fc2.weight.t().unsqueeze(-1).unsqueeze(-1), mlp.fc2.bias)


@pytest.mark.parametrize("size", [(6, 5), (7, 60)])
def test_conv_mlp_is_what_its_layers_say(size):
    paddle.seed(0)
    mlp = ConvMlp(4, 12)
    mlp.to(dtype="float64")
    results = []
    for f in (mlp, lambda x: reference_mlp(mlp, x)):
        mlp.clear_gradients()
        x = numbers([3, 4, *size], 3)
        x.stop_gradient = False
        f(x).sin().sum().backward()
        results.append([x.grad.numpy(), *(p.grad.numpy() for p in mlp.parameters())])
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_layers_start_as_convolutions_in_pytorch():
    for layer, fan_in in (
        (Pointwise(64, 96), 64),
        (Conv3x3(16, 96, 2), 144),
        (ResidualDepthwise(900).conv, 9),
    ):
        for value in (layer.weight, layer.bias):
            assert float(value.abs().max()) <= fan_in**-0.5
            assert abs(float(value.std()) - (3 * fan_in) ** -0.5) < 0.1 * fan_in**-0.5
