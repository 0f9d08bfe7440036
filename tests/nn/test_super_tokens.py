"""Super-token attention against a transcription into loops."""

import numpy as np
import paddle
import pytest

from passl_sot.nn.super_tokens import SuperTokenAttention, neighbor_table


def test_neighbors():
    table = neighbor_table(2, 3)
    assert table.shape == (6, 9)
    assert table[0].tolist() == [6, 6, 6, 6, 0, 1, 6, 3, 4]
    assert table[4].tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 6]


def by_loops(x: np.ndarray, s: int, iters: int, refine) -> np.ndarray:
    """One sample ``[C, H, W]``, pixel by pixel."""
    channels, height, width = x.shape
    rows, columns = -(-height // s), -(-width // s)
    full = np.zeros((channels, rows * s, columns * s))
    full[:, :height, :width] = x
    pixels = {(i, j): full[:, i, j] for i in range(rows * s) for j in range(columns * s)}
    shifts = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    tokens = {
        (m, n): np.mean([pixels[m * s + a, n * s + b] for a in range(s) for b in range(s)], axis=0)
        for m in range(rows)
        for n in range(columns)
    }
    for _ in range(iters):
        weights, mass, sums = {}, {}, {}
        for (i, j), pixel in pixels.items():
            m, n = i // s, j // s
            near = [tokens.get((m + a, n + b), np.zeros(channels)) for a, b in shifts]
            logits = np.array([pixel @ token for token in near]) * channels**-0.5
            share = np.exp(logits - logits.max())
            weights[i, j] = share / share.sum()
            for k, (a, b) in enumerate(shifts):
                place = (m + a, n + b)
                mass[place] = mass.get(place, 0) + weights[i, j][k]
                sums[place] = sums.get(place, 0) + weights[i, j][k] * pixel
        tokens = {place: sums[place] / mass[place] for place in tokens}
    refined = refine(np.stack([tokens[m, n] for m in range(rows) for n in range(columns)]))
    out = np.zeros_like(x)
    for i in range(height):
        for j in range(width):
            for k, (a, b) in enumerate(shifts):
                m, n = i // s + a, j // s + b
                if 0 <= m < rows and 0 <= n < columns:
                    out[:, i, j] += weights[i, j][k] * refined[m * columns + n]
    return out


@pytest.mark.parametrize(("size", "window", "iters"), [((6, 4), 2, 1), ((5, 7), 3, 1), ((7, 5), 2, 3)])
def test_values(size, window, iters):
    paddle.seed(2)
    layer = SuperTokenAttention(6, 2, window, iters)
    layer.to(dtype="float64")
    norm = paddle.nn.LayerNorm(6, epsilon=1e-6)
    norm.bias.set_value(paddle.randn([6]))
    norm.to(dtype="float64")
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 6, *size)))
    got = layer(x, norm).numpy()

    def refine(tokens: np.ndarray) -> np.ndarray:
        return layer.stoken_refine(paddle.to_tensor(tokens[None])).numpy()[0]

    normal = norm(x.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2]).numpy()
    for sample, out in zip(normal, got, strict=True):
        np.testing.assert_allclose(out, by_loops(sample, window, iters, refine), rtol=1e-9, atol=1e-11)


def test_heads_keep_their_queries_keys_and_values_together():
    paddle.seed(1)
    layer = SuperTokenAttention(4, 2, 1).stoken_refine
    x = paddle.randn([1, 5, 4])
    per_head = layer.qkv(x).numpy()[0].reshape(5, 2, 3, 2)
    parts = []
    for head in range(2):
        q, k, v = (per_head[:, head, i] for i in range(3))
        scores = np.exp(q @ k.T * 2**-0.5)
        parts.append(scores / scores.sum(axis=1, keepdims=True) @ v)
    expected = layer.proj(paddle.to_tensor(np.concatenate(parts, axis=1)[None])).numpy()
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_association_has_no_gradient():
    paddle.seed(0)
    layer = SuperTokenAttention(4, 1, 2)
    x = paddle.randn([1, 4, 4, 4])
    pixels = x.reshape([1, 4, 2, 2, 2, 2]).transpose([0, 2, 4, 3, 5, 1]).reshape([1, 4, 4, 4])
    pixels.stop_gradient = False
    weights, mass = layer.associate(pixels, 2, 2)
    assert weights.stop_gradient and mass.stop_gradient
    np.testing.assert_allclose(weights.sum(axis=-1).numpy(), 1, rtol=1e-6)
    assert float(mass.sum()) < 16  # what falls outside the grid is lost


def test_refused():
    with pytest.raises(ValueError, match="at least 1"):
        SuperTokenAttention(4, 1, 0)
