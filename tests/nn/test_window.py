"""Window attention against a slow and plain account of it."""

import numpy as np
import paddle
import pytest

from passl_sot.nn.window import WindowAttention, relative_position_index, shift_mask, window_order


def slow_attention(layer: WindowAttention, x: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Each query token by itself: its window, its keys one by one."""
    height, width = grid
    window, shift, heads = layer.window, layer.shift, layer.num_heads
    rows, columns = -(-height // window) * window, -(-width // window) * window
    batch, _, dim = x.shape
    weight, bias = layer.qkv.weight.numpy(), layer.qkv.bias.numpy()
    table = layer.relative_position_bias_table.numpy()
    padded = np.zeros((batch, rows, columns, dim))
    padded[:, :height, :width] = x.reshape(batch, height, width, dim)
    qkv = (padded @ weight + bias).reshape(batch, rows, columns, 3, heads, -1)
    out = np.zeros((batch, height, width, heads, dim // heads))

    def region(y: int, length: int) -> int:
        # In the shifted frame the last window holds what came from both ends.
        return 0 if y < length - window else (1 if y < length - shift or not shift else 2)

    for y in range(height):
        for x_ in range(width):
            sy, sx = (y - shift) % rows, (x_ - shift) % columns
            first_y, first_x = sy // window * window, sx // window * window
            keys = [
                (ky, kx) for ky in range(first_y, first_y + window) for kx in range(first_x, first_x + window)
            ]
            scores, values = [], []
            for ky, kx in keys:
                place = ((ky + shift) % rows, (kx + shift) % columns)
                score = (qkv[:, y, x_, 0] * qkv[:, place[0], place[1], 1]).sum(-1) * layer.scale
                score = score + table[(sy - ky + window - 1) * (2 * window - 1) + sx - kx + window - 1]
                if shift:
                    same = (region(sy, rows), region(sx, columns)) == (region(ky, rows), region(kx, columns))
                    score = score - (0 if same else 100)
                scores.append(score)
                values.append(qkv[:, place[0], place[1], 2])
            scores = np.stack(scores)
            share = np.exp(scores - scores.max(0))
            share /= share.sum(0)
            out[:, y, x_] = (share[..., None] * np.stack(values)).sum(0)
    return out.reshape(batch, height * width, dim) @ layer.proj.weight.numpy() + layer.proj.bias.numpy()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("grid", "window"), [((6, 6), 3), ((8, 4), 4), ((4, 4), 4), ((3, 5), 7), ((5, 7), 3), ((7, 9), 4)]
)
def test_against_the_slow_account(grid, window, shifted):
    paddle.seed(0)
    layer = WindowAttention(8, 2, grid, window, shifted)
    layer.to(dtype="float64")
    for parameter in layer.parameters():
        parameter.set_value(paddle.randn(parameter.shape).astype("float64"))
    x = np.random.default_rng(0).standard_normal((2, grid[0] * grid[1], 8))
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), slow_attention(layer, x, grid), atol=1e-10)


@pytest.mark.parametrize(
    ("grid", "window", "shift"),
    [((56, 56), 7, 3), ((14, 28), 7, 3), ((7, 7), 7, 0), ((7, 14), 7, 0), ((5, 9), 5, 0)],
)
def test_when_windows_shift(grid, window, shift):
    layer = WindowAttention(4, 1, grid, 7, shifted=True)
    assert (layer.window, layer.shift) == (window, shift)
    assert ("attn_mask" in dict(layer.named_buffers())) == (shift > 0)
    assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()}
    assert WindowAttention(4, 1, grid, 7, shifted=False).shift == 0


def test_order_and_places_are_inverse():
    for grid, window, shift in (((6, 9), 3, 1), ((5, 7), 4, 2)):
        order, places = window_order(grid, window, shift)
        np.testing.assert_array_equal(order[places], np.arange(grid[0] * grid[1]))
        assert (np.delete(order, places) == grid[0] * grid[1]).all()


def test_index_and_mask_by_hand():
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_position_index(2).tolist() == expected
    mask = shift_mask((4, 4), 2, 1)
    assert mask.shape == (4, 4, 4)
    assert not mask[0].any()
    assert (mask[3] == np.where(np.eye(4), 0, -100)).all()  # four corners of the image in one window
    assert mask[1].tolist() == [[0, -100, 0, -100], [-100, 0, -100, 0]] * 2


def test_tables_of_integers_survive_a_change_of_type():
    layer = WindowAttention(4, 1, (8, 8), 4, shifted=True)
    layer.to(dtype="bfloat16")
    assert layer.order.dtype == layer.relative_position_index.dtype == paddle.int64
    assert layer.attn_mask.dtype == paddle.bfloat16
    layer.plan((8, 12), 4)
    assert layer.attn_mask.dtype == paddle.bfloat16


def test_a_window_of_nothing():
    with pytest.raises(ValueError, match="window_size must be at least 1"):
        WindowAttention(4, 1, (8, 8), 0)
