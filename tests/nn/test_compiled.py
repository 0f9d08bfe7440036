"""The compiled loops against Paddle's own operations, and what stands in for them without numba."""

import os
import subprocess
import sys

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl_sot.nn.conv_mlp import ConvMlp, ResidualDepthwise
from passl_sot.nn.ops import cpu_numba as compiled

pytest.importorskip("numba")


def numbers(shape: list[int], seed: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


def reference(x, kernel, after, before=None):
    maps = x if before is None else F.gelu(x + before.reshape([-1, 1, 1]))
    weight = kernel.reshape([-1, 1, 3, 3])
    return F.conv2d(maps, weight, after, padding=1, groups=weight.shape[0])


def with_gradients(function, inputs) -> list[np.ndarray]:
    inputs = [t.detach() for t in inputs]
    for t in inputs:
        t.stop_gradient = False
    out = function(*inputs)
    (out * numbers(out.shape, 9)).sum().backward()
    return [out.numpy(), *(t.grad.numpy() for t in inputs)]


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 1), (2, 2), (7, 9), (14, 14), (33, 57)])
@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_depthwise(size, activate, axis):
    inputs = [numbers([3, 5, *size], 0), numbers([5, 9], 1), numbers([5], 2)]
    inputs += [numbers([5], 3)] if activate else []

    def loops(x, *rest):
        if axis == 1:
            return compiled.depthwise3x3(x, *rest)
        return compiled.depthwise3x3(x.transpose([1, 0, 2, 3]), *rest, channel_axis=0).transpose([1, 0, 2, 3])

    for got, want in zip(with_gradients(loops, inputs), with_gradients(reference, inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=3e-5 * max(1.0, np.abs(want).max()))
    with paddle.no_grad():
        np.testing.assert_allclose(
            loops(*[t.clone() for t in inputs]).numpy(), reference(*inputs).numpy(), rtol=1e-4, atol=3e-5
        )


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (3,), (0, 1, 2)])
def test_frozen_parts_get_no_gradient(frozen):
    inputs = [numbers([2, 3, 4, 5], 0), numbers([3, 9], 1), numbers([3], 2), numbers([3], 3)]
    for i, t in enumerate(inputs):
        t.stop_gradient = i in frozen
    compiled.depthwise3x3(*inputs).sum().backward()
    assert [t.grad is None for t in inputs] == [i in frozen for i in range(4)]


def test_gelu_and_its_slope_over_the_whole_line():
    x = paddle.to_tensor(np.linspace(-30, 30, 240001, dtype="float32")).reshape([1, 1, -1])
    exact = x.astype("float64")
    x.stop_gradient = exact.stop_gradient = False
    zero = paddle.zeros([1])
    zero.stop_gradient = False
    out, want = compiled.bias_gelu(x, zero), F.gelu(exact)
    assert np.abs(out.numpy() - want.numpy()).max() < 2e-6  # four roundings at 30
    near = np.abs(x.numpy()) < 4
    assert np.abs(out.numpy() - want.numpy())[near].max() < 6e-7
    out.sum().backward()
    want.sum().backward()
    assert np.abs(x.grad.numpy() - exact.grad.numpy()).max() < 5e-7
    np.testing.assert_allclose(zero.grad.numpy(), x.grad.numpy().astype("float64").sum(), rtol=1e-5)


def test_bias_gelu_with_gradients():
    inputs = [numbers([2, 3, 11], 0), numbers([3], 1)]
    want = with_gradients(lambda x, b: F.gelu(x + b.unsqueeze(-1)), inputs)
    for got, expected in zip(with_gradients(compiled.bias_gelu, inputs), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)
    for frozen in (0, 1):
        x, bias = numbers([2, 3, 11], 0), numbers([3], 1)
        (bias if frozen else x).stop_gradient = False
        compiled.bias_gelu(x, bias).sum().backward()
        assert (x.grad is None) == bool(frozen)


def test_what_is_not_finite_stays_so():
    for value in (float("nan"), float("inf")):
        x = numbers([1, 2, 5, 5], 0)
        x[0, 1, 2, 2] = value
        out = compiled.depthwise3x3(x, numbers([2, 9], 1), numbers([2], 2), numbers([2], 3)).numpy()
        assert np.isfinite(out[0, 0]).all() and not np.isfinite(out[0, 1, 1:4, 1:4]).any()


def test_layers_use_the_loops_for_float32_alone():
    x = numbers([2, 4, 6, 5], 0)
    assert compiled.available(x)
    assert not compiled.available(x.astype("float64"))
    assert not compiled.available(x[:0])
    paddle.seed(0)
    for layer in (ConvMlp(4, 12), ResidualDepthwise(4)):
        fast = layer(x).numpy()
        layer.to(dtype="float64")
        np.testing.assert_allclose(fast, layer(x.astype("float64")).numpy(), rtol=1e-5, atol=1e-5)


def test_without_numba_the_other_formulations_serve():
    program = """
import sys
sys.modules["numba"] = None
import numpy as np, paddle
from passl_sot.nn.ops import cpu_numba as compiled
from passl_sot.nn.conv_mlp import ConvMlp
x = paddle.to_tensor(np.random.default_rng(0).standard_normal([2, 4, 6, 5]).astype("float32"))
assert not compiled.available(x)
paddle.seed(0)
print(ConvMlp(4, 12)(x).sum().item())
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    paddle.seed(0)
    np.testing.assert_allclose(float(done.stdout), ConvMlp(4, 12)(numbers([2, 4, 6, 5], 0)).sum(), rtol=1e-4)


def test_where_nothing_can_be_kept_it_is_compiled_anew():
    program = """
import paddle
from passl_sot.nn.ops import cpu_numba as compiled
x = paddle.ones([1, 1, 2, 2])
print(float(compiled.depthwise3x3(x, paddle.ones([1, 9]), paddle.zeros([1])).sum()))
print(type(compiled._forward._cache).__name__)
"""
    # A folder that can't be made, and no other to fall back on.
    nowhere = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": "/proc/nowhere"}
    environment = {**os.environ, **nowhere}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["16.0", "NullCache"]
