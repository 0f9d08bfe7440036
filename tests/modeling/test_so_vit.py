"""So-ViT's head."""

import math

import numpy as np
import paddle
import pytest

from passl_sot.modeling.heads import build_head

HEAD = {
    "name": "CrossCovarianceHead",
    "num_classes": 5,
    "in_channels": 12,
    "reduction": [6, 4],
    "normalization": {"name": "SvPN"},
}


def test_pooling_is_the_formula():
    paddle.seed(3)
    head = build_head({**HEAD, "normalization": None})
    head.eval()
    tokens = paddle.randn([2, 8, 12])
    words = tokens.numpy()[:, 1:].astype("float64")
    parts = []
    for branch in head.representation.conv_dr_block:
        reduced = np.maximum(words @ branch[0].weight.numpy() / math.sqrt(1 + 1e-5), 0)
        parts.append(reduced - reduced.mean(axis=1, keepdims=True))
    expected = np.einsum("bna,bnc->bac", *parts) / 7
    np.testing.assert_allclose(head.pool(tokens).numpy(), expected.reshape(2, 24), rtol=1e-4, atol=1e-5)


def test_power_normalisation_turns_the_matrix():
    paddle.seed(4)
    head = build_head(HEAD)
    head.eval()
    assert head.normalization.weight.shape == [6]
    tokens = paddle.randn([2, 8, 12])
    start = head.normalization.weight.numpy().astype("float64")
    matrices = head.representation(tokens[:, 1:]).numpy()
    for matrix, got in zip(matrices, head.pool(tokens).numpy(), strict=True):
        p = matrix.T.astype("float64")  # [a, b]
        u = p.T @ start / np.linalg.norm(p.T @ start)
        v = p @ u / np.linalg.norm(p @ u)
        s = v @ p @ u
        expected = np.outer(v, u) * s**0.5 + (p - s * np.outer(v, u)) / (s**0.5 + 1e-5)
        np.testing.assert_allclose(got, expected.reshape(-1), rtol=1e-4, atol=1e-4)


def test_dropout_falls_on_the_pooled_words():
    head = build_head({**HEAD, "normalization": {"name": "SvPN", "dropout": 0.5}})
    tokens = paddle.randn([2, 8, 12])
    assert 4 < int((head.pool(tokens) == 0).sum()) < 44
    head.eval()
    assert int((head.pool(tokens) == 0).sum()) == 0


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_shapes_and_new_classes(prefix):
    head = build_head({**HEAD, "num_prefix_tokens": prefix})
    tokens = paddle.randn([3, prefix + 9, 12])
    assert head(tokens).shape == [3, 5]
    assert hasattr(head, "cls_fc") == (prefix > 0)
    head.reset_classifier(7)
    assert head(tokens).shape == [3, 7]
    by_class, by_words = head.forward_parts(tokens)
    assert (by_class is None) == (prefix == 0) and by_words.shape == [3, 7]


def test_starts_as_the_official_code_does():
    paddle.seed(0)
    head = build_head({**HEAD, "in_channels": 400, "reduction": [96, 48]})
    for branch, width in zip(head.representation.conv_dr_block, (96, 48), strict=True):
        assert float(branch[0].weight.std()) == pytest.approx(math.sqrt(2 / width), rel=0.02)
        assert branch[0].bias is None
    assert float(head.visual_fc.weight.std()) == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("name", ["EPN", "SqrtD", "SqrtT", "LN"])
def test_other_normalisations(name):
    assert build_head({**HEAD, "normalization": {"name": name}})(paddle.randn([2, 5, 12])).shape == [2, 5]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"reduction": [4]}, "two positive widths"),
        ({"reduction": [4, 0]}, r"reduction\.1: must be at least 1, got 0"),
        ({"normalization": {"name": "ISQRTCOV"}}, "choose SvPN"),
        ({"normalization": {"name": "SvPN", "vec": "triu"}}, "vec: full"),
    ],
)
def test_refused(more, message):
    with pytest.raises(ValueError, match=message):
        build_head({**HEAD, **more})
