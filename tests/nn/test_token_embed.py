"""Token embeddings: grids, strides, resizing, errors."""

import numpy as np
import paddle
import pytest

from passl_sot.nn.token_embed import TokenEmbed

KINDS = ["DenseNet", "ResNet", "Inception", "Non-local", "Naive_linear"]


def make(kind: str, size: tuple[int, int], **more) -> TokenEmbed:
    layer = TokenEmbed(kind, size, embed_dim=24, token_dim=8, **more)
    layer.eval()
    return layer


@pytest.mark.parametrize("kind", KINDS)
def test_grid_size_says_what_forward_gives(kind):
    layer = make(kind, (32, 32))
    for size in ((32, 32), (33, 47), (24, 40), (9, 15)):
        layer.resize(size)
        rows, columns = layer.grid_size(*size)
        assert layer(paddle.randn([2, 3, *size])).shape == [2, rows * columns, 24]


@pytest.mark.parametrize(
    ("kind", "size", "stride", "grid"),
    [
        ("DenseNet", (224, 224), 16, (14, 14)),
        ("DenseNet", (112, 112), 8, (14, 14)),
        ("DenseNet", (384, 384), 16, (24, 24)),
        ("DenseNet", (223, 300), 8, (28, 37)),
        ("DenseNet", (225, 240), 16, (14, 15)),
        ("ResNet", (225, 240), 16, (15, 15)),
        ("Inception", (224, 224), 16, (14, 14)),
        ("Non-local", (224, 224), 8, (28, 28)),
        ("Naive_linear", (224, 240), 16, (14, 15)),
        ("Naive_linear", (112, 112), 8, (14, 14)),
    ],
)
def test_strides(kind, size, stride, grid):
    layer = make(kind, size)
    assert layer.stride == stride
    assert layer.grid_size(*size) == grid


def test_large_output():
    layer = make("DenseNet", (224, 224), large_output=True)
    assert (layer.stride, layer.grid_size(224, 224)) == (4, (56, 56))
    small = make("DenseNet", (40, 36), large_output=True)
    assert small(paddle.randn([1, 3, 40, 36])).shape == [1, 90, 24]
    with pytest.raises(ValueError, match="large_output needs the DenseNet token embedding, not ResNet"):
        make("ResNet", (224, 224), large_output=True)


@pytest.mark.parametrize("kind", ["DenseNet", "ResNet", "Inception"])
def test_resizing_across_the_stride_change_keeps_weights(kind):
    layer = make(kind, (224, 224))
    before = {name: value.numpy().copy() for name, value in layer.state_dict().items()}
    layer.resize((64, 64))
    assert (layer.stride, layer.grid_size(64, 64)) == (8, (8, 8))
    assert layer(paddle.randn([1, 3, 64, 64])).shape == [1, 64, 24]
    layer.resize((224, 224))
    assert layer.stride == 16
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_those_that_cannot_follow_say_so_by_their_stride():
    linear = make("Naive_linear", (224, 224))
    linear.resize((64, 64))
    assert (linear.stride, linear.grid_size(64, 64)) == (16, (4, 4))
    resnet = make("ResNet", (112, 112))
    resnet.resize((224, 224))
    assert (resnet.stride, resnet.grid_size(224, 224)) == (8, (28, 28))
    assert resnet(paddle.randn([1, 3, 224, 224])).shape == [1, 784, 24]


def test_sizes_without_a_token():
    with pytest.raises(ValueError, match=r"6x40 gives no token .* nearest valid size is 7x40"):
        make("DenseNet", (6, 40))
    with pytest.raises(ValueError, match="nearest valid size is 8x8"):
        make("Naive_linear", (7, 3))
    layer = make("DenseNet", (224, 224))
    with pytest.raises(ValueError, match="nearest valid size is 7x7"):
        layer.resize((5, 5))
    assert layer.stride == 16  # a refused size changes nothing
    with pytest.raises(ValueError, match="unknown token embedding 'Dense'"):
        make("Dense", (32, 32))


def test_non_local_starts_as_its_shortcut():
    layer = make("Non-local", (32, 32))
    block = layer.tokens.stage[3]
    assert float(block.W.weight.abs().sum()) == 0.0 and float(block.W.bias.abs().sum()) == 0.0
    x = paddle.randn([1, 64, 4, 4])
    np.testing.assert_allclose(block(x).numpy(), block.bn_norm(block.shortcut(x)).numpy(), atol=1e-6)
