"""The resolution curve beside predictions at another size; sizes that a model can't take; the files."""

import csv
import json
import struct

import numpy as np
import pytest

from passl_sot.export.source import change_size
from passl_sot.tasks.base import load_trained, task_of


def test_scores_are_those_of_the_model_at_each_size(small, invoke, tmp_path):
    out = tmp_path / "sizes.json"
    done = invoke("eval", "--weights", small.checkpoint, "--sizes", "64,32,5", "--out", out)
    assert done.returncode == 0, done.stderr
    large, own, none = json.loads(out.read_text())["sizes"]
    # The last of several sizes is computed by tables that come from the trained ones, not from others.
    plain = tmp_path / "plain" / "metrics.json"
    assert invoke("eval", "--weights", small.checkpoint, "--out", plain).returncode == 0
    report = json.loads(plain.read_text())["raw"]
    assert {key: own[key] for key in report} == report and own["images_per_s"] > 0
    assert "5" in none["error"] and "top1" not in none
    model, meta = load_trained(small.checkpoint)
    sized = change_size(model, meta, 64)
    task = task_of(sized)
    logits = []
    for label, paths in enumerate(small.val):
        for path in paths:
            image = task.read(path)["image"]
            assert image.shape == (3, 64, 64)
            row = model(__import__("paddle").to_tensor(image[None])).numpy()[0].astype(np.float64)
            logits.append(row[label] - np.log(np.exp(row).sum()))
    assert large["loss"] == pytest.approx(-np.mean(logits), rel=1e-5) and large["loss"] != own["loss"]
    with (tmp_path / "sizes.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["size"] for row in rows] == ["64", "32", "5"] and rows[2]["error"] and not rows[2]["top1"]
    data = (tmp_path / "sizes.png").read_bytes()
    assert struct.unpack(">II", data[16:24])[0] == 800
    assert "| size |" in done.stdout and str(tmp_path / "sizes.png") in done.stdout


def test_texts_have_no_sizes(small_text, small, invoke):
    done = invoke("eval", "--weights", small_text.checkpoint, "--sizes", "32")
    assert done.returncode == 2 and "takes no images" in done.stderr
    for words in ("0", "many"):
        assert invoke("eval", "--weights", small.checkpoint, "--sizes", words).returncode == 2
