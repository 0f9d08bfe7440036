"""The formulations for the CPU against Paddle's own operations, values and gradients."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl_sot.nn.conv_mlp import Conv3x3, ConvMlp, Pointwise, ResidualDepthwise
from passl_sot.nn.ops.cpu import (
    LayerNorm,
    affine,
    channel_bias,
    depthwise_conv3x3,
    erf_gate,
    gelu,
    pack,
    unpack,
)


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


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_erf_gate(dtype, tolerance):
    half = 0.5**0.5
    both(lambda x: erf_gate(x * half) * half, F.gelu, [[3, 5, 7]], dtype, tolerance)


def test_packed_and_back():
    x = numbers([3, 2, 4, 5], 0)
    packed = pack(x, ones=True)
    assert packed.shape == [3, 4, 18]
    assert float(packed[:, :, 5::6].abs().max()) == 0.0
    assert float(packed[2].sum()) == 4 * 15
    np.testing.assert_array_equal(unpack(packed, 3)[:, :2].numpy(), x.numpy())


def test_channel_bias():
    both(channel_bias, lambda x, b: x + b.unsqueeze(-1), [[2, 3, 20], [3]])


@pytest.mark.parametrize("shape", [[3, 5, 7], [4, 7], [0, 7]])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_affine(shape, dtype, tolerance):
    both(affine, F.linear, [shape, [7, 6], [6]], dtype, tolerance)


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_affine_with_frozen_parts(frozen):
    results = []
    for f in (affine, F.linear):
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


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (3, 47), (4, 48)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 2e-4)])
def test_depthwise(size, dtype, tolerance):
    reference = lambda x, w: F.conv2d(x, w, padding=1, groups=6)  # noqa: E731
    both(depthwise_conv3x3, reference, [[2, 6, *size], [6, 1, 3, 3]], dtype, tolerance)


@pytest.mark.parametrize("width", [5, 60])
def test_depthwise_with_a_frozen_side(width):
    for frozen in (0, 1):
        inputs = [numbers([2, 3, 4, width], 0), numbers([3, 1, 3, 3], 1)]
        inputs[1 - frozen].stop_gradient = False
        depthwise_conv3x3(*inputs).sum().backward()
        assert inputs[frozen].grad is None and inputs[1 - frozen].grad is not None


def reference_mlp(mlp: ConvMlp, x: paddle.Tensor) -> paddle.Tensor:
    """The perceptron as a sum of plain convolutions."""
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
