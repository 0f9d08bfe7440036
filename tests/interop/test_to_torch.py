"""The way back: official names, shapes, tables and step counters; and the hooks of a family."""

import numpy as np
import paddle
import pytest
from paddle import nn

from passl_sot.interop import ConversionError, convert_state_dict, export_state_dict
from passl_sot.modeling.backbones.base import Backbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.weights.rules import KEY_RULES, KeyRules
from passl_sot.zoo import create_model

ARCH = {"name": "SoT", "img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "token_dim": 8}
HEAD = {"name": "SecondOrderHead", "num_classes": 5, "in_channels": 24, "num_heads": 2, "wr_dim": 4}


def arrays_of(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def test_round_trip_is_exact():
    model = Classifier(architecture=ARCH, head=HEAD)
    arrays = arrays_of(model)
    official = export_state_dict(model, arrays)
    back, report = convert_state_dict(model, official)
    assert report.ok and back.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    key = "blocks.0.attn.proj.weight"
    np.testing.assert_array_equal(official[key], arrays[f"backbone.{key}"].T)


@pytest.mark.parametrize(
    ("fixture", "config"),
    [
        ("SoT_Tiny", "sot_tiny"),
        ("So_vit_7", "so_vit_7"),
        ("t2t_vit_7", "t2t_vit_7"),
        ("t2t_vit_t_14", "t2t_vit_t_14"),
        ("pit_ti", "pit_ti"),
        ("pit_ti_distilled", "pit_ti_distilled"),
        ("stvit_small", "stvit_small"),
        ("deit_tiny_patch16_224", "deit_tiny"),
        ("deit_tiny_distilled_patch16_224", "deit_tiny_distilled"),
        ("swin_tiny_patch4_window7_224", "swin_tiny"),
    ],
)
def test_names_shapes_and_types_are_the_official_ones(golden, fixture, config):
    entries, _ = golden.load(fixture)
    model = create_model(config)
    out = export_state_dict(model, arrays_of(model))
    assert {name: list(value.shape) for name, value in out.items()} == {
        entry["name"]: entry["shape"] for entry in entries["entries"]
    }
    for entry in entries["entries"]:
        if entry["kind"] == "keep":
            value = out[entry["name"]]
            assert value.dtype == entry["keep_dtype"]
            assert abs(float(value.astype("f8").sum()) - entry["keep_sum"]) <= 1e-3
    counters = [name for name in out if name.endswith("num_batches_tracked")]
    has_norms = any(isinstance(layer, nn.BatchNorm2D | nn.BatchNorm1D) for layer in model.sublayers())
    assert bool(counters) == has_norms and all(out[name].shape == () and out[name] == 0 for name in counters)


def test_a_backbone_by_itself():
    backbone = Classifier(architecture=ARCH, head=HEAD).backbone
    out = export_state_dict(backbone, arrays_of(backbone))
    assert "cls_token" in out and "pos_embed" in out and not any("classifier" in name for name in out)


def test_an_incomplete_state_dict_is_refused():
    model = Classifier(architecture=ARCH, head=HEAD)
    arrays = arrays_of(model)
    arrays.pop("backbone.cls_token")
    with pytest.raises(ConversionError, match=r"not a whole state dict of the model: backbone\.cls_token"):
        export_state_dict(model, arrays)


class Tables(Backbone):
    """A backbone with the usual needs: tables, a convolution that is a Linear, other namings."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 4)
        self.mix = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1D(4)
        self.table = self.create_parameter([1, 4, 2, 2])
        self.register_buffer("pos_embed", paddle.arange(4.0), persistable=False)
        self.register_buffer("scratch", paddle.arange(4.0), persistable=False)


class OneWay(Tables):
    """Its rules send two official names to one place."""


class Rules:
    """Key rules bear the names of their backbones."""

    @KEY_RULES.register()
    class Tables(KeyRules):
        foreign = {  # noqa: RUF012
            "timm": ((r"^patch\.", "embed."), (r"^", "backbone.")),
            "PaddleClas": ((r"^visual\.", "backbone."),),
        }
        pointwise = (r"mix\.weight",)

        def adapt(self, name, array):
            if name == "table" and array.ndim == 4 and array.shape[2:] != (2, 2):
                if array.shape[2] % 2:
                    raise ValueError(f"a table of {array.shape[2]} rows can't be halved")
                return array.reshape(1, 4, 2, array.shape[2] // 2, 2, -1).mean(axis=(3, 5))
            return array[0] if name == "norm.weight" and array.ndim == 2 else array

        def restore(self, name, array):
            return array[None] if name == "norm.weight" else array

    @KEY_RULES.register()
    class OneWay(Tables):
        official = ((r"^patch\.", "embed."), (r"^mix\.", "other."), (r"^(?!head\.)", "backbone."))
        foreign = {}  # noqa: RUF012


@pytest.fixture
def official() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "embed.weight": (4, 4),
        "embed.bias": (4,),
        "mix.weight": (6, 4, 1, 1),
        "mix.bias": (6,),
        "norm.weight": (1, 4),
        "norm.bias": (4,),
        "norm.running_mean": (4,),
        "norm.running_var": (4,),
        "table": (1, 4, 2, 2),
    }
    return {name: rng.random(shape, "f4") for name, shape in shapes.items()} | {
        "norm.num_batches_tracked": np.array(0),
        "pos_embed": np.arange(4, dtype="f4"),
    }


def test_hooks_both_ways(official):
    model = Tables()
    out, report = convert_state_dict(model, official)
    assert report.ok and report.naming == "official"
    assert report.adapted == [("norm.weight", (1, 4), (4,))]
    back = export_state_dict(model, out)
    assert back.keys() == official.keys()
    for name, value in official.items():
        assert back[name].shape == value.shape and back[name].dtype == value.dtype, name
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_resized_tables_are_reported(official):
    official["table"] = np.arange(64, dtype="f4").reshape(1, 4, 4, 4)
    out, report = convert_state_dict(Tables(), official)
    assert report.ok, str(report)
    assert "resized     table [1, 4, 4, 4] -> [1, 4, 2, 2]" in str(report)
    np.testing.assert_array_equal(out["table"][0, 0], [[2.5, 4.5], [10.5, 12.5]])
    official["table"] = np.zeros((1, 4, 3, 3), "f4")
    _, report = convert_state_dict(Tables(), official)
    assert report.conflicts == ["table: a table of 3 rows can't be halved"]


def test_the_naming_that_explains_all_keys_wins(official):
    timm = {name.replace("embed.", "patch.", 1): value for name, value in official.items()}
    out, report = convert_state_dict(Tables(), timm)
    assert report.ok and report.naming == "timm" and "(timm naming)" in str(report)
    np.testing.assert_array_equal(out["embed.weight"], official["embed.weight"].T)
    own = {f"visual.{name}": value for name, value in out.items()}
    same, report = convert_state_dict(Tables(), own, layout="paddle")
    assert report.ok and report.naming == "PaddleClas"
    for name, value in out.items():
        np.testing.assert_array_equal(same[name], value, err_msg=name)
    _, report = convert_state_dict(Tables(), out, layout="paddle")
    assert report.ok and report.naming == "passl_sot" and not report.renamed
    timm["patch.wieght"] = timm.pop("patch.weight")
    _, report = convert_state_dict(Tables(), timm)
    assert report.naming == "timm" and report.unexpected == [("patch.wieght", ["embed.weight"])]


def test_rules_without_a_way_back_are_an_error():
    model = OneWay()
    with pytest.raises(ConversionError, match="OneWay has no way back to official names"):
        export_state_dict(model, arrays_of(model))


def test_a_head_left_new():
    source = Classifier(architecture=ARCH, head=HEAD)
    official = export_state_dict(source, arrays_of(source))
    model = Classifier(architecture=ARCH, head={**HEAD, "num_classes": 9})
    out, report = convert_state_dict(model, official, new_head=True)
    new = [f"head.{part}.{leaf}" for part in ("visual_fc", "cls_fc") for leaf in ("weight", "bias")]
    assert report.ok and report.left_new == new and not set(new) & set(out)
    assert "4 left new" in str(report) and "left new    head.cls_fc.bias" in str(report)
    without = {name: value for name, value in official.items() if "_fc." not in name}
    _, report = convert_state_dict(model, without, new_head=True)
    assert report.ok and report.left_new == new
    assert not convert_state_dict(model, without)[1].ok
    official["classifier.representation.wr.weight"] = np.zeros((3, 3), "f4")
    _, report = convert_state_dict(model, official, new_head=True)
    assert [name for name, *_ in report.mismatched] == ["classifier.representation.wr.weight"]
    _, report = convert_state_dict(source, without | {"classifier.x": np.zeros(3)}, new_head=True)
    assert report.unexpected == [("classifier.x", [])]


def test_weights_of_another_model_are_called_that():
    model = Classifier(architecture=ARCH, head=HEAD)
    _, report = convert_state_dict(model, {f"layers.{i}.weight": np.zeros(3) for i in range(40)})
    text = str(report)
    assert "these are weights of another model: 0 of" in text
    assert text.splitlines()[0].startswith("the state dict does not fit")
    shown = [line for line in text.splitlines() if line.startswith("  unexpected")]
    assert shown[:3] == [f"  unexpected  layers.{i}.weight" for i in range(3)]
    assert shown[3:] == ["  unexpected  37 more"] and len(text.splitlines()) < 15
