"""Every shipped config: it checks, it builds, its card is measured; and the doors that lead to it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest

from passl_sot import Model, create_model, list_models
from passl_sot.engine.experiment import load_config
from passl_sot.modeling.backbones import build_backbone
from passl_sot.modeling.heads import build_head
from passl_sot.modeling.stats import model_stats
from passl_sot.optim.groups import decay_groups
from passl_sot.utils.config import get_config
from passl_sot.zoo import find_config

ROOT = Path(__file__).parent.parent
NAMES = list_models()


def test_names():
    assert {"sot_tiny", "sot_small", "sot_base", "sot_digits"} <= set(NAMES)
    assert list_models("sot_s*") == ["sot_small"]
    with pytest.raises(ValueError, match="did you mean sot_small"):
        find_config("sot_smal")


@pytest.mark.parametrize("name", NAMES)
def test_config_checks_and_its_card_is_measured(name):
    cfg = load_config(find_config(name))
    before = repr(cfg)
    model = create_model(name)
    assert repr(cfg) == before
    if "meta" in cfg:
        stats = model_stats(model)
        assert cfg.meta.params_m == round(stats.parameters / 1e6, 3)
        assert cfg.meta.gmacs == round(stats.macs / 1e9, 3)
        row = next(r for r in (ROOT / "docs" / "models.md").read_text().splitlines() if f"`{name}`" in r)
        cells = [cell.strip() for cell in row.split("|")]
        numbers = [None if c == "–" else float(c) for c in cells[2:5]]
        assert numbers == [cfg.meta.params_m, cfg.meta.gmacs, cfg.meta.published_top1]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_against_the_golden_list(name):
    """Shape, trainable or not, decayed or not, of every parameter: a change shows as a difference of text."""
    model = create_model(name)
    decayed = set(decay_groups(model)[0])
    lines = [
        f"{key} {list(p.shape)}{' frozen' if p.stop_gradient else ''}{' decay' if key in decayed else ''}"
        for key, p in model.named_parameters()
    ]
    golden = ROOT / "tests" / "fixtures" / "parameters" / f"{name}.txt"
    assert golden.read_text().splitlines() == lines


def test_three_ways_to_the_same_model():
    path = ROOT / "configs" / "sot" / "sot_digits.yaml"
    models = []
    for build in (lambda: Model(path), lambda: create_model("sot_digits")):
        paddle.seed(5)
        models.append(build())
    paddle.seed(5)
    cfg = get_config(path)
    backbone, head = build_backbone(cfg.model.architecture), build_head(cfg.model.head)
    x = paddle.randn([2, 3, 32, 32])
    for layer in (*models, backbone, head):
        layer.eval()
    outputs = [models[0](x), models[1](x), head(backbone(x))]
    for output in outputs:
        assert output.shape == [2, 10]
        np.testing.assert_array_equal(output.numpy(), outputs[0].numpy())


def test_create_model_options(tmp_path):
    model = create_model("sot_digits", num_classes=4, img_size=[48, 64])
    assert model(paddle.randn([1, 3, 48, 64])).shape == [1, 4]
    path = tmp_path / "weights.pdparams"
    source = create_model("sot_digits")
    paddle.save(source.state_dict(), str(path))
    loaded = create_model("sot_digits", weights=path)
    for key, value in loaded.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), source.state_dict()[key].numpy())
    other = create_model("sot_digits", weights=path, num_classes=3)
    np.testing.assert_array_equal(other.backbone.cls_token.numpy(), source.backbone.cls_token.numpy())
    with pytest.raises(ValueError, match="doesn't fit the model"):
        create_model("sot_tiny", weights=path)


@pytest.mark.slow
def test_wheel_carries_the_configs(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {"passl_sot/configs/sot/sot_small.yaml", "passl_sot/configs/_base_/sot.yaml"} <= set(names)
    assert not any(name.startswith(("tests/", "tools/")) for name in names)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import passl_sot; assert '.whl' in passl_sot.__file__ or sys.argv[1] in passl_sot.__file__\n"
        "print(passl_sot.list_models('sot*')); passl_sot.create_model('sot_digits')\n"
    )
    target = tmp_path / "unpacked"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(target)
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "sot_base" in done.stdout
