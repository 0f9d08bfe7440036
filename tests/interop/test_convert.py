"""The converter: transposition by layer kind, and every key accounted for."""

import numpy as np
import paddle
import pytest

from passl_sot.interop import ConversionError, convert_state_dict
from passl_sot.modeling.backbones import build_backbone
from passl_sot.modeling.classifier import Classifier

ARCH = {"name": "SoT", "img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "token_dim": 8}
HEAD = {"name": "SecondOrderHead", "num_classes": 5, "in_channels": 24, "num_heads": 2, "wr_dim": 4}


def make(num_classes: int = 5) -> Classifier:
    paddle.seed(0)
    return Classifier(architecture=ARCH, head={**HEAD, "num_classes": num_classes})


def as_torch(model: Classifier) -> dict[str, np.ndarray]:
    """The state dict that the official code would have for this model."""
    linears = {
        f"{name}.weight" for name, layer in model.named_sublayers() if isinstance(layer, paddle.nn.Linear)
    }
    state = {}
    for key, value in model.state_dict().items():
        value = value.numpy()
        name = key.removeprefix("backbone.").replace("head.", "classifier.")
        name = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        state[name] = value.T.copy() if key in linears else value.copy()
    state["pos_embed"] = model.backbone.pos_embed.numpy()
    state["visual_tokens.tokens.stage.1.norm.num_batches_tracked"] = np.array(3)
    return state


@pytest.fixture(scope="module")
def model() -> Classifier:
    return make()


@pytest.fixture
def state(model) -> dict[str, np.ndarray]:
    return as_torch(model)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_round_trip(model, state, prefix):
    out, report = convert_state_dict(model, {prefix + key: value for key, value in state.items()})
    assert report.ok and "all keys accounted for" in str(report)
    report.raise_if_bad()
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(out[key], value.numpy(), err_msg=key)
    assert {name.removeprefix("module.") for name, _ in report.ignored} == {
        "pos_embed",
        "visual_tokens.tokens.stage.1.norm.num_batches_tracked",
    }
    assert len(report.loaded) == len(model.state_dict())


def test_square_linear_weights_are_transposed(model, state):
    out, _ = convert_state_dict(model, state)
    key = "blocks.0.attn.proj.weight"
    assert state[key].shape == (24, 24)
    np.testing.assert_array_equal(out[f"backbone.{key}"], state[key].T)


def test_kinds_of_layers():
    class Pieces(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.table = paddle.nn.Embedding(6, 6)
            self.fc = paddle.nn.Linear(6, 6)
            self.conv = paddle.nn.Conv2D(6, 6, 1)
            self.norm = paddle.nn.BatchNorm2D(6)
            self.raw = self.create_parameter([6, 6])
            self.scalar = self.create_parameter([])

    pieces = Pieces()
    rng = np.random.default_rng(0)
    state = {
        "table.weight": rng.random((6, 6)),
        "fc.weight": rng.random((6, 6, 1, 1)),
        "fc.bias": rng.random(6),
        "conv.weight": rng.random((6, 6, 1, 1)),
        "conv.bias": rng.random(6),
        "norm.weight": rng.random(6),
        "norm.bias": rng.random(6),
        "norm.running_mean": rng.random(6),
        "norm.running_var": rng.random(6),
        "norm.num_batches_tracked": np.array(1),
        "raw": rng.random((6, 6)),
        "scalar": np.array(0.5),
    }
    out, report = convert_state_dict(pieces, state)
    assert report.ok, str(report)
    assert all(value.dtype == np.float32 for value in out.values())
    assert out["scalar"].shape == ()
    np.testing.assert_allclose(out["table.weight"], state["table.weight"], rtol=1e-6)
    np.testing.assert_allclose(out["raw"], state["raw"], rtol=1e-6)
    np.testing.assert_allclose(out["fc.weight"], state["fc.weight"][:, :, 0, 0].T, rtol=1e-6)
    np.testing.assert_allclose(out["norm._variance"], state["norm.running_var"], rtol=1e-6)
    assert pieces.set_state_dict(out) == ([], [])


def test_missing_and_unexpected_keys(model, state):
    state["blocks.0.attn.qkv.wieght"] = state.pop("blocks.0.attn.qkv.weight")
    state["elsewhere"] = np.zeros(3)
    _, report = convert_state_dict(model, state)
    assert report.missing == ["backbone.blocks.0.attn.qkv.weight"]
    assert dict(report.unexpected) == {
        "blocks.0.attn.qkv.wieght": ["backbone.blocks.0.attn.qkv.weight"],
        "elsewhere": [],
    }
    assert "did you mean backbone.blocks.0.attn.qkv.weight?" in str(report)
    with pytest.raises(ConversionError, match="1 missing, 2 unexpected"):
        report.raise_if_bad()


def test_another_number_of_classes(state):
    out, report = convert_state_dict(make(num_classes=9), state)
    targets = {target for _, target, _, _ in report.mismatched}
    assert targets == {
        f"head.{part}.{leaf}" for part in ("visual_fc", "cls_fc") for leaf in ("weight", "bias")
    }
    assert not report.missing and not targets & set(out)
    assert "another number of classes? 5 there, 9 here" in str(report)


def test_wrong_shapes(model, state):
    state["cls_token"] = np.zeros((1, 1, 30), "float32")
    state["blocks.1.mlp.fc1.weight"] = state["blocks.1.mlp.fc1.weight"].T  # already turned: an error
    _, report = convert_state_dict(model, state)
    assert {name for name, *_ in report.mismatched} == {"cls_token", "blocks.1.mlp.fc1.weight"}
    assert not report.ok


def test_position_tables(model, state):
    state["pos_embed"] = state["pos_embed"] + 0.01
    _, report = convert_state_dict(model, state)
    assert not report.ok and "differs from the model's own by up to 1.0e-02" in str(report)
    state["pos_embed"] = np.zeros((1, 197, 24), "float32")
    _, report = convert_state_dict(model, state)
    assert report.ok and any("another size" in reason for _, reason in report.ignored)


def test_two_keys_for_one_place(model, state):
    state["module.cls_token"] = state["cls_token"]
    _, report = convert_state_dict(model, state)
    assert report.conflicts == ["module.cls_token and cls_token both mean backbone.cls_token"]


def test_a_backbone_by_itself(state):
    backbone = build_backbone(ARCH)
    _, report = convert_state_dict(
        backbone, {key: value for key, value in state.items() if not key.startswith("classifier.")}
    )
    assert report.ok and "blocks.0.norm1.weight" in report.loaded
    _, report = convert_state_dict(backbone, state)
    assert {name.split(".")[0] for name, _ in report.unexpected} == {"classifier"}


def test_the_model_stays_as_it_was(model, state):
    before = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    convert_state_dict(model, {key: np.zeros_like(value) for key, value in state.items()})
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])


def test_types_follow_the_model(state):
    double = make()
    double.to(dtype="float64")
    out, report = convert_state_dict(double, state)
    assert report.ok and {value.dtype for value in out.values()} == {np.dtype("float64")}
