"""Checkpoints and files to look into."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from passl_sot.engine.schema import load_config
from passl_sot.tasks.base import header_for
from passl_sot.weights.checkpoint import write_checkpoint
from tests.text_experiment import NAMES, write_text_experiment

CLASSES = ["a b", "c", "猫"]


def write(path: Path, experiment, names, stir, **header) -> Path:
    model = stir(experiment.model.build())
    arrays = {f"model.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    write_checkpoint(path, arrays, {**header_for(experiment, names), **header})
    return path


@pytest.fixture(scope="session")
def made(write_experiment, stir, tmp_path_factory) -> SimpleNamespace:
    """Checkpoints of several kinds, `val/` with images of odd shapes, and one that is none."""
    folder = tmp_path_factory.mktemp("seen")
    images = load_config(write_experiment(folder))
    plain = load_config(
        folder / "run.yaml", ["model.head={name: LinearHead, num_classes: 3, in_channels: 16}"]
    )
    cv2.imwrite(str(folder / "val" / "c" / "gray.png"), np.arange(600, dtype=np.uint8).reshape(60, 10))
    (folder / "texts").mkdir()
    texts = load_config(write_text_experiment(folder / "texts"))
    return SimpleNamespace(
        folder=folder,
        fused=write(folder / "fused" / "best.safetensors", images, CLASSES, stir),
        plain=write(folder / "plain" / "best.safetensors", plain, CLASSES, stir),
        other=write(folder / "other.safetensors", images, ["a b", "c", "d"], stir),
        unnamed=write(folder / "unnamed.safetensors", images, (), stir),
        synonyms=write(
            folder / "synonyms.safetensors",
            images,
            ["tench, Tinca tinca", "crane", "crane, machine"],
            stir,
            class_ids=["n1", "n2", "c"],
        ),
        texts=write(folder / "texts.safetensors", texts, NAMES, stir),
    )
