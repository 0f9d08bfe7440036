"""Initialisers, drop path, attention, blocks, position tables."""

import math

import numpy as np
import paddle
import pytest

from passl_sot.modeling.backbones import Backbone
from passl_sot.nn import ops
from passl_sot.nn.batch_norm import batch_norm, synchronize_batch_norm
from passl_sot.nn.block import Attention, Block
from passl_sot.nn.initializers import conv2d, linear, trunc_normal_
from passl_sot.nn.layers import DropPath
from passl_sot.nn.position import sinusoid_table
from passl_sot.nn.post_norm import Group, Packing, PostNormBlock
from passl_sot.nn.precision import softmax


@pytest.fixture(autouse=True)
def seed():
    paddle.seed(7)


def test_trunc_normal_cuts_at_absolute_values():
    wide = trunc_normal_(paddle.zeros([400, 400]), std=0.02).numpy()
    # Cut at 2 stds the std would be 0.0176.
    assert abs(wide.std() - 0.02) < 1e-4 and abs(wide.mean()) < 2e-4
    assert 0.07 < np.abs(wide).max() < 0.12
    cut = trunc_normal_(paddle.zeros([400, 400]), std=1.0).numpy()
    assert np.abs(cut).max() <= 2.0
    assert abs(cut.std() - 0.8796) < 5e-3  # of a normal cut at two deviations


def test_linear_and_convolution_start_as_in_pytorch():
    layer = linear(300, 400)
    assert abs(float(layer.weight.std()) - 0.02) < 3e-4 and float(layer.bias.abs().max()) == 0.0
    assert linear(3, 4, bias=False).bias is None
    conv = conv2d(64, 96, 3)
    bound = 1 / math.sqrt(64 * 9)
    for value in (conv.weight, conv.bias):
        assert float(value.abs().max()) <= bound
        assert float(value.abs().max()) > 0.9 * bound
    assert abs(float(conv.weight.std()) - bound / math.sqrt(3)) < 1e-3 * bound * 10
    assert conv2d(4, 4, 1, bias=False).bias is None


def test_batch_norm_momentum_is_translated():
    layer = batch_norm(2, 1e-3, torch_momentum=0.01)
    layer(paddle.full([4, 2, 3, 3], 10.0))
    np.testing.assert_allclose(layer._mean.numpy(), 0.1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("joined", [False, True])
def test_batch_norm_equals_its_definition(shape, dtype, joined):
    """The running variance is PyTorch's, n/(n-1) of the batch's own."""
    layer = batch_norm(3, 1e-3).to(dtype=dtype)
    if joined:
        synchronize_batch_norm(layer, lambda tensor: tensor)
    x = np.random.default_rng(1).standard_normal(shape) * 3 + 1
    images = paddle.to_tensor(x, dtype)
    axes = (0, *range(2, x.ndim))
    n = x.size / 3

    def normal(mean, variance):
        beside = [1, 3] + [1] * (x.ndim - 2)
        return (x - mean.reshape(beside)) / np.sqrt(variance.reshape(beside) + 1e-3)

    exact = {"rtol": 1e-12, "atol": 1e-12} if dtype == "float64" else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(layer(images).numpy(), normal(x.mean(axes), x.var(axes)), **exact)
    mean, variance = 0.1 * x.mean(axes), 0.9 + 0.1 * x.var(axes) * n / (n - 1)
    np.testing.assert_allclose(layer._mean.numpy(), mean, **exact)
    np.testing.assert_allclose(layer._variance.numpy(), variance, **exact)
    layer.eval()
    np.testing.assert_allclose(layer(images).numpy(), normal(mean, variance), **exact)


def test_drop_path():
    layer = DropPath(0.25)
    x = paddle.ones([4000, 3, 2])
    out = layer(x).numpy()
    np.testing.assert_allclose(np.unique(out), [0.0, 1 / 0.75], rtol=1e-6)
    assert (out == out[:, :1, :1]).all()  # whole samples
    assert abs((out[:, 0, 0] == 0).mean() - 0.25) < 0.03
    layer.eval()
    assert layer(x) is x
    with pytest.raises(ValueError, match="drop-path"):
        DropPath(1.0)
    assert Backbone().rates_of_blocks(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert Backbone().rates_of_blocks(0.3, 1) == [0.0]


def test_attention_equals_its_definition():
    layer = Attention(12, 3, qkv_bias=True)
    layer.qkv.bias.set_value(paddle.randn([36]))
    x = paddle.randn([2, 5, 12])
    qkv = (x.numpy() @ layer.qkv.weight.numpy() + layer.qkv.bias.numpy()).reshape(2, 5, 3, 3, 4)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    scores = np.exp(q @ k.transpose(0, 1, 3, 2) / 2.0)
    out = (scores / scores.sum(-1, keepdims=True)) @ v
    out = out.transpose(0, 2, 1, 3).reshape(2, 5, 12) @ layer.proj.weight.numpy()
    np.testing.assert_allclose(layer(x).numpy(), out, atol=1e-6)
    with pytest.raises(ValueError, match="divide"):
        Attention(10, 3)


def test_attention_dropout_only_in_training():
    layer = Attention(8, 2, attn_dropout=0.5)
    x = paddle.randn([1, 50, 8])
    assert not np.allclose(layer(x).numpy(), layer(x).numpy())
    layer.eval()
    calm = layer(x).numpy()
    assert np.array_equal(calm, layer(x).numpy())
    layer.attn_dropout = 0.0
    layer.train()
    assert np.array_equal(calm, layer(x).numpy())


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_softmax_of_sixteen_bits(kind):
    # Scores beyond float16's exponent range of exp, and equal scores over many tokens.
    scores = paddle.to_tensor([[60000.0, 0.0, -60000.0], [11.5, 11.5, 11.5]]).astype(kind)
    out = softmax(scores)
    assert str(out.dtype).endswith(kind)
    np.testing.assert_allclose(out.astype("float32").numpy(), [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], atol=2e-3)
    wide = softmax(paddle.zeros([1, 5000]).astype(kind)).astype("float32").numpy()
    assert abs(wide.sum() - 1) < 0.01


def test_block_without_branches_is_the_identity():
    block = Block(8, 2, mlp_ratio=2.5)
    assert block.mlp.fc1.weight.shape == [8, 20]
    for layer in (block.attn.proj, block.mlp.fc2):
        layer.weight.set_value(paddle.zeros_like(layer.weight))
    x = paddle.randn([2, 3, 8])
    np.testing.assert_array_equal(block(x).numpy(), x.numpy())
    assert block.norm1._epsilon == 1e-5


def test_sinusoid_table():
    table = sinusoid_table(5, 6)
    assert table.shape == [1, 5, 6] and str(table.dtype) == "paddle.float32"
    np.testing.assert_array_equal(table[0, 0].numpy(), [0, 1, 0, 1, 0, 1])
    np.testing.assert_allclose(table[0, 3, :2].numpy(), [math.sin(3), math.cos(3)], rtol=1e-6)
    np.testing.assert_allclose(table[0, 3, 4].numpy(), math.sin(3 / 10000 ** (4 / 6)), rtol=1e-6)


def test_a_packing_puts_texts_of_one_length_together():
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]], bool)
    packing = Packing(mask)
    assert packing.lengths == [(2, 2), (2, 3)] and packing.count == 10
    numbers = paddle.arange(16).reshape([4, 4])
    packed = packing.pack(numbers)
    assert packed.tolist() == [4, 5, 12, 15, 0, 1, 2, 8, 9, 10]
    rows = packed.unsqueeze(-1).astype("float32") + 1.0
    np.testing.assert_array_equal(packing.unpack(rows).numpy()[..., 0], (numbers.numpy() + 1) * mask)
    order = np.array([[2, 0, 1, 3], [1, 0, 2, 3], [2, 0, 1, 3], [3, 0, 1, 2]])
    moved = packing.unpack(rows, order).numpy()[..., 0]
    assert moved.tolist() == [[3, 1, 2, 0], [6, 5, 0, 0], [11, 9, 10, 0], [16, 13, 0, 0]]


def test_post_norm_block_equals_its_definition():
    block = PostNormBlock(12, 3, 2.0, 0.0, 0.0, 1e-5, tanh_gelu=True)
    x = paddle.randn([2, 5, 12])
    y = block.norm1(x + Attention.forward(block.attn, x))
    hidden = paddle.nn.functional.gelu(block.mlp.fc1(y), approximate=True)
    expected = block.norm2(y + block.mlp.fc2(hidden))
    np.testing.assert_allclose(block(x, [Group(0, 0)]).numpy(), expected.numpy(), atol=1e-6)
    # As rows, and as rows of groups of one text each.
    for groups in ([Group(2, 5)], [Group(1, 5), Group(1, 5)]):
        got = block(x.flatten(0, 1), groups).reshape([2, 5, 12])
        np.testing.assert_allclose(got.numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tanh_gelu_and_its_gradient(dtype):
    x = paddle.linspace(-9, 9, 1001).astype(dtype)
    exact = x.astype("float64")
    x.stop_gradient = exact.stop_gradient = False
    out = ops.tanh_gelu(x)
    want = exact * 0.5 * (1.0 + paddle.tanh(math.sqrt(2 / math.pi) * (exact + 0.044715 * exact**3)))
    out.sum().backward()
    want.sum().backward()
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(out.numpy(), want.numpy(), atol=tolerance)
    np.testing.assert_allclose(x.grad.numpy(), exact.grad.numpy(), atol=2 * tolerance)
