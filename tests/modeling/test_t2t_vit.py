"""What T2T-ViT has of its own: sizes, tables, frozen features, recipe."""

import numpy as np
import paddle
import pytest

from passl_sot.modeling.backbones import build_backbone
from passl_sot.nn.position import resize_position_table, sinusoid_table
from passl_sot.optim.groups import group_parameters


def tiny(**more):
    paddle.seed(0)
    base = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "token_dim": 8}
    return build_backbone({"name": "T2TViT", **base, **more})


@pytest.mark.parametrize(
    ("size", "grid"),
    [(224, (14, 14)), (384, (24, 24)), ([160, 288], (10, 18)), ([250, 100], (16, 7)), (16, (1, 1))],
)
def test_grids(size, grid):
    model = tiny(img_size=size)
    assert model.grid_size == grid
    np.testing.assert_array_equal(model.pos_embed.numpy(), sinusoid_table(1 + grid[0] * grid[1], 24).numpy())
    if max(model.img_size) < 300:
        assert model(paddle.zeros([1, 3, *model.img_size])).shape == [1, 1 + grid[0] * grid[1], 24]


def test_a_side_below_one_token_is_refused():
    with pytest.raises(ValueError, match="nearest valid size is 16 x 20"):
        tiny(img_size=[15, 20])


def test_rows_and_columns_are_told_apart():
    # What stands in the image's last rows must end in the grid's last rows.
    model = tiny(img_size=[64, 32])
    model.eval()
    images = paddle.zeros([1, 3, 64, 32])
    cut = model.tokens_to_token
    before = cut(images, model._cut_grids[:2], model.run_block)
    images[:, :, 48:] = 5.0
    change = (cut(images, model._cut_grids[:2], model.run_block) - before).abs().sum(-1)
    rows = change.reshape([4, 2]).sum(-1).numpy()
    assert rows[3] > 2 * rows[0]


def test_frozen_features_and_tables():
    model = tiny()
    frozen = {key for key, p in model.named_parameters() if p.stop_gradient}
    assert frozen == {"tokens_to_token.attention1.w", "tokens_to_token.attention2.w"}
    assert frozen <= set(model.state_dict()) and "pos_embed" not in model.state_dict()
    assert tiny(tokens_type="transformer").state_dict().keys().isdisjoint(frozen)
    model.to(dtype="float64")
    model.resize(48)
    assert model.pos_embed.dtype == paddle.float64


def test_learned_positions():
    """PASSL's table: it starts at zero, trains, and is decayed; it follows the size."""
    model = tiny(pos_embed="learned")
    table = model.pos_embed
    assert not table.stop_gradient and table.shape == [1, 5, 24] and float(table.abs().sum()) == 0.0
    assert "pos_embed" in model.state_dict() and model.no_weight_decay() == {"cls_token"}
    groups = {name: g.decayed for g in group_parameters(model) for name in g.parameters}
    assert groups["pos_embed"] and not groups["cls_token"]
    # Without a table the order of the words is lost on the blocks; with the sinusoid's numbers all is equal.
    fixed = tiny()
    table.set_value(fixed.pos_embed)
    model.eval()
    fixed.eval()
    x = paddle.randn([2, 3, 32, 32])
    np.testing.assert_array_equal(model(x).numpy(), fixed(x).numpy())
    old = table.numpy()
    model.resize([48, 64])
    assert model.grid_size == (3, 4)
    np.testing.assert_array_equal(model.pos_embed.numpy(), resize_position_table(old, 1, (2, 2), (3, 4)))


def test_starts_as_the_recipe_says():
    model = tiny(embed_dim=96, token_dim=64, drop_path_rate=0.2, depth=3)
    assert abs(float(model.cls_token.std()) - 0.02) < 0.006
    cut = model.tokens_to_token
    for layer in (cut.project, cut.attention2.kqv, model.blocks[0].attn.qkv):
        assert abs(float(layer.weight.std()) - 0.02) < 1e-3
    assert model.tokens_to_token.attention1.kqv.bias is not None and model.blocks[0].attn.qkv.bias is None
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2])
    assert model.norm._epsilon == model.tokens_to_token.attention1.norm1._epsilon == 1e-5
    assert model.no_weight_decay() == {"cls_token"}
