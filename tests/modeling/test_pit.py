"""What PiT has of its own: pooling, class tokens, position map, recipe."""

import re

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl_sot.interop import convert_state_dict
from passl_sot.modeling.backbones import build_backbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.weights.rules import key_rules

BASE = {"img_size": 32, "patch_size": 4, "stride": 2, "head_dim": 8}
BASE |= {"depths": [2, 1, 2], "num_heads": [1, 2, 4]}


def tiny(**more):
    paddle.seed(0)
    return build_backbone({"name": "PiT", **BASE, **more})


@pytest.mark.parametrize(
    ("size", "patch", "stride", "grids"),
    [
        (224, 16, 8, [(27, 27), (14, 14), (7, 7)]),
        (224, 14, 7, [(31, 31), (16, 16), (8, 8)]),
        ([160, 288], 16, 8, [(19, 35), (10, 18), (5, 9)]),
        (16, 16, 8, [(1, 1), (1, 1), (1, 1)]),
    ],
)
def test_grids(size, patch, stride, grids):
    model = tiny(img_size=size, patch_size=patch, stride=stride)
    maps = model.forward_intermediates(paddle.zeros([1, 3, *model.img_size]))
    assert [tuple(m.shape[2:]) for m in maps] == grids
    assert model.grid_size == grids[-1]
    assert [info["reduction"] for info in model.feature_info] == [stride, 2 * stride, 4 * stride]


def test_pooling_equals_its_definition():
    pool = tiny().pools[0].to(dtype="float64")
    x = np.random.default_rng(0).standard_normal((2, 2 + 5 * 4, 8))
    got = pool(paddle.to_tensor(x), 2, (5, 4)).numpy()
    weight, bias = pool.conv.weight.numpy(), pool.conv.bias.numpy()
    padded = np.pad(x[:, 2:].reshape(2, 5, 4, 8), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((2, 3, 2, 16))
    for o in range(16):  # output o reads input o // 2
        for i in range(3):
            for j in range(2):
                window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, o // 2]
                expected[:, i, j, o] = (window * weight[o, 0]).sum((1, 2)) + bias[o]
    np.testing.assert_allclose(got[:, 2:], expected.reshape(2, 6, 16), atol=1e-13)
    tokens = x[:, :2] @ pool.fc.weight.numpy() + pool.fc.bias.numpy()
    np.testing.assert_allclose(got[:, :2], tokens, atol=1e-13)


def test_positions_are_for_words_only():
    model = tiny(distilled=True)
    images = paddle.zeros([1, 3, 32, 32])
    np.testing.assert_array_equal(model.embed(images)[:, :2].numpy(), model.cls_token.numpy())
    words = model.embed(images)[:, 2:]
    by_hand = (model.patch_embed(images) + model.pos_embed).flatten(2).transpose([0, 2, 1])
    np.testing.assert_array_equal(words.numpy(), by_hand.numpy())


def test_resize_interpolates_the_map():
    model = tiny()
    before = model.pos_embed
    table = paddle.randn([1, 8, 15, 15])
    before.set_value(table)
    model.resize(32)
    assert model.pos_embed is before  # the same size leaves everything alone
    model.resize([62, 32])
    assert model.pos_embed.shape == [1, 8, 30, 15] and not model.pos_embed.stop_gradient
    expected = F.interpolate(table, size=[30, 15], mode="bicubic", align_corners=False)
    np.testing.assert_allclose(model.pos_embed.numpy(), expected.numpy(), atol=1e-5)
    assert "pos_embed" in dict(model.named_parameters()) and "pos_embed" in model.no_weight_decay()
    adapted = key_rules(tiny(img_size=[62, 32])).adapt("pos_embed", table.numpy())
    np.testing.assert_array_equal(adapted, model.pos_embed.numpy())
    other = np.zeros([1, 1, 8])
    assert key_rules(model).adapt("cls_token", other) is other


def test_starts_as_the_authors_do():
    model = tiny(head_dim=48, num_heads=[2, 4, 8], drop_path_rate=0.1)
    for table in (model.pos_embed, model.cls_token):
        assert abs(float(table.std()) - 0.02) < 0.005
    for layer, fan_in in (
        (model.transformers[1].blocks[0].mlp.fc2, 4 * 192),
        (model.pools[1].fc, 192),
        (model.transformers[2].blocks[1].attn.qkv, 384),
    ):
        for value in (layer.weight, layer.bias):  # no 0.02 here, and biases are not zero
            assert 0.9 < float(value.abs().max()) * fan_in**0.5 <= 1.0
    rates = [block.drop_path.rate for stage in model.transformers for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i / 5 for i in range(5)])
    assert model.norm._epsilon == model.transformers[0].blocks[0].norm1._epsilon == 1e-6


def test_depths_of_parameters():
    model = tiny()
    assert model.layer_of("transformers.1.blocks.0.norm1.weight") == 3
    assert model.layer_of("pools.0.fc.weight") == 2 and model.layer_of("pools.1.conv.bias") == 3
    assert model.layer_of("transformers.2.blocks.1.mlp.fc2.bias") == 5
    assert model.layer_of("norm.bias") == model.num_layers == 6
    assert model.layer_of("pos_embed") == model.layer_of("patch_embed.conv.weight") == 0


def test_stages_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one by one"):
        tiny(depths=[2, 2])
    with pytest.raises(ValueError, match="multiples"):
        tiny(num_heads=[2, 3, 6])
    with pytest.raises(ValueError, match="nearest valid size is 4 x 9"):
        tiny(img_size=[3, 9])


@pytest.mark.parametrize("distilled", [False, True])
def test_names_of_the_official_code_and_of_timm(distilled):
    name = "DistilledHead" if distilled else "LinearHead"
    head = {"name": name, "num_classes": 5, "in_channels": 32, "num_prefix_tokens": 1 + distilled}
    model = Classifier(architecture={"name": "PiT", **BASE, "distilled": distilled}, head=head)
    linear = {key for key in model.state_dict() if key.endswith(("qkv.weight", "fc.weight"))}
    linear |= {key for key in model.state_dict() if re.search(r"(proj|fc1|fc2|head|head_dist)\.weight$", key)}
    official = {}
    for key, value in model.state_dict().items():
        theirs = re.sub(r"^head\.(fc|head)\.", "head.", key).replace("head.head_dist.", "head_dist.")
        array = value.numpy()
        official[theirs.removeprefix("backbone.")] = array.T if key in linear else array
    converted, report = convert_state_dict(model, official)
    assert report.ok, str(report)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(converted[key], value.numpy())
    for naming, shift in (("timm", 1), ("timm (older)", 0)):
        for s in (0, 1):
            name = f"transformers.{s + shift}.pool.fc.weight"
            for pattern, replacement in key_rules(model.backbone).foreign[naming]:
                name = re.sub(pattern, replacement, name)
            assert name == f"backbone.pools.{s}.fc.weight"
