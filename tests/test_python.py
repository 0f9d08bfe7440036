"""The package from Python, as users of timm write it: models, features, inputs, names, types."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import passl_sot
from passl_sot import create_model, list_models
from passl_sot.config import ConfigError
from passl_sot.weights import CheckpointError

ROOT = Path(__file__).parent.parent
SMALL = {"img_size": 32, "depth": 1}
STAGED = {"img_size": 32, "depths": [1, 1, 1, 1]}


@pytest.fixture(scope="module")
def images() -> paddle.Tensor:
    paddle.seed(0)
    return paddle.randn([2, 3, 32, 32])


@pytest.mark.parametrize(
    ("name", "more", "width"),
    [
        ("deit_tiny", SMALL, 192),
        ("deit_tiny_distilled", SMALL, 192),
        ("swin_tiny", STAGED, 768),
        ("sot_tiny", SMALL, 240 + 6 * 14**2),
        ("so_vit_7", SMALL, 256 + 48 * 24),
        ("swin_tiny_sot", STAGED, 8 * 21**2),
    ],
)
def test_features_in_place_of_logits(name, more, width, images):
    """What the last layers take: `num_classes=0`, `reset_classifier(0)` and `pre_logits=True` agree."""
    model = create_model(name, **more)
    tokens = model.forward_features(images)
    features = model.forward_head(tokens, pre_logits=True)
    assert features.shape == [2, width]
    logits = model.forward_head(tokens)
    assert logits.shape == [2, 1000]
    last = [getattr(model.head, layer) for layer in model.head.last_layers if hasattr(model.head, layer)]
    assert last
    if "distilled" not in name:  # whose logits are a mean of two
        # The class token's features stand before the words'.
        parts = zip(
            reversed(last), features.split([fc.weight.shape[0] for fc in reversed(last)], 1), strict=True
        )
        np.testing.assert_allclose(sum(fc(part) for fc, part in parts).numpy(), logits.numpy(), atol=1e-4)
    model.reset_classifier(0)
    assert model.num_classes == 0
    np.testing.assert_array_equal(model(images).numpy(), features.numpy())
    assert not [
        key for key in model.state_dict() if key.removeprefix("head.").startswith(("fc", "head", "visual_fc"))
    ]
    model.train()
    assert model(images).shape == [2, width]
    model.reset_classifier(7)
    model.eval()
    assert model(images).shape == [2, 7]
    assert create_model(name, num_classes=0, **more)(images).shape == [2, width]


def test_feature_maps(images, tmp_path):
    maps = create_model("swin_tiny", features_only=True, out_indices=(0, -1), **STAGED)
    assert [out.shape for out in maps(images)] == [[2, 96, 8, 8], [2, 768, 1, 1]]
    assert (maps.feature_info.channels(), maps.feature_info.reduction()) == ([96, 768], [4, 32])
    assert maps.feature_info[1]["module"] == "layers.3.blocks.0"
    assert not any(key.startswith("head") for key in maps.state_dict())
    every = create_model("deit_tiny", features_only=True, img_size=32, depth=3)
    assert every.feature_info.channels() == [192] * 3 and len(every(images)) == 3
    # Weights of any number of classes will do.
    whole = create_model("deit_tiny", num_classes=3, img_size=32, depth=3)
    paddle.save(whole.state_dict(), str(tmp_path / "w.pdparams"))
    filled = create_model("deit_tiny", tmp_path / "w", features_only=True, img_size=32, depth=3)
    for got, want in zip(filled(images), whole.backbone.forward_intermediates(images), strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert filled.weights_report.left_new
    with pytest.raises(ValueError, match="no feature map 9: there are 3"):
        create_model("deit_tiny", features_only=True, out_indices=[9], img_size=32, depth=3)
    with pytest.raises(ValueError, match="features_only=True"):
        create_model("deit_tiny", out_indices=[1], **SMALL)


def test_settings_of_the_backbone(images):
    model = create_model("sot_tiny", drop_path_rate=0.3, img_size=(32, 48), depth=2, drop_rate=0.1)
    assert model.backbone.blocks[-1].drop_path.rate == 0.3 and model.backbone.img_size == (32, 48)
    # The head follows the width as in the YAML file.
    assert create_model("deit_tiny", embed_dim=48, **SMALL)(images).shape == [2, 1000]
    with pytest.raises(ConfigError, match="SoT has no argument 'depht'; did you mean 'depth'"):
        create_model("sot_tiny", depht=3)
    with pytest.raises(TypeError, match="no checkpoint_path here: write pretrained=FILE"):
        create_model("sot_tiny", checkpoint_path="a.pth")


def test_pretrained(images, tmp_path, monkeypatch):
    source = create_model("deit_tiny", **SMALL)
    path = tmp_path / "deit_tiny.pdparams"
    paddle.save(source.state_dict(), str(path))
    for given in (path, str(path), tmp_path / "deit_tiny"):
        model = create_model("deit_tiny", pretrained=given, **SMALL)
        np.testing.assert_array_equal(model(images).numpy(), source(images).numpy())
    assert create_model("deit_tiny", path, num_classes=0, **SMALL).weights_report.ok
    monkeypatch.setenv("PASSL_SOT_HOME", str(tmp_path / "home"))
    for wrong, file in (
        (True, "deit_tiny_patch16_224-a1311bcf"),
        ("swin_tiny", "swin_tiny_patch4_window7_224"),
    ):
        with pytest.raises(CheckpointError, match=rf"PASSL_SOT_OFFLINE is set.*{file}\.pth"):
            create_model("deit_tiny", wrong)
    monkeypatch.chdir(tmp_path)
    assert create_model("deit_tiny", "deit_tiny", **SMALL).weights_report.ok
    with pytest.raises(CheckpointError, match=r"no weights file nope\.pth"):
        create_model("deit_tiny", "nope.pth")


@pytest.mark.parametrize("name", ["deit_tiny", "pit_ti", "stvit_small", "t2t_vit_7"])
def test_inputs_that_are_no_normalized_tensors(name, images):
    more = (
        {"depths": [1] * (3 if name == "pit_ti" else 4)}
        if name in ("pit_ti", "stvit_small")
        else {"depth": 1}
    )
    model = create_model(name, img_size=32, **more)
    array = images.numpy()
    cases = [
        (array, TypeError, r"got numpy ndarray float32: write model\(paddle\.to_tensor\(x\)"),
        ((array * 9).astype("uint8"), TypeError, r"got numpy ndarray uint8: .*/ 255 - mean.*Predictor"),
        ((images * 9).astype("uint8"), TypeError, r"got uint8 pixels: .*/ 255 - mean.*Predictor"),
        ([array], TypeError, "got builtins list"),
        (images.transpose([0, 2, 3, 1]), ValueError, r"channels come first, write x\.transpose"),
        (images[0], ValueError, r"a batch of one, write x\.unsqueeze\(0\)"),
    ]
    for given, error, words in cases:
        with pytest.raises(error, match=words):
            model(given)
    with pytest.raises(TypeError, match="numpy"):
        model.forward_features(array)


def test_several_patterns():
    assert list_models(["sot_t*", "swin_small", "sot_*y"]) == ["sot_tiny", "swin_small"]
    assert list_models(["nothing*"]) == list_models([]) == []
    assert list_models(("deit_*",)) == list_models("deit_*") != []


def test_names_of_the_package():
    shown = set(dir(passl_sot))
    assert (
        set(passl_sot.__all__) <= shown and not {"importlib", "warnings", "TYPE_CHECKING", "_HOMES"} & shown
    )
    assert all(getattr(passl_sot, name) for name in passl_sot.__all__)
    with pytest.raises(AttributeError, match="no attribute 'crate_model'"):
        _ = passl_sot.crate_model


def test_faults_of_arguments_name_no_command_line():
    with pytest.raises(ConfigError, match="did you mean 'drop_path_rate'") as caught:
        create_model("sot_tiny", drop_path=0.1)
    assert "command line" not in str(caught.value)
    with pytest.raises(ConfigError, match="`passl-sot list` shows the") as caught:
        create_model("resnet50")
    assert len(str(caught.value)) < 150


def test_nothing_is_said_of_compilers():
    code = "from passl_sot import create_model; create_model('sot_digits')"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout + done.stderr == ""


SCRIPT = """
import passl_sot
from passl_sot import Model, Predictor, create_model, list_models

model = create_model("sot_tiny", num_classes=0)
reveal_type(model)
reveal_type(create_model("swin_tiny", features_only=True, out_indices=(1,)))
reveal_type(model.num_classes)
reveal_type(Model("sot_tiny"))
reveal_type(list_models(["sot*"]))
reveal_type(Predictor("best")("a.jpg")[0].names)
create_model("sot_tiny", num_classes="ten")
passl_sot.crate_model
"""


@pytest.mark.slow
def test_a_type_checker_sees_types(tmp_path):
    """The package is found as an installed one is, whose types count by `py.typed` alone.

    With what `tools/start.py test` has mypy find out about libraries just before, which is most of the work.
    """
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), str(script)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600
    )
    revealed = [line.partition("Revealed type is ")[2].strip('"') for line in done.stdout.splitlines()]
    assert list(filter(None, revealed)) == [
        "passl_sot.modeling.classifier.Classifier",
        "passl_sot.modeling.classifier.FeatureMaps",
        "int",
        "passl_sot.model.Model",
        "list[str]",
        "list[str]",
    ], done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 2 and '"create_model"' in errors[0] and '"crate_model"' in errors[1], done.stdout
