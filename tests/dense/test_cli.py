"""`passl-sot dense`: what it lists, refuses and does, for files of both suites."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl_sot.config import UserError, dense_configs, find_dense_config, list_models, suite_of
from passl_sot.utils.logger import get_logger


@pytest.fixture
def dense(invoke):
    """Runs `passl-sot dense`, and leaves the logger as it was."""
    yield lambda *words: invoke("dense", *words)
    get_logger().setLevel("INFO")


def test_the_list_names_every_config_with_its_suite(dense):
    rows = json.loads(dense("list", "--json").stdout)
    assert [row["name"] for row in rows] == list(dense_configs())
    assert {row["suite"] for row in rows} == {"PaddleSeg", "PaddleDetection"}
    by_name = {row["name"]: row for row in rows}
    assert by_name["upernet_swin_tiny_ade20k"]["head"] == "UPerNet"
    assert "44.51" in by_name["upernet_swin_tiny_ade20k"]["published"]
    assert all(row["recipe"] and row["published"] for row in rows)
    table = dense("list").stdout.splitlines()
    assert len(table) == len(rows) + 2


def test_they_are_no_models():
    assert not set(dense_configs()) & set(list_models())


def test_a_config_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    path = dense_configs()["upernet_stvit_small_ade20k"]
    assert find_dense_config("upernet_stvit_small_ade20k") == path
    monkeypatch.chdir(tmp_path)  # of a path in configs/ that leads nowhere, the shipped file is meant
    assert find_dense_config("configs/dense/upernet_stvit_small_ade20k.yaml") == path
    assert find_dense_config(str(path)) == path
    with pytest.raises(UserError, match="did you mean upernet_stvit_small_ade20k"):
        find_dense_config("upernet_stvit_smal_ade20k")
    with pytest.raises(UserError, match="`passl-sot dense list` shows the"):
        find_dense_config("q")


def test_a_file_of_neither_suite_is_refused(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text("epochs: 3\n")
    with pytest.raises(UserError, match="has neither a section `model`"):
        suite_of(file)
    file.write_text("_base_: other.yaml\n")
    with pytest.raises(UserError, match="is its own base"):
        suite_of(file)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["trian"], "there is no action 'trian'; did you mean 'train'?"),
        (["train"], "name a config with -c"),
        (["eval", "-c", "x"], "dense eval needs --weights"),
        (["predict", "-c", "x", "--weights", "w"], "dense predict needs --images and --output"),
        (["train", "-c", "x", "--dry-run", "big"], "not a height and width, such as 512x512: 'big'"),
        (["train", "-c", "upernet_stvit_smal_ade20k"], "did you mean upernet_stvit_small_ade20k"),
    ],
)
def test_wrong_calls_are_one_message(words, complaint, dense):
    done = dense(*words)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["upernet_stvit_small_ade20k", "mask_rcnn_stvit_small_1x_coco"])
def test_a_missing_suite_is_one_message_with_both_commands(name, dense, monkeypatch):
    find = importlib.util.find_spec
    gone = ("paddleseg", "ppdet")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else find(name))
    done = dense("train", "-c", name, "--dry-run", "64x64")
    assert done.returncode == 2
    assert "is not installed: run" in done.stderr
    assert "pip install 'passl_sot[dense]' && pip install --no-deps paddleseg==2.8.0" in done.stderr


@pytest.mark.slow
def test_a_segmenter_from_training_to_export(write_segmentation, tmp_path, dense):
    pytest.importorskip("paddleseg", reason="PaddleSeg is not installed; passl-sot doctor says how")
    config = write_segmentation(tmp_path / "data")
    run = tmp_path / "run"
    best = run / "best_model"
    train = ("train", "-c", config, "--output", run, "-q", "-o", "iters=2")
    done = dense(*train, "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2].startswith("miou ")
    assert "is after all 2 iterations" in dense(*train, "--resume", "auto").stderr
    use = ("-c", config, "--weights", best, "-q")
    metrics = json.loads(dense("eval", *use, "--json").stdout)
    assert set(metrics) == {"miou", "accuracy"}
    done = dense("predict", *use, "--images", tmp_path / "data", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert np.asarray(Image.open(tmp_path / "out" / "val1.png")).shape == (48, 64)
    done = dense("export", *use, "--output", tmp_path / "export", "--size", "32x48")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "export" / "inference.json").is_file()


def test_a_dry_run_at_two_sizes(dense):
    pytest.importorskip("paddleseg", reason="PaddleSeg is not installed; passl-sot doctor says how")
    done = dense("train", "-c", "semantic_fpn_swin_tiny_ade20k", "--dry-run", "64x64", "37x53")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("GMACs") == 2
    assert not Path("output").joinpath("semantic_fpn_swin_tiny_ade20k").exists()


@pytest.mark.slow
def test_a_dry_run_of_a_detector(dense):
    pytest.importorskip("ppdet", reason="PaddleDetection is not installed; passl-sot doctor says how")
    done = dense("train", "-c", "mask_rcnn_swin_tiny_1x_coco", "--dry-run", "64x96")
    assert done.returncode == 0, done.stderr
    assert "parameters   47.795 M trainable" in done.stdout
