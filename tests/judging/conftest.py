"""Checkpoints as if they had been trained, of images and texts, and one that reads classes off colors."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from PIL import Image

from passl_sot.data.imagenet import imagenet_classes
from passl_sot.engine.schema import load_config
from passl_sot.tasks.base import header_for
from passl_sot.weights.checkpoint import read_checkpoint, write_checkpoint
from tests.text_experiment import make_checkpoint

KINDS = ["a b", "c", "猫"]
IDS = [known.id for known in imagenet_classes()]
NAMES = [known.name for known in imagenet_classes()]
# Ten values of each channel: class 123 has the second of red, the third of green, the fourth of blue.
COLORS = np.stack(np.unravel_index(np.arange(1000), (10, 10, 10)), axis=1) * 25 + 15
CONFIG = """
_base_: {root}/configs/_base_/deit.yaml
output_dir: {folder}/output
device: cpu
model:
  architecture: {{img_size: 32, embed_dim: 8, depth: 1, num_heads: 1}}
  head: {{pool: mean}}
dataloader:
  train: {{dataset: {{dataroot: {folder}/nowhere}}, loader: {{num_workers: 0}}}}
  val: {{dataset: {{dataroot: {folder}/nowhere}}, loader: {{num_workers: 0}}, sampler: {{batch_size: 64}}}}
meta: {{paper: none, params_m: 0.1, gmacs: 0.1, published_top1: 50.0, published_imagenet_a: 40.0}}
"""


@pytest.fixture(scope="session")
def colors(tmp_path_factory) -> SimpleNamespace:
    """`config`; `checkpoint`, whose raw weights are always right, and whose averaged ones say k+1 for k.

    `bare`: the raw weights as .pdparams.
    """
    folder = tmp_path_factory.mktemp("colors")
    config = folder / "colors.yaml"
    config.write_text(CONFIG.format(root=Path(__file__).parents[2], folder=folder))
    experiment = load_config(config)
    model = experiment.model.build()
    model.eval()
    state = {name: np.zeros(value.shape, "float32") for name, value in model.state_dict().items()}
    state["backbone.norm.weight"] += 1
    patches = state["backbone.patch_embed.proj.weight"]
    for channel in range(3):
        for sign in (0, 1):
            row = patches[2 * channel + sign] if patches.ndim == 4 else patches[:, 2 * channel + sign]
            row.reshape(3, -1)[channel] = (-1) ** sign / 256
    state["backbone.patch_embed.proj.bias"][6:] = (3, -3)
    model.set_state_dict(state)
    task = experiment.dataloader.val.dataset["transforms"][-1]
    mean, std = (np.array(task[key], "float32") for key in ("mean", "std"))
    pixels = ((COLORS / 255 - mean) / std).astype("float32")[:, :, None, None]
    with paddle.no_grad():
        images = paddle.to_tensor(pixels).expand([-1, -1, 32, 32])
        # Features of one length: the nearest class is that with the greatest product.
        features = model.backbone(images)[:, 1:].mean(axis=1).numpy()
    state["head.fc.weight"] = 30 * features.T
    other = {**state, "head.fc.weight": np.roll(state["head.fc.weight"], 1, axis=1)}
    arrays = {f"model.{name}": value for name, value in state.items()}
    arrays |= {f"ema.{name}": value for name, value in other.items()}
    checkpoint = folder / "run" / "best.safetensors"
    write_checkpoint(checkpoint, arrays, header_for(experiment, NAMES, IDS))
    bare = folder / "bare.pdparams"
    paddle.save({name: paddle.to_tensor(value) for name, value in state.items()}, str(bare))
    return SimpleNamespace(config=config, checkpoint=checkpoint, bare=bare, folder=folder)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Puts an image of a class's color at a path; files of one color are one file."""
    home = tmp_path_factory.mktemp("pictures")

    def put(path: Path, label: int) -> None:
        source = home / f"{label}.png"
        if not source.exists():
            Image.new("RGB", (40, 36), tuple(COLORS[label].tolist())).save(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, path)

    return put


@pytest.fixture
def own_home(tmp_path, monkeypatch) -> Path:
    """A cache folder in `tmp_path`, so that nothing is kept from one test to another."""
    monkeypatch.setenv("PASSL_SOT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def suite(invoke, own_home, tmp_path):
    """Runs `eval --suite` on 32-pixel colors; gives the result, and the rows by set and kind of weights."""

    def run(colors, *sets: str, more=(), weights=None):
        out = tmp_path / "table.json"
        given = weights or [colors.checkpoint]
        done = invoke("eval", "--weights", *given, "--suite", *sets, "--out", out, *more)
        rows = json.loads(out.read_text()) if done.returncode == 0 else []
        return done, {(row["name"], row["weights"]): row for row in rows}

    return run


@pytest.fixture(scope="session")
def small(write_trained, tmp_path_factory) -> SimpleNamespace:
    """Of images: `folder`, `config`, `checkpoint` with raw and averaged weights, `val`, files by class."""
    folder = tmp_path_factory.mktemp("small")
    config, checkpoint = write_trained(folder)
    val = [sorted((folder / "val" / name).glob("*.png")) for name in KINDS]
    return SimpleNamespace(folder=folder, config=config, checkpoint=checkpoint, val=val)


@pytest.fixture(scope="session")
def small_text(stir, tmp_path_factory) -> SimpleNamespace:
    """Of texts: `folder`, `config`, `checkpoint`."""
    folder = tmp_path_factory.mktemp("small_text")
    config, checkpoint = make_checkpoint(folder, stir)
    return SimpleNamespace(folder=folder, config=config, checkpoint=checkpoint)


@pytest.fixture
def variant(small, tmp_path):
    """Writes another checkpoint of the same run: weights and header are changed by functions."""

    def write(name: str, change=lambda arrays: arrays, header=lambda meta: meta) -> Path:
        saved = read_checkpoint(small.checkpoint)
        path = tmp_path / f"{name}.safetensors"
        arrays = {key: np.array(array) for key, array in saved.tensors.items()}
        write_checkpoint(path, change(arrays), header(saved.meta))
        return path

    return write
