"""A checkpoint of a small model with weights that matter, and its export."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from passl_sot import cli
from passl_sot.engine.schema import load_config
from passl_sot.tasks.base import header_for
from passl_sot.weights.checkpoint import write_checkpoint

NAMES = ["a b", "c", "猫"]


def _stir(model: paddle.nn.Layer, seed: int = 0) -> paddle.nn.Layer:
    """Gives a model in evaluation mode weights of a trained one's size: fresh ones say 0 for every image."""
    generator = np.random.default_rng(seed)
    with paddle.no_grad():
        for name, tensor in model.state_dict().items():
            noise = generator.standard_normal(tensor.shape).astype("float32")
            scale = 0.3
            if len(tensor.shape) > 1:
                scale = (2 / sum(tensor.shape[:2])) ** 0.5
            if name.endswith("_variance"):
                noise = np.abs(noise)
            tensor.set_value(tensor + paddle.to_tensor(scale * noise))
    model.eval()
    return model


@pytest.fixture(scope="session")
def stir():
    """See `_stir`."""
    return _stir


@pytest.fixture(scope="session")
def checkpoint(write_experiment, tmp_path_factory) -> Path:
    """A checkpoint, in a run's folder, of the experiment beside it."""
    folder = tmp_path_factory.mktemp("exported")
    experiment = load_config(write_experiment(folder))
    model = _stir(experiment.model.build())
    arrays = {f"model.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    path = folder / "small_run" / "best.safetensors"
    write_checkpoint(path, arrays, header_for(experiment, NAMES))
    return path


@pytest.fixture(scope="session")
def exported(checkpoint) -> SimpleNamespace:
    """The folder of its export in all formats."""
    folder = checkpoint.parent.parent / "export"
    assert cli.export(["--weights", str(checkpoint), "--out", str(folder)]) == 0
    return folder
