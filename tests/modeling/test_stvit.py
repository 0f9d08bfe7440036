"""What is particular to STViT: its start, its drop-path schedule, its tail, its sizes."""

import numpy as np
import paddle
import pytest

from passl_sot.config import model_config, value_of_epoch
from passl_sot.modeling.backbones import build_backbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.optim.groups import group_parameters

TINY = {
    "name": "STViT",
    "img_size": 32,
    "embed_dim": [8, 16],
    "depths": [2, 3],
    "num_heads": [1, 2],
    "stoken_size": [4, 1],
    "n_iter": [1, 1],
    "layerscale": [False, True],
    "mlp_ratio": 2.0,
    "projection": 24,
}


def rates(model) -> list[float]:
    return [block.drop_path.rate for stage in model.layers for block in stage.blocks]


def test_drop_path_follows_its_schedule():
    model = build_backbone({**TINY, "drop_path_rate": {"0": 0.4, "260": 0.6}})
    assert rates(model) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    for epoch, last in ((259, 0.4), (260, 0.6), (299, 0.6), (0, 0.4)):
        model.set_epoch(epoch)
        assert rates(model)[-1] == pytest.approx(last)
    assert rates(build_backbone({**TINY, "drop_path_rate": 0.2}))[-1] == pytest.approx(0.2)
    assert value_of_epoch("drop_path_rate", {0: 0.1, 3: 0.2}, 2) == 0.1
    head = {"name": "LinearHead", "num_classes": 3, "in_channels": 24, "pool": "mean", "num_prefix_tokens": 0}
    classifier = Classifier({**TINY, "drop_path_rate": {"0": 0.0, "2": 0.5}}, head)
    classifier.set_epoch(2)
    assert rates(classifier.backbone)[-1] == pytest.approx(0.5)
    for wrong in ({"1": 0.1}, {}, {"first": 0.1}):
        with pytest.raises(ValueError, match="drop_path_rate"):
            build_backbone({**TINY, "drop_path_rate": wrong})


def test_large_follows_the_recommended_schedule():
    architecture = model_config("stvit_large").model.architecture
    narrow = {"embed_dim": [4, 6, 7, 10], "img_size": 32, "projection": 8}
    model = build_backbone({**architecture, **narrow})
    assert len(rates(model)) == sum(architecture.depths)
    assert rates(model)[-1] == pytest.approx(0.4)
    model.set_epoch(260)
    assert rates(model)[-1] == pytest.approx(0.6)


def test_starts_as_the_recipe_says():
    model = build_backbone({**TINY, "embed_dim": [64, 64], "init_values": 1e-6})
    block = model.layers[1].blocks[0]
    for layer, fan_in in ((block.attn.stoken_refine.qkv, 64), (block.mlp2.fc2, 128), (model.proj, 64)):
        for value in (layer.weight, layer.bias):
            assert 0.9 * fan_in**-0.5 < float(value.abs().max()) <= fan_in**-0.5
    assert block.gamma_1.shape == [1, 64, 1, 1] and float(block.gamma_2.max()) == pytest.approx(1e-6)
    assert not hasattr(model.layers[0].blocks[0], "gamma_1")
    assert block.norm1.norm._epsilon == 1e-6 and block.norm2._epsilon == 1e-5
    decayed = {name for group in group_parameters(model) if group.decayed for name in group.parameters}
    assert "layers.1.blocks.0.gamma_1" in decayed and "layers.1.blocks.0.norm1.norm.weight" not in decayed


def test_numbers_per_stage_must_agree():
    for wrong, message in (
        ({"depths": [2]}, "one entry per stage"),
        ({"stoken_size": [4, 1, 1]}, "one entry per stage"),
        ({"depths": [0, 2]}, r"depths\.0: must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            build_backbone({**TINY, **wrong})


def test_tokens_are_batch_normalised_words():
    model = build_backbone(TINY)
    seen = []
    model.norm.register_forward_post_hook(lambda _l, _i, out: seen.append(out.numpy()))
    out = model(paddle.randn([4, 3, 32, 32])).numpy()
    np.testing.assert_allclose(seen[0].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(out.reshape(seen[0].shape), seen[0] / (1 + np.exp(-seen[0])), atol=1e-5)


def test_second_order_head_on_its_words():
    section = model_config("stvit_small_sot").model
    narrow = {"embed_dim": [4, 6, 10, 16], "img_size": [64, 96], "projection": 24}
    model = Classifier({**section.architecture, **narrow}, {**section.head, "in_channels": 24})
    assert model.backbone.grid_size == (2, 3)
    assert model(paddle.randn([1, 3, 64, 96])).shape == [1, 1000]


@pytest.mark.parametrize("size", [[160, 288], [100, 37]])
def test_any_size(size):
    model = build_backbone({**TINY, "img_size": size})
    model.eval()
    out = model(paddle.randn([1, 3, *size]))
    assert out.shape == [1, model.grid_size[0] * model.grid_size[1], 24]


def test_frozen_backbone_trains_a_head():
    model = build_backbone(TINY)
    for parameter in model.parameters():
        parameter.stop_gradient = True
    model.layers[1].blocks[2].mlp2.fc1.weight.stop_gradient = False
    model(paddle.randn([2, 3, 32, 32])).sum().backward()
    assert float(model.layers[1].blocks[2].mlp2.fc1.weight.grad.abs().max()) > 0
