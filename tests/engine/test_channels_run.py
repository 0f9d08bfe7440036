"""Grey and many-channel input as switches: whole runs from configs of their own, and prediction."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from passl_sot import cli, create_model
from passl_sot.config import get_config
from passl_sot.predict import Predictor
from passl_sot.weights.checkpoint import read_checkpoint

GREY = """
_base_: run.yaml
epochs: 1
model: {architecture: {in_chans: 1}}
dataloader: {train: {dataset: {channels: 1}}, val: {dataset: {channels: 1}}}
"""
BANDS = """
_base_: run.yaml
epochs: 1
model: {{architecture: {{in_chans: 5}}}}
dataloader:
  train:
    dataset:
      channels: 5
      dataroot: {folder}/bands/train
      transforms:
        - {{name: RandomResizedCrop, size: 32}}
        - {{name: RandomHorizontalFlip}}
        - {{name: Normalize, mean: [0.5], std: [0.25]}}
  val:
    dataset:
      channels: 5
      dataroot: {folder}/bands/val
      transforms:
        - {{name: Resize, size: [32, 32]}}
        - {{name: Normalize, mean: [0.5], std: [0.25]}}
"""


def config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "channels.yaml"
    path.write_text(text.format(folder=tmp_path) if "{folder}" in text else text)
    return str(path)


def test_grey_from_weights_of_colours(experiment, tmp_path, capfd):
    path = config(tmp_path, GREY)
    weights = tmp_path / "rgb.pdparams"
    paddle.save(create_model(str(experiment)).state_dict(), str(weights))
    assert cli.train(["-c", path, "--pretrained", str(weights)]) == 0
    assert "channels    backbone." in capfd.readouterr().out
    best = tmp_path / "output" / "channels" / "best.safetensors"
    assert read_checkpoint(best).meta["preprocessing"]["channels"] == 1
    predictor = Predictor(best)
    files = sorted((tmp_path / "val").rglob("*.png"))
    predicted = predictor([str(f) for f in files])
    assert len(predicted) == 9 and not any(p.error for p in predicted)
    out = tmp_path / "evaluation" / "metrics.json"
    assert cli.evaluate(["-c", path, "--weights", str(best), "--out", str(out)]) == 0
    rows = (out.parent / "predictions.csv").read_text(encoding="utf-8-sig").splitlines()[1:]
    by_path = {row.split(",")[0]: row.split(",")[3] for row in rows}
    assert {str(f): p.names[0] for f, p in zip(files, predicted, strict=True)} == by_path


def test_five_bands(experiment, tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for label, name in enumerate(("a", "b", "c")):
            (tmp_path / "bands" / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 90, (36, 36, 5), dtype=np.uint8)
                image[..., label + 2] += 150
                np.save(tmp_path / "bands" / split / name / f"{i}.npy", image)
    path = config(tmp_path, BANDS)
    assert cli.train(["-c", path, "-o", "epochs=8", "lr_scheduler.learning_rate=0.01"]) == 0
    best = tmp_path / "output" / "channels" / "best.safetensors"
    assert read_checkpoint(best).meta["progress"]["best"] > 60
    predictor = Predictor(best)
    one = predictor(str(tmp_path / "bands" / "val" / "b" / "0.npy"))[0]
    assert not one.error and one.probabilities[0] > 0.33
    (wrong,) = predictor(np.zeros((36, 36, 3), np.uint8))
    assert "expected uint8 [H, W, 5], got uint8 [36, 36, 3]" in wrong.error


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_channels_that_differ(experiment, tmp_path, capfd, more):
    path = config(tmp_path, GREY.replace("in_chans: 1", "in_chans: 3"))
    assert cli.train(["-c", path, *more]) == 2
    error = capfd.readouterr().err
    assert (
        "dataloader.train.dataset.channels: images have 1 channel(s), and model.architecture.in_chans"
        in error
    )
    assert "dataloader.val.dataset.channels" in error
    assert get_config(path).dataloader.val.dataset.channels == 1
