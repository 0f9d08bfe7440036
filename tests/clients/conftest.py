"""The real PaddleX and PaddleClas: processes in environments of their own."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from passl_sot.cli.exporting import export
from passl_sot.engine.schema import load_config
from passl_sot.export.card import write_card
from passl_sot.tasks.base import header_for
from passl_sot.weights.checkpoint import write_checkpoint
from ppcls_tools.make_client_envs import ROOT, is_ready, python_of

PROGRAMS = Path(__file__).parent / "programs"


def needs(client: str) -> pytest.MarkDecorator:
    """Marks tests that are left out, before anything is made for them, where a client isn't installed."""
    reason = f"no {client} here: python3 ppcls_tools/make_client_envs.py {client}"
    return pytest.mark.skipif(not is_ready(client), reason=reason)


@pytest.fixture(scope="session")
def client():
    """`client(name, program, task)` runs a program of `programs/` in a client's environment.

    It is handed the task as JSON, and gives back what it writes to its result file.
    """

    def run(name: str, program: str, task: dict, folder: Path) -> dict:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "task.json").write_text(json.dumps(task, default=str))
        # Nothing of this project is in reach but the checkout's ppcls_tools.
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FLAGS_"))},
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True",
        }
        command = [python_of(name), PROGRAMS / program, folder / "task.json", folder / "result.json"]
        done = subprocess.run(
            list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
        return json.loads((folder / "result.json").read_text())

    return run


CLASSES = ["a b", "e", "f", "grün", "rot", "白"]
# A bicubic filter with a crop, and a bilinear one straight to the size.
TRANSFORMS = {
    "bicubic": [{"name": "Resize", "size": 40}, {"name": "CenterCrop", "size": 32}],
    "bilinear": [{"name": "Resize", "size": [32, 32], "interpolation": "bilinear"}],
}
NORMALIZE = {"name": "Normalize", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
# (width, height): PaddleX and PaddleClas round the sides and corners of the first ones as we do.
SAME_ROUNDING = [(64, 64), (50, 40), (90, 60), (120, 40)]
OTHER_ROUNDING = [(67, 40), (41, 97), (71, 53), (33, 79)]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """`pictures(sizes)`: files of photographs in several formats, modes and these sizes."""
    folder = tmp_path_factory.mktemp("pictures")

    def write(sizes) -> list[str]:
        files = []
        for number, size in enumerate(sizes):
            for kind, mode in (("jpg", "RGB"), ("png", "RGB"), ("jpg", "L"), ("png", "L"), ("png", "RGBA")):
                files.append(str(folder / f"{size[0]}x{size[1]}_{mode}.{kind}"))
                painted(size, number).convert(mode).save(files[-1])
        return files

    return write


@pytest.fixture(scope="session")
def turned(tmp_path_factory) -> str:
    """A photograph that EXIF says lies on its side."""
    file = tmp_path_factory.mktemp("turned") / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    painted((71, 53), 9).save(file, exif=exif)
    return str(file)


def painted(size, seed: int) -> Image.Image:
    """Smooth colors and some noise, as photographs have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(small, "f4") + rng.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype("u1"))


@pytest.fixture(scope="session")
def exports(tmp_path_factory, stir):
    """Exported folders of a small model, by the filter of its images, and their checkpoints."""
    folder = tmp_path_factory.mktemp("bicubic")
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump(_experiment(folder), allow_unicode=True))
    experiment = load_config(config)
    model = stir(experiment.model.build())
    tensors = {f"model.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    meta = header_for(experiment, CLASSES)
    checkpoint = folder / "small" / "best.safetensors"
    write_checkpoint(checkpoint, tensors, meta)
    arguments = ["--weights", str(checkpoint), "--out", str(folder / "exported"), "--formats", "paddle,onnx"]
    assert export([*arguments, "-q"]) == 0
    # The same model with images prepared otherwise: only the card differs, which the exporter writes.
    meta["preprocessing"] |= {"transforms": [*TRANSFORMS["bilinear"], NORMALIZE], "apply_exif": False}
    write_checkpoint(folder / "bilinear.safetensors", tensors, meta)
    shutil.copytree(folder / "exported", folder / "bilinear")
    assert write_card(folder / "bilinear", meta, {}, "Bilinear") == ""
    return {
        "bicubic": (folder / "exported", checkpoint),
        "bilinear": (folder / "bilinear", folder / "bilinear.safetensors"),
    }


def _experiment(folder: Path) -> dict:
    def split(name):
        dataset = {"name": "ImageFolder", "dataroot": str(folder / name)}
        dataset["transforms"] = [*TRANSFORMS["bicubic"], NORMALIZE]
        return {"sampler": {"batch_size": 8}, "loader": {"num_workers": 0}, "dataset": dataset}

    return {
        "epochs": 1,
        "device": "cpu",
        "output_dir": str(folder / "output"),
        "model": {
            "architecture": {"name": "DeiT", "img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2},
            "head": {"name": "LinearHead", "num_classes": len(CLASSES), "in_channels": 24},
        },
        "loss": {"name": "CrossEntropyLoss"},
        "optimizer": {"name": "AdamW"},
        "lr_scheduler": {"name": "ConstantSchedule", "learning_rate": 3e-3},
        "log": {"interval": 1, "visualdl": False},
        "dataloader": {"train": split("train"), "val": split("val")},
    }
