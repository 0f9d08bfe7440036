"""A tiny trained model, its checkpoint and its export, made once; and the cache's folder of each test."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from passl_sot.engine.distributed import World
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.export.folder import export_model
from passl_sot.export.source import read_source
from passl_sot.utils.cache import HOME


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """The folder of the cache, which begins empty."""
    monkeypatch.setenv(HOME, str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def trained(write_experiment, tmp_path_factory) -> SimpleNamespace:
    """`config`, `checkpoint`, `images` (files) and `folder` (all formats) of a model trained for an epoch."""
    place = tmp_path_factory.mktemp("trained")
    config = write_experiment(place)
    trainer = Trainer(load_config(config, ["epochs=1"]), place / "run", World())
    trainer.fit()
    checkpoint = trainer.folder.path / "best.safetensors"
    model, meta = read_source(checkpoint)
    export_model(model, meta, place / "folder")
    images = sorted(str(path) for path in (place / "val").rglob("*.png"))
    return SimpleNamespace(config=config, checkpoint=checkpoint, images=images, folder=place / "folder")
