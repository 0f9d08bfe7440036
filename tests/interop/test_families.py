"""A small model of every family, through checkpoint files of both formats and back, bit for bit."""

import subprocess

import numpy as np
import paddle
import pytest

from passl_sot import create_model, list_models
from passl_sot.cli import convert
from passl_sot.config import Config
from passl_sot.interop import convert_state_dict, export_state_dict
from passl_sot.modeling.backbones import build_backbone
from passl_sot.weights.checkpoint import read_weights
from passl_sot.zoo import find_config, model_config


def smallest_of_each() -> list[str]:
    """A config for each kind of backbone on each kind of head that its authors gave it."""
    best: dict[tuple[str, str], tuple[float, str]] = {}
    images = [name for name in list_models() if find_config(name).parent.name != "text"]
    for name in images:
        cfg = model_config(name)
        size = cfg.meta.params_m if "meta" in cfg else 0.0
        key = cfg.model.architecture.name, cfg.model.head.name
        best[key] = min(best.get(key, (np.inf, "")), (size, name))
    linear = {backbone for backbone, head in best if head != "SecondOrderHead"}
    return sorted(
        name
        for (backbone, head), (_, name) in best.items()
        if head != "SecondOrderHead" or backbone not in linear
    )


NAMES = smallest_of_each()

SAVE = """
import sys
from pathlib import Path
import numpy as np, torch
for path in map(Path, sys.argv[1:]):
    with np.load(path) as file:
        state = {"module." + name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    wrong = {name: value + 1 for name, value in state.items()}
    content = {"state_dict": wrong, "state_dict_ema": state, "epoch": 300}
    torch.save(content, path.with_suffix(".pth"))
    torch.save(content, path.with_suffix(".tar"), _use_new_zipfile_serialization=False)
"""


# Further settings that change a state dict.
MORE = {name: {} for name in NAMES} | {"t2t_vit_7_learned": {"pos_embed": "learned"}}


def smaller(name: str, **more) -> dict:
    """The `model:` section of a config, as narrow and shallow as its class allows."""
    cfg = model_config(name).model
    architecture, head = {**cfg.architecture, **more}, dict(cfg.head)
    heads = architecture["num_heads"]
    widths = [8 * n for n in heads] if isinstance(heads, list) else 8 * heads
    if architecture["name"] == "Swin":
        widths = widths[0]  # the others follow from it
    small = {"depth": 2, "head_dim": 8, "projection": 32, "embed_dim": widths}
    small["depths"] = [2] * len(architecture.get("depths", ()))
    architecture |= {key: value for key, value in small.items() if key in architecture}
    head |= {"num_classes": 5, "in_channels": build_backbone(architecture).num_features}
    if "reduction" in head:
        head["reduction"] = [6, 4]
    return {"architecture": architecture, "head": head}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Of each: its config, the model's arrays, and the official state dict of them."""
    folder = tmp_path_factory.mktemp("families")
    cases = {}
    rng = np.random.default_rng(0)  # nothing is to be equal to anything by having begun at 0 or 1
    for name, more in MORE.items():
        config = folder / f"{name}.yaml"
        config.write_text(Config(model=smaller(name.removesuffix("_learned"), **more)).dump())
        model = create_model(str(config))
        arrays = {key: value.numpy() for key, value in model.state_dict().items()}
        arrays = {
            key: rng.standard_normal(value.shape).astype(value.dtype) if value.dtype.kind == "f" else value
            for key, value in arrays.items()
        }
        cases[name] = config, arrays, export_state_dict(model, arrays)
    return cases


def check(config, arrays: dict, src) -> None:
    dst = src.with_name("result.pdparams")
    assert convert(["--config", str(config), "--src", str(src), "--dst", str(dst)]) == 0
    got, _ = read_weights(dst)
    assert got.keys() == arrays.keys()
    for key, value in arrays.items():
        np.testing.assert_array_equal(got[key], value, err_msg=f"{config.stem} {key}")


@pytest.mark.parametrize("size", [96, 128, 160, 192, 256, 384, 512])
def test_weights_of_224_pixels_at_other_sizes(cases, size):
    for name, (config, arrays, official) in cases.items():
        model = create_model(str(config), img_size=size)
        out, report = convert_state_dict(model, official)
        assert report.ok and not report.left_new, f"{name}: {report}"
        tables = {source for source, _, _ in report.adapted}
        assert all(key.endswith(("pos_embed", "relative_position_bias_table")) for key in tables), name
        for key, value in arrays.items():
            if report.sources[key] not in tables:
                np.testing.assert_array_equal(out[key], value, err_msg=f"{name} {key}")
        assert model.set_state_dict(out) == ([], []), name
        if size < 224:
            assert model(paddle.zeros([1, 3, size, size])).shape == [1, 5]


def test_so_vits_weights_below_224_pixels(tmp_path):
    """A shipped config by the usual door; one block stands for seven."""
    path = tmp_path / "so_vit_7.pdparams"
    paddle.save(create_model("so_vit_7", depth=1).state_dict(), str(path))
    model = create_model("so_vit_7", path, depth=1, img_size=[96, 160])
    assert model.weights_report.ok and not model.weights_report.left_new
    assert model(paddle.zeros([1, 3, 96, 160])).shape == [1, 1000]


def test_hand_made_files(cases, writer, tmp_path):
    for config, arrays, official in cases.values():
        tensors = {f"module.{key}": writer.Tensor.of(value) for key, value in official.items()}
        content = {"state_dict_ema": tensors, "epoch": 300}
        check(config, arrays, writer.write_zip(tmp_path / "a.pth.tar", content))
        check(config, arrays, writer.write_legacy(tmp_path / "a.pth.tar", content))


def test_files_of_pytorch(cases, torch_python, tmp_path):
    for name, (_, _, official) in cases.items():
        np.savez(tmp_path / f"{name}.npz", **official)
    files = [tmp_path / f"{name}.npz" for name in cases]
    command = [torch_python, "-W", "ignore", "-c", SAVE, *map(str, files)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for file, (config, arrays, _) in zip(files, cases.values(), strict=True):
        check(config, arrays, file.with_suffix(".pth"))
        check(config, arrays, file.with_suffix(".tar"))
