"""Every family's smallest model, through checkpoint files of both formats and back, bit for bit."""

import subprocess

import numpy as np
import pytest

from passl_sot import create_model, list_models
from passl_sot.cli import convert
from passl_sot.interop.export_torch import export_state_dict
from passl_sot.weights.checkpoint import read_weights
from passl_sot.zoo import model_config


def smallest_of_each() -> list[str]:
    """A config for each kind of backbone on each kind of head that its authors gave it."""
    best: dict[tuple[str, str], tuple[float, str]] = {}
    for name in list_models():
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
import numpy as np, torch
with np.load(sys.argv[1]) as file:
    state = {"module." + name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
wrong = {name: value + 1 for name, value in state.items()}
content = {"state_dict": wrong, "state_dict_ema": state, "epoch": 300}
torch.save(content, sys.argv[2])
torch.save(content, sys.argv[3], _use_new_zipfile_serialization=False)
"""


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """Name, the model's arrays, and the official state dict of them."""
    model = create_model(request.param)
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    rng = np.random.default_rng(0)  # nothing is to be equal to anything by having begun at 0 or 1
    arrays = {
        name: rng.standard_normal(value.shape).astype(value.dtype) if value.dtype.kind == "f" else value
        for name, value in arrays.items()
    }
    return request.param, arrays, export_state_dict(model, arrays)


def check(name: str, arrays: dict, src, tmp_path) -> None:
    dst = tmp_path / "a.pdparams"
    assert convert(["--config", name, "--src", str(src), "--dst", str(dst)]) == 0
    got, _ = read_weights(dst)
    assert got.keys() == arrays.keys()
    for key, value in arrays.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["zip", "legacy"])
def test_hand_made_files(case, writer, tmp_path, fmt):
    name, arrays, official = case
    tensors = {f"module.{key}": writer.Tensor.of(value) for key, value in official.items()}
    write = writer.write_zip if fmt == "zip" else writer.write_legacy
    check(name, arrays, write(tmp_path / "a.pth.tar", {"state_dict_ema": tensors, "epoch": 300}), tmp_path)


@pytest.mark.slow
def test_files_of_pytorch(case, torch_python, tmp_path):
    name, arrays, official = case
    np.savez(tmp_path / "a.npz", **official)
    files = [tmp_path / part for part in ("a.npz", "zip.pth", "legacy.pth.tar")]
    command = [torch_python, "-W", "ignore", "-c", SAVE, *map(str, files)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for file in files[1:]:
        check(name, arrays, file, tmp_path)
