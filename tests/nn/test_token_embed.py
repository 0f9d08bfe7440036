"""Token embeddings: grids, strides, resizing, errors."""

import numpy as np
import paddle
import paddle.nn.functional as F
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


@pytest.mark.parametrize(
    ("kind", "stride", "words"),
    [("DenseNet", 4, 90), ("Inception", 2, 360), ("Non-local", 8, 25), ("Naive_linear", 8, 20)],
)
def test_large_output(kind, stride, words):
    """As in the official code, whatever its module declares: two of the five don't read it."""
    for size in ((40, 36), (224, 224)):
        layer = make(kind, size, large_output=True)
        wanted = 16 if kind == "Naive_linear" and size == (224, 224) else stride
        assert layer.stride == wanted
        assert layer.grid_size(224, 224) == (224 // wanted, 224 // wanted)
    paddle.seed(0)
    x = paddle.randn([1, 3, 40, 36])
    small = make(kind, (40, 36), large_output=True)
    assert small(x).shape == [1, words, 24]
    plain = make(kind, (40, 36))
    plain.set_state_dict(small.state_dict())
    same = small(x).shape == plain(x).shape and np.array_equal(small(x).numpy(), plain(x).numpy())
    assert same == (kind in ("Non-local", "Naive_linear"))


def test_large_output_of_inception_by_its_formula():
    """Every stride and pooling behind the stem at 1."""
    layer = make("Inception", (12, 10), large_output=True)
    weights = layer.state_dict()
    x = paddle.randn([2, 3, 12, 10])

    def conv(x: paddle.Tensor, name: str) -> paddle.Tensor:
        kernel = weights[f"{name}.conv.weight"]
        x = F.conv2d(x, kernel, padding=kernel.shape[2] // 2)
        norm = [weights[f"{name}.bn.{part}"] for part in ("_mean", "_variance", "weight", "bias")]
        return F.relu(F.batch_norm(x, *norm, epsilon=1e-3))

    y = F.max_pool2d(layer.tokens.stem[0](x), 3, 2, 1)
    for i in range(3):
        place = f"tokens.stage.{i}.branch"
        twice = [conv(conv(y, f"{place}{b}.0"), f"{place}{b}.1") for b in (1, 2)]
        y = paddle.concat(
            [conv(y, f"{place}0"), *twice, conv(F.max_pool2d(y, 3, 1, 1), f"{place}3.1")], axis=1
        )
    y = F.conv2d(y, weights["tokens.transition.weight"], weights["tokens.transition.bias"])
    assert y.shape == [2, 24, 6, 5]
    np.testing.assert_allclose(layer(x).numpy(), y.flatten(2).transpose([0, 2, 1]).numpy(), atol=1e-5)


def test_large_output_of_resnet_is_refused():
    with pytest.raises(ValueError, match="large_output needs the DenseNet token embedding, not ResNet"):
        make("ResNet", (224, 224), large_output=True)


def test_resnet_with_the_layers_of_every_size():
    """A shortcut that does not down-sample keeps its projection; officially it has none below 224 pixels."""
    full, small = make("ResNet", (224, 224)), make("ResNet", (96, 96), every_size=True)
    assert small.set_state_dict(full.state_dict()) == ([], [])
    x = paddle.randn([1, 3, 96, 96])
    assert small(x).shape == [1, 144, 24]
    full.resize((96, 96))
    np.testing.assert_array_equal(small(x).numpy(), full(x).numpy())
    small.resize((224, 224))
    assert (small.stride, small.grid_size(224, 224)) == (16, (14, 14))


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
