"""Checkpoints as if they had been trained, of images and of texts."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from passl_sot.engine.schema import load_config
from passl_sot.tasks.base import header_for
from passl_sot.weights.checkpoint import read_checkpoint, write_checkpoint
from tests.text_experiment import make_checkpoint

NAMES = ["a b", "c", "猫"]


@pytest.fixture(scope="session")
def small(write_experiment, stir, tmp_path_factory) -> SimpleNamespace:
    """Of images: `folder`, `config`, `checkpoint` with raw and averaged weights, `val`, files by class."""
    folder = tmp_path_factory.mktemp("small")
    config = write_experiment(folder)
    experiment = load_config(config)
    model = stir(experiment.model.build())
    arrays = {}
    for name, tensor in model.state_dict().items():
        arrays |= {f"model.{name}": tensor.numpy(), f"ema.{name}": 0.9 * tensor.numpy()}
    checkpoint = folder / "run" / "best.safetensors"
    write_checkpoint(checkpoint, arrays, header_for(experiment, NAMES))
    val = [sorted((folder / "val" / name).glob("*.png")) for name in NAMES]
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
