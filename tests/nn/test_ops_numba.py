"""The compiled loops where they are special, and what stands in for them without numba."""

import importlib.util
import sys

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl_sot.nn import ops
from passl_sot.nn.conv_mlp import ConvMlp, ResidualDepthwise
from passl_sot.nn.ops import cpu_numba

pytest.importorskip("numba")


def numbers(shape: list[int], seed: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


def test_gelu_and_its_slope_over_the_whole_line():
    x = paddle.to_tensor(np.linspace(-30, 30, 240001, dtype="float32")).reshape([1, 1, 1, -1])
    exact = x.astype("float64")
    x.stop_gradient = exact.stop_gradient = False
    zero = paddle.zeros([1])
    zero.stop_gradient = False
    itself = paddle.to_tensor([[0.0] * 4 + [1.0] + [0.0] * 4])
    out, want = cpu_numba.depthwise3x3(x, itself, None, zero), F.gelu(exact)
    assert np.abs(out.numpy() - want.numpy()).max() < 2e-6  # four roundings at 30
    near = np.abs(x.numpy()) < 4
    assert np.abs(out.numpy() - want.numpy())[near].max() < 6e-7
    out.sum().backward()
    want.sum().backward()
    assert np.abs(x.grad.numpy() - exact.grad.numpy()).max() < 5e-7
    np.testing.assert_allclose(zero.grad.numpy(), x.grad.numpy().astype("float64").sum(), rtol=1e-5)


def test_what_is_not_finite_stays_so():
    for value in (float("nan"), float("inf")):
        x = numbers([1, 2, 5, 5], 0)
        x[0, 1, 2, 2] = value
        out = cpu_numba.depthwise3x3(x, numbers([2, 9], 1), numbers([2], 2), numbers([2], 3)).numpy()
        assert np.isfinite(out[0, 0]).all() and not np.isfinite(out[0, 1, 1:4, 1:4]).any()


def test_gelu_of_any_shape():
    for shape in ([7], [3, 5, 9], [2, 4, 6, 5]):
        x = 3.0 * numbers(shape, 1)
        exact = x.astype("float64")
        x.stop_gradient = exact.stop_gradient = False
        upstream = numbers(shape, 2)
        out, want = ops.gelu(x), F.gelu(exact)
        np.testing.assert_allclose(out.numpy(), want.numpy(), atol=1e-6)
        (out * upstream).sum().backward()
        (want * upstream.astype("float64")).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), exact.grad.numpy(), atol=2e-6)
    with paddle.no_grad():
        out = ops.gelu(paddle.to_tensor([float("nan"), float("inf"), 1.0]))
    assert np.isnan(out[0].numpy()) and out[1].numpy() == float("inf")


def test_dropout_drops_what_it_should():
    x = paddle.ones([500, 400])
    x.stop_gradient = False
    paddle.seed(5)
    one, two = (ops.dropout(x, 0.1) for _ in range(2))
    paddle.seed(5)
    np.testing.assert_array_equal(ops.dropout(x, 0.1).numpy(), one.numpy())
    np.testing.assert_allclose(np.unique(one.numpy()), [0.0, 1 / 0.9], rtol=1e-6)
    one.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), one.numpy())  # the same ones
    first, second = ((t.numpy() == 0).astype("float64") for t in (one, two))
    assert abs(first.mean() - 0.1) < 0.003  # 4 stds
    # Independent of each other, and of their neighbors in rows and columns: 4 stds of a correlation.
    for a, b in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)
    # No row or column has more of them than chance gives.
    for axis, count in ((0, 500), (1, 400)):
        assert abs(first.mean(axis=axis).std() / np.sqrt(0.09 / count) - 1) < 0.15


def test_layers_use_the_loops_for_float32_alone():
    x = numbers([2, 4, 6, 5], 0)
    assert cpu_numba.available(x)
    assert not cpu_numba.available(x.astype("float64"))
    assert not cpu_numba.available(x[:0])
    paddle.seed(0)
    for layer in (ConvMlp(4, 12), ResidualDepthwise(4)):
        fast = layer(x).numpy()
        layer.to(dtype="float64")
        np.testing.assert_allclose(fast, layer(x.astype("float64")).numpy(), rtol=1e-5, atol=1e-5)


def test_without_numba_the_other_formulations_serve(monkeypatch):
    x = numbers([2, 4, 6, 5], 0)
    paddle.seed(0)
    layer = ConvMlp(4, 12)
    by_loops = layer(x).numpy()
    monkeypatch.setitem(sys.modules, "numba", None)
    spec = importlib.util.spec_from_file_location("cpu_numba_without", cpu_numba.__file__)
    without = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without)
    assert without.numba is None and not without.available(x)
    monkeypatch.setattr(ops, "cpu_numba", without)
    np.testing.assert_allclose(layer(x).numpy(), by_loops, rtol=1e-4, atol=1e-6)


def test_where_nothing_can_be_kept_it_is_compiled_anew():
    # A function of no file, for which numba finds no folder to keep the compiled one in.
    names = {}
    exec("def double(x):\n    return 2 * x", names)
    double = cpu_numba._compiled(names["double"])
    assert double(3) == 6
    assert type(double._cache).__name__ == "NullCache"
