"""Heads: shapes, choices that exclude each other, resetting."""

import numpy as np
import paddle
import pytest

from passl_sot.config import ConfigError
from passl_sot.modeling.heads import HEADS, build_head


def second_order(**more) -> paddle.nn.Layer:
    paddle.seed(0)
    base = {"name": "SecondOrderHead", "num_classes": 7, "in_channels": 20, "num_heads": 2, "wr_dim": 5}
    return build_head({**base, **more})


def linear(**more) -> paddle.nn.Layer:
    return build_head({"name": "LinearHead", "num_classes": 7, "in_channels": 20, **more})


def test_names():
    assert {"CrossCovarianceHead", "LinearHead", "SecondOrderHead"} <= set(HEADS.names())


@pytest.mark.parametrize("representation", ["MGCrP", "GAP", "GCP"])
@pytest.mark.parametrize("fusion", ["sum_fc", "concat", "sum_loss", "aggre_all"])
@pytest.mark.parametrize("prefix", [1, 2])
def test_all_fusions_of_all_representations(representation, fusion, prefix):
    head = second_order(representation=representation, fusion_type=fusion, num_prefix_tokens=prefix)
    x = paddle.randn([3, prefix + 9, 20])
    head.train()
    out = head(x)
    if fusion == "sum_loss":
        assert isinstance(out, tuple) and [part.shape for part in out] == [[3, 7], [3, 7]]
    else:
        assert out.shape == [3, 7]
    head.eval()
    assert head(x).shape == [3, 7]
    assert head.cls_fc.weight.shape == [20, 7]


@pytest.mark.parametrize("representation", ["fc", "none"])
def test_class_token_alone(representation):
    head = second_order(representation=representation)
    x = paddle.randn([3, 10, 20])
    other = paddle.concat([x[:, :1], paddle.randn([3, 9, 20])], axis=1)
    np.testing.assert_array_equal(head(x).numpy(), head(other).numpy())
    assert not hasattr(head, "visual_fc")


@pytest.mark.parametrize("representation", ["MGCrP", "GAP", "GCP"])
def test_words_alone(representation):
    head = second_order(representation=representation, fusion_type="words")
    x = paddle.randn([3, 10, 20])
    other = paddle.concat([paddle.randn([3, 1, 20]), x[:, 1:]], axis=1)
    np.testing.assert_array_equal(head(x).numpy(), head(other).numpy())
    assert head(x).shape == [3, 7] and not hasattr(head, "cls_fc")


@pytest.mark.parametrize("representation", ["MGCrP", "GAP", "GCP"])
def test_without_a_class_token(representation):
    head = second_order(representation=representation, num_prefix_tokens=0)
    assert head(paddle.randn([2, 9, 20])).shape == [2, 7]
    assert not any(key.startswith("cls_fc") for key in head.state_dict())
    by_class, by_words = head.forward_parts(paddle.randn([2, 9, 20]))
    assert by_class is None and by_words.shape == [2, 7]


def test_prefix_tokens_are_not_words():
    head = second_order(num_prefix_tokens=2)
    x = paddle.randn([2, 11, 20])
    changed = paddle.concat([x[:, :1], x[:, 1:2] + 5.0, x[:, 2:]], axis=1)
    np.testing.assert_array_equal(head(x).numpy(), head(changed).numpy())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"representation": "none", "num_prefix_tokens": 0}, "classifies the class token"),
        ({"representation": "fc", "num_prefix_tokens": 0}, "classifies the class token"),
        ({"representation": "none", "fusion_type": "concat"}, "nothing to fuse"),
        ({"fusion_type": "concat", "num_prefix_tokens": 0}, "needs a class token"),
        ({"normalization": {"name": "ISQRTCOV"}}, "square root of a covariance"),
        ({"num_classes": 0}, "num_classes"),
        ({"num_prefix_tokens": -1}, "num_prefix_tokens"),
    ],
)
def test_choices_that_exclude_each_other(choice, message):
    with pytest.raises(ValueError, match=message):
        second_order(**choice)


def test_nested_nodes_are_checked():
    with pytest.raises(ConfigError) as caught:
        HEADS.build(
            {
                "name": "SecondOrderHead",
                "num_classes": 7,
                "in_channels": 20,
                "representation": "MGCRP",
                "normalization": {"name": "SvPN", "dropuot": 0.5},
            }
        )
    assert {fault.path for fault in caught.value.faults} == {
        "head.representation",
        "head.normalization.dropuot",
    }
    with pytest.raises(ConfigError, match="SvPN"):
        second_order(normalization={"name": "svPN"})


@pytest.mark.parametrize("name", ["SvPN", "EPN", "SqrtD", "SqrtT", "LN", None])
@pytest.mark.parametrize("representation", ["MGCrP", "GCP"])
def test_normalizations(name, representation):
    node = {"name": name} if name else None
    head = second_order(representation=representation, normalization=node)
    x = paddle.randn([2, 10, 20])
    x.stop_gradient = False
    out = head(x)
    (out * out).sum().backward()
    assert out.shape == [2, 7] and np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_pooling_is_an_island_of_float32(kind):
    head = second_order()
    words = paddle.randn([2, 9, 2 * 2 * 5]).astype(kind)
    pool = head.representation
    pool.wr = paddle.nn.Identity()  # the CPU has no 16-bit products; what follows them is the island
    low = pool(words)
    exact = pool(words.astype("float32"))
    assert low.dtype == words.dtype
    np.testing.assert_array_equal(low.astype("float32").numpy(), exact.astype(kind).astype("float32").numpy())


@pytest.mark.parametrize("fusion", ["sum_fc", "concat", "sum_loss"])
def test_reset_classifier(fusion):
    head = second_order(fusion_type=fusion)
    kept = head.representation.wr.weight.numpy().copy()
    head.reset_classifier(3)
    head.eval()
    assert head.num_classes == 3 and head(paddle.randn([2, 10, 20])).shape == [2, 3]
    np.testing.assert_array_equal(head.representation.wr.weight.numpy(), kept)
    assert float(head.visual_fc.bias.abs().sum()) == 0.0
    with pytest.raises(ValueError, match="num_classes"):
        head.reset_classifier(0)


@pytest.mark.parametrize(("pool", "prefix"), [("token", 1), ("mean", 1), ("mean", 0), ("token", 2)])
def test_linear_head(pool, prefix):
    head = linear(pool=pool, num_prefix_tokens=prefix)
    x = paddle.randn([2, prefix + 4, 20])
    pooled = x[:, 0] if pool == "token" else x[:, prefix:].mean(axis=1)
    np.testing.assert_allclose(head(x).numpy(), head(pooled).numpy(), atol=1e-6)
    head.reset_classifier(4)
    assert head(x).shape == [2, 4]


def test_linear_head_refuses():
    with pytest.raises(ValueError, match="pool: mean"):
        linear(num_prefix_tokens=0)
    with pytest.raises(ValueError, match=r"takes \[batch, tokens, 20\] or \[batch, 20\], got \[2, 5, 21\]"):
        linear()(paddle.zeros([2, 5, 21]))
    with pytest.raises(ValueError, match=r"takes \[batch, tokens, 20\], got \[2, 20\]"):
        second_order()(paddle.zeros([2, 20]))
