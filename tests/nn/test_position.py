"""Learned tables brought to another size."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl_sot.modeling.backbones import build_backbone
from passl_sot.nn.position import bicubic_matrix, resize_bias_table, resize_parameter, resize_position_table
from passl_sot.weights.rules import key_rules

SWIN = {
    "name": "Swin",
    "embed_dim": 8,
    "depths": [1, 2],
    "num_heads": [1, 2],
    "window_size": 4,
    "img_size": 64,
}


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (13, 9), (3, 5), (1, 4), (7, 7)])
def test_bicubic_matrix_is_that_of_the_frameworks(old, new):
    x = np.random.default_rng(old).standard_normal((old, old))
    matrix = bicubic_matrix(new, old)
    expected = F.interpolate(paddle.to_tensor(x[None, None]), size=[new, new], mode="bicubic")
    np.testing.assert_allclose(matrix @ x @ matrix.T, expected.numpy()[0, 0], atol=1e-5)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


def test_bicubic_by_hand():
    # a = -0.75 at a distance of a quarter: weights of the four neighbours, in 64ths of 0.75 and so on.
    row = bicubic_matrix(8, 4)[4]  # its centre lies at 1.75
    t = np.array([1.75, 0.75, 0.25, 1.25])
    far, near = -0.75 * (t**3 - 5 * t**2 + 8 * t - 4), 1.25 * t**3 - 2.25 * t**2 + 1
    np.testing.assert_allclose(row, np.where(t < 1, near, far))
    np.testing.assert_array_equal(bicubic_matrix(5, 5), np.eye(5))


def test_prefix_rows_stay():
    table = np.random.default_rng(0).standard_normal((1, 2 + 6, 4)).astype("float32")
    out = resize_position_table(table, 2, (2, 3), (4, 5))
    assert out.shape == (1, 22, 4) and out.dtype == np.float32
    np.testing.assert_array_equal(out[:, :2], table[:, :2])
    assert resize_position_table(table, 2, (2, 3), (2, 3)) is table
    # Axes are not mixed up: a table that depends on its row alone goes on doing so.
    rows = np.repeat(np.arange(2.0), 3)[None, :, None]
    grid = resize_position_table(rows, 0, (2, 3), (4, 5)).reshape(4, 5)
    np.testing.assert_allclose(grid, np.repeat(grid[:, :1], 5, axis=1), atol=1e-12)


def test_bias_table():
    table = np.random.default_rng(0).standard_normal((13 * 13, 3))
    out = resize_bias_table(table, 7, 12)
    assert out.shape == (23 * 23, 3)
    matrix = bicubic_matrix(23, 13)
    np.testing.assert_allclose(out[:, 1].reshape(23, 23), matrix @ table[:, 1].reshape(13, 13) @ matrix.T)
    assert resize_bias_table(table, 7, 7) is table


def test_a_replaced_parameter_keeps_what_it_is():
    layer = paddle.nn.Linear(2, 2)
    kept = layer.weight
    resize_parameter(layer, "weight", np.ones_like)
    assert layer.weight is kept and float(kept.sum()) == 4
    layer.weight.stop_gradient = True
    layer.to(dtype="float64")
    resize_parameter(layer, "weight", lambda values: np.ones((3, 2), "float32"))
    assert layer.weight.stop_gradient and layer.weight.dtype == paddle.float64
    assert dict(layer.named_parameters())["weight"] is layer.weight


def test_deit_position_table_follows_the_size():
    model = build_backbone({"name": "DeiT", "img_size": 32, "patch_size": 8, "embed_dim": 8, "num_heads": 2})
    table = model.pos_embed.numpy()
    model.resize([40, 24])
    assert model.pos_embed.shape == [1, 1 + 5 * 3, 8] and not model.pos_embed.stop_gradient
    np.testing.assert_array_equal(model.pos_embed.numpy(), resize_position_table(table, 1, (4, 4), (5, 3)))
    np.testing.assert_array_equal(
        key_rules(model).adapt("pos_embed", table), resize_position_table(table, 1, (4, 4), (5, 3))
    )
    assert key_rules(model).adapt("norm.weight", table) is table
    with pytest.raises(ValueError, match="no square grid"):
        key_rules(model).adapt("pos_embed", table[:, :-2])


def test_swin_bias_tables_follow_the_window():
    model = build_backbone(SWIN)
    name = "relative_position_bias_table"
    attn = model.layers[1].blocks[1].attn
    table = getattr(attn, name).numpy()
    model.resize(64, window_size=6)
    assert (attn.window, attn.shift) == (6, 3)
    np.testing.assert_array_equal(getattr(attn, name).numpy(), resize_bias_table(table, 4, 6))
    key = f"layers.1.blocks.1.attn.{name}"
    np.testing.assert_array_equal(key_rules(model).adapt(key, table), resize_bias_table(table, 4, 6))
    with pytest.raises(ValueError, match="no square window"):
        key_rules(model).adapt(key, table[:-1])
    assert key in model.no_weight_decay() and model.state_dict()[key].shape == [121, 2]


def test_swin_windows_by_stage():
    model = build_backbone({**SWIN, "window_size": [4, 2]})
    assert [[b.attn.window for b in stage.blocks] for stage in model.layers] == [[4], [2, 2]]
    # One number means the same as that number for each.
    alike = build_backbone({**SWIN, "window_size": [4, 4]})
    paddle.seed(0)
    plain = build_backbone(SWIN)
    assert alike.set_state_dict(plain.state_dict()) == ([], [])
    x = paddle.randn([1, 3, 64, 64])
    np.testing.assert_array_equal(alike(x).numpy(), plain(x).numpy())
    model.resize(32)
    assert [stage.blocks[-1].attn.shift for stage in model.layers] == [0, 1]
    model.resize(64, window_size=[8, 4])
    assert [stage.blocks[0].attn.window for stage in model.layers] == [8, 4]
    for wrong in ([4], [4, 2, 2], [4, 0]):
        with pytest.raises(ValueError, match=r"window_size.*(one for each of the 2 stages|at least 1)"):
            build_backbone({**SWIN, "window_size": wrong})
        with pytest.raises(ValueError, match="one for each of the 2 stages"):
            model.resize(64, window_size=wrong)
