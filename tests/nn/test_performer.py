"""The token modules of T2T-ViT against their definitions."""

import numpy as np
import paddle
import pytest

from passl_sot.nn.performer import TokenPerformer, TokenTransformer, orthogonal_features


@pytest.fixture(autouse=True)
def seed():
    paddle.seed(11)


def phi(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.exp(x @ w.T - (x * x).sum(-1, keepdims=True) / 2) / np.sqrt(len(w))


def test_features_are_orthogonal():
    for rows, columns in ((4, 10), (10, 4)):
        w = orthogonal_features(rows, columns).numpy()
        assert w.shape == (rows, columns)
        gram = w @ w.T if rows < columns else w.T @ w
        np.testing.assert_allclose(gram, rows * np.eye(min(rows, columns)), atol=1e-5)
    # Uniform over rotations: no entry has a preferred sign.
    signs = np.mean([orthogonal_features(2, 3).numpy() > 0 for _ in range(300)], axis=0)
    assert (np.abs(signs - 0.5) < 0.12).all()


def test_performer_equals_its_definition():
    layer = TokenPerformer(10, out_dim=6, num_features=3).to(dtype="float64")
    layer.eval()
    kqv = np.random.default_rng(0).standard_normal((2, 7, 18))
    k, q, v = kqv[..., :6], kqv[..., 6:12], kqv[..., 12:]  # in this order
    w = layer.w.numpy()
    kp, qp = phi(k, w), phi(q, w)
    total = np.einsum("bti,bi->bt", qp, kp.sum(1))[..., None]
    y = np.einsum("bti,bni->btn", qp, np.einsum("bin,bim->bnm", v, kp)) / (total + 1e-8)
    np.testing.assert_allclose(layer.mix(paddle.to_tensor(kqv)).numpy(), y, rtol=1e-12, atol=1e-13)
    x = paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 7, 10)))
    inner = layer.kqv(layer.norm1(x))
    out = inner[:, :, 12:] + layer.proj(layer.mix(inner))
    np.testing.assert_allclose(layer(x).numpy(), (out + layer.mlp(layer.norm2(out))).numpy(), atol=1e-14)


def test_features_are_saved_and_not_trained():
    layer = TokenPerformer(10, out_dim=6, num_features=3)
    assert layer.w.stop_gradient and "w" in layer.state_dict()
    other = TokenPerformer(10, out_dim=6, num_features=3)
    assert not np.allclose(layer.w.numpy(), other.w.numpy())
    other.set_state_dict(layer.state_dict())
    np.testing.assert_array_equal(layer.w.numpy(), other.w.numpy())
    layer(paddle.randn([2, 5, 10])).sum().backward()
    assert layer.w.grad is None and layer.kqv.weight.grad is not None


def test_epsilon_survives_and_sixteen_bits_are_computed_in_thirty_two():
    layer = TokenPerformer(10, out_dim=6, num_features=3)
    # Keys this long have no neighbours at all: every φ underflows and only the epsilon is left.
    far = paddle.full([1, 5, 18], 40.0)
    np.testing.assert_array_equal(layer.mix(far).numpy(), 0.0)
    small = paddle.randn([1, 5, 18])
    for kind in ("float16", "bfloat16"):
        out = layer.mix(small.astype(kind))
        assert out.dtype == paddle.float32
        np.testing.assert_array_equal(out.numpy(), layer.mix(small.astype(kind).astype("float32")).numpy())
        np.testing.assert_array_equal(layer.mix(far.astype(kind)).numpy(), 0.0)


def test_dropout_of_a_tenth_only_in_training():
    layer = TokenPerformer(10, out_dim=6, num_features=3)
    assert layer.drop.p == layer.mlp[3].p == 0.1
    x = paddle.randn([2, 5, 10])
    assert not np.array_equal(layer(x).numpy(), layer(x).numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x).numpy(), layer(x).numpy())


def test_transformer_equals_its_definition():
    layer = TokenTransformer(10, out_dim=6).to(dtype="float64")
    x = paddle.to_tensor(np.random.default_rng(2).standard_normal((2, 7, 10)))
    q, k, v = np.split(layer.attn.qkv(layer.norm1(x)).numpy(), 3, axis=-1)
    scores = np.exp(q @ k.transpose(0, 2, 1) * 10**-0.5)  # by the width of the input
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    out = v + mixed @ layer.attn.proj.weight.numpy() + layer.attn.proj.bias.numpy()
    out = paddle.to_tensor(out)
    np.testing.assert_allclose(layer(x).numpy(), (out + layer.mlp(layer.norm2(out))).numpy(), atol=1e-13)
    assert layer.attn.qkv.bias is None
