"""`create_model(pretrained=...)` and `load_weights`: what differs is adapted or left new, and always said."""

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from passl_sot import create_model
from passl_sot.interop import export_state_dict
from passl_sot.weights import CheckpointError
from passl_sot.zoo import load_weights

HEAD = ["head.visual_fc.weight", "head.visual_fc.bias", "head.cls_fc.weight", "head.cls_fc.bias"]
STEM = "backbone.visual_tokens.tokens.stem.0.weight"
SWIN = """
model:
  architecture: {name: Swin, img_size: 32, embed_dim: 8, depths: [1, 1], num_heads: [1, 2], window_size: 4}
  head: {name: LinearHead, num_classes: 5, in_channels: 16, pool: mean, num_prefix_tokens: 0}
"""


@pytest.fixture(scope="module")
def source():
    paddle.seed(0)
    return create_model("sot_digits")


@pytest.fixture
def weights(source, tmp_path):
    path = tmp_path / "weights.pdparams"
    paddle.save(source.state_dict(), str(path))
    return path


def test_everything_fits(source, weights, capfd):
    model = create_model("sot_digits", pretrained=weights)
    report = model.weights_report
    assert report.ok and not (report.left_new or report.adapted or report.channels or report.ignored)
    assert f"{weights}: all keys accounted for" in capfd.readouterr().out
    assert create_model("sot_digits").weights_report is None


def test_other_classes_channels_and_sizes_at_once(source, weights, capfd):
    model = create_model("sot_digits", num_classes=3, in_chans=1, img_size=[48, 64], pretrained=weights)
    report, said = model.weights_report, capfd.readouterr().out
    assert sorted(report.left_new) == sorted(HEAD)
    (entry,) = report.channels
    assert entry[0] == STEM and entry[1][1] == 3 and entry[2][1] == 1
    assert f"channels    {STEM} {list(entry[1])} -> {list(entry[2])}" in said
    assert all(f"left new    {name}" in said for name in HEAD)
    assert model(paddle.zeros([1, 1, 48, 64])).shape == [1, 3]
    stem = source.state_dict()[STEM].numpy().sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.state_dict()[STEM].numpy(), stem, rtol=1e-5, atol=1e-6)
    for name, value in source.state_dict().items():
        if name not in (*HEAD, STEM):
            np.testing.assert_array_equal(model.state_dict()[name].numpy(), value.numpy(), err_msg=name)


def test_tables_of_another_size(tmp_path, capfd):
    config = tmp_path / "swin.yaml"
    config.write_text(SWIN)
    path = tmp_path / "swin.pdparams"
    paddle.save(create_model(str(config)).state_dict(), str(path))
    model = create_model(str(config), img_size=16, pretrained=path)
    table = "backbone.layers.1.blocks.0.attn.relative_position_bias_table"
    assert model.weights_report.adapted == [(table, (49, 2), (9, 2))]
    assert f"resized     {table} [49, 2] -> [9, 2]" in capfd.readouterr().out


def test_without_being_asked_the_head_must_fit(weights):
    model = create_model("sot_digits", num_classes=3)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"doesn't fit the model: .*4 mismatched") as caught:
        load_weights(model, weights)
    assert "another number of classes? 10 there, 3 here" in str(caught.value)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    assert load_weights(model, weights, new_head=True).left_new == [n for n in before if n in HEAD]


def test_weights_in_pytorchs_layout(source, tmp_path):
    path = tmp_path / "official.safetensors"
    arrays = {name: value.numpy() for name, value in source.state_dict().items()}
    save_file(export_state_dict(source, arrays), path)
    with pytest.raises(CheckpointError, match="if they are PyTorch's, convert them with"):
        create_model("sot_digits", pretrained=path)


def test_weights_of_another_model(weights):
    with pytest.raises(CheckpointError, match="these are weights of another model"):
        create_model("deit_tiny", num_classes=10, pretrained=weights)
    with pytest.raises(ValueError, match="in_chans"):
        create_model("sot_digits", in_chans=0)
