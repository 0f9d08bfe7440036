"""Images with several labels each: views, sizes, averages and features of them; and what is for one alone."""

import json

import numpy as np
import pytest

from passl_sot import Predictor
from passl_sot.engine.schema import load_config
from passl_sot.judging.features import FeatureBank
from passl_sot.tasks.base import header_for
from passl_sot.weights.checkpoint import write_checkpoint
from tests.engine.several_labels import write_several_labels


@pytest.fixture
def checkpoint(experiment, stir, tmp_path):
    loaded = load_config(write_several_labels(tmp_path))
    model = stir(loaded.model.build())
    path = tmp_path / "run" / "best.safetensors"
    arrays = {f"model.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    write_checkpoint(path, arrays, header_for(loaded, ["red", "green", "blue"]))
    return path


def test_what_is_for_them_too(checkpoint, invoke, tmp_path):
    out = tmp_path / "out" / "metrics.json"
    done = invoke("eval", "--weights", checkpoint, checkpoint, "--average", "--tta", "flip", "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["images"] == 16 and report["tta"] == ["flip"]
    # Accuracy and confidence of one class are no measure here.
    assert "ece" not in report and not (out.parent / "reliability.png").exists()
    paths = [str(tmp_path / "images" / f"val {i}.png") for i in range(2)]
    lines = (out.parent / "predictions.csv").read_text(encoding="utf-8-sig").splitlines()[1:3]
    for row, line in zip(Predictor(checkpoint, tta=["flip"])(paths), lines, strict=True):
        shown = dict(zip(row.names, row.probabilities, strict=True))
        wanted = [float(cell) for cell in line.split(",")[-3:]]
        assert [shown[name] for name in ("red", "green", "blue")] == pytest.approx(wanted, abs=2e-6)
    sizes = tmp_path / "sizes.json"
    done = invoke("eval", "--weights", checkpoint, "--sizes", "32", "--out", sizes)
    assert done.returncode == 0 and json.loads(sizes.read_text())["sizes"][0]["map"] > 0


def test_features_have_their_labels_and_probes_are_refused(checkpoint, invoke, tmp_path):
    out = tmp_path / "f.safetensors"
    done = invoke("features", "--weights", checkpoint, "--split", "train", "--out", out)
    assert done.returncode == 0, done.stderr
    labels = FeatureBank.read(out).labels
    assert labels.dtype == np.uint8 and labels[:6].tolist() == [[i & 1, i >> 1 & 1, i >> 2] for i in range(6)]
    done = invoke("probe", "--weights", checkpoint)
    assert done.returncode == 2 and "one class for each item, and the train data have none" in done.stderr
