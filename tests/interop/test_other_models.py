"""Weights for a model that differs from theirs in size, windows, channels or classes."""

import numpy as np
import paddle
import pytest

from passl_sot.interop import convert_state_dict, export_state_dict
from passl_sot.modeling.classifier import Classifier
from passl_sot.nn.position import resize_bias_table

LINEAR = {"name": "LinearHead", "num_classes": 5, "in_channels": 24}
SECOND = {"name": "SecondOrderHead", "num_classes": 5, "in_channels": 24, "num_heads": 2, "wr_dim": 4}
SWIN = {
    "name": "Swin",
    "img_size": 64,
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [1, 2],
    "window_size": 4,
}
MEAN = {**LINEAR, "in_channels": 48, "pool": "mean", "num_prefix_tokens": 0}
DEIT = {"name": "DeiT", "img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}
T2T = {"name": "T2TViT", "img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2, "token_dim": 8}
STVIT = {
    "name": "STViT", "img_size": 64, "embed_dim": [16, 16], "depths": [1, 1], "num_heads": [1, 2],
    "stoken_size": [2, 1], "n_iter": [1, 1], "layerscale": [False, False], "projection": 24,
}  # fmt: skip
PIT = {"name": "PiT", "img_size": 32, "head_dim": 12, "depths": [1, 1], "num_heads": [1, 2]}
SOT = {"name": "SoT", "img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2, "token_dim": 8}

MODELS = {
    "DeiT": (DEIT, LINEAR, ["patch_embed.proj.weight"]),
    "DeiT with SoT's words": (
        {**DEIT, "token_embed": "ResNet"}, SECOND, ["patch_embed.tokens.stem.0.weight"],
    ),
    "DeiT with linear words": (
        {**DEIT, "token_embed": "Naive_linear"}, SECOND, ["patch_embed.tokens.proj.weight"],
    ),
    "Swin": (SWIN, MEAN, ["patch_embed.proj.weight"]),
    "PiT": (PIT, LINEAR, ["patch_embed.conv.weight"]),
    "STViT": (STVIT, {**LINEAR, "pool": "mean", "num_prefix_tokens": 0}, ["patch_embed.proj.0.weight"]),
    "SoT": (SOT, SECOND, ["visual_tokens.tokens.stem.0.weight"]),
    "T2T": (
        T2T, LINEAR,
        [f"tokens_to_token.attention1.{name}" for name in ("kqv.weight", "norm1.bias", "norm1.weight")],
    ),
    "T2T with softmax": (
        {**T2T, "tokens_type": "transformer"}, LINEAR,
        [f"tokens_to_token.attention1.{name}" for name in ("attn.qkv.weight", "norm1.bias", "norm1.weight")],
    ),
}  # fmt: skip


def build(architecture: dict, head: dict, **more) -> Classifier:
    paddle.seed(0)
    model = Classifier(architecture={**architecture, **more}, head=head)
    model.eval()
    return model


def arrays_of(model) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def answer(model, x) -> np.ndarray:
    with paddle.no_grad():
        return model(x).numpy()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 6])
def test_a_grey_image_means_the_same_in_other_channels(name, channels):
    architecture, head, changed = MODELS[name]
    colour, other = build(architecture, head), build(architecture, head, in_chans=channels)
    grey = paddle.randn([2, 1, *colour.backbone.img_size])
    wanted = answer(colour, grey.expand([2, 3, *grey.shape[2:]]))
    official = export_state_dict(colour, arrays_of(colour))
    for state, layout, prefix in ((official, "torch", ""), (arrays_of(colour), "paddle", "backbone.")):
        out, report = convert_state_dict(other, state, layout=layout)
        assert report.ok, str(report)
        assert sorted(source for source, *_ in report.channels) == [prefix + entry for entry in changed]
        assert f"  channels    {prefix}{changed[0]} [" in str(report)
        other.set_state_dict(out)
        got = answer(other, grey.expand([2, channels, *grey.shape[2:]]))
        # The softmax of T2T's first attention is scaled by the number of columns, channels included.
        assert np.abs(got - wanted).max() <= (1e-3 if name == "T2T with softmax" else 1e-5)


def test_channels_that_have_no_order():
    official = export_state_dict(model := build(DEIT, LINEAR, in_chans=4), arrays_of(model))
    _, report = convert_state_dict(build(DEIT, LINEAR), official)
    assert report.conflicts == [
        "patch_embed.proj.weight: weights over 4 image channels can't be brought to 3, only over 1 or 3"
    ]
    assert not report.channels and not report.ok


@pytest.mark.parametrize(
    ("change", "resized", "left"),
    [
        # 8 and 4 rows: the second stage is one window, which is not shifted and needs no mask.
        ({"img_size": 32}, [], ["layers.1.blocks.1.attn_mask"]),
        # 4 and 2 rows: there is no shift at all, and the second stage's windows shrink.
        ({"img_size": 16}, [1], ["layers.0.blocks.1.attn_mask", "layers.1.blocks.1.attn_mask"]),
        # 24 and 12 rows in windows of 6: all is resized, all masks are other ones.
        ({"img_size": 96, "window_size": 6}, [0, 1], []),
    ],
)
def test_swin_of_another_size(change, resized, left):
    source, target = build(SWIN, MEAN), build(SWIN, MEAN, **change)
    official = export_state_dict(source, arrays_of(source))
    masks = [name for name in official if name.endswith(("attn_mask", "relative_position_index"))]
    assert len(masks) == 6
    out, report = convert_state_dict(target, official)
    assert report.ok, str(report)
    reasons = dict(report.ignored)
    assert reasons.keys() == set(masks)
    useless = "a table computed from the rest; this model has no use for it"
    assert [name for name in masks if reasons[name] == useless] == left
    tables = [
        f"layers.{stage}.blocks.{i}.attn.relative_position_bias_table" for stage in resized for i in (0, 1)
    ]
    assert [name for name, *_ in report.adapted] == tables
    for name in tables:
        window = target.backbone.layers[int(name.split(".")[1])].blocks[0].attn.window
        np.testing.assert_array_equal(out[f"backbone.{name}"], resize_bias_table(official[name], 4, window))


def test_a_table_of_the_right_size_must_be_the_right_one():
    model = build(SWIN, MEAN)
    official = export_state_dict(model, arrays_of(model))
    official["layers.0.blocks.1.attn_mask"] = official["layers.0.blocks.1.attn_mask"] * 0
    _, report = convert_state_dict(model, official)
    assert not report.ok and "differs from the model's own by up to 1.0e+02" in str(report)


def test_counters_of_averaged_models():
    model = build(DEIT, LINEAR)
    averaged = {f"module.{name}": v for name, v in export_state_dict(model, arrays_of(model)).items()}
    averaged["n_averaged"] = np.array(7)  # as torch.optim.swa_utils.AveragedModel saves itself
    _, report = convert_state_dict(model, averaged)
    assert report.ok and report.ignored == [("n_averaged", "PyTorch's counter of averaged models")]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers(prefix):
    model = build(DEIT, LINEAR)
    official = export_state_dict(model, arrays_of(model))
    out, report = convert_state_dict(model, {prefix + name: value for name, value in official.items()})
    assert report.ok
    for name, value in arrays_of(model).items():
        np.testing.assert_array_equal(out[name], value, err_msg=name)
