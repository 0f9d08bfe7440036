"""The command: what it writes, what it says, and that the folder predicts as the checkpoint does."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from passl_sot import Predictor
from passl_sot.engines import ENGINES
from passl_sot.export.card import read_facts
from passl_sot.weights.checkpoint import read_weights


def test_every_engine_gives_the_rows_of_the_checkpoint(trained):
    images = str(trained.config.parent / "val")
    wanted = Predictor(trained.checkpoint)(images)
    assert len({row.names[0] for row in wanted}) > 1  # not one answer for all
    for engine in ENGINES:
        rows = Predictor(trained.folder, engine=engine)(images)
        assert [row.names for row in rows] == [row.names for row in wanted]
        for row, known in zip(rows, wanted, strict=True):
            assert row.probabilities == pytest.approx(known.probabilities, abs=1e-5)


def test_it_says_how_exact_each_engine_is_and_shows_nothing_of_theirs(trained, invoke, tmp_path):
    folder = tmp_path / "导出 1"
    result = invoke("export", "--weights", trained.checkpoint, "--out", folder, "--formats", "onnx")
    assert result.returncode == 0
    assert result.stderr == ""
    first, said, last = result.stdout.splitlines()
    assert "writing onnx and comparing" in first
    assert "onnxruntime: outputs differ from the model's by at most" in said
    assert f"exported to {folder}; greatest difference of a logit" in last
    assert {path.name for path in folder.iterdir()} == {"inference.onnx", "inference.yml", "labels.txt"}
    assert list(tmp_path.iterdir()) == [folder]
    # Again into the same folder, which is replaced whole; another's files never are.
    again = ("export", "--weights", trained.checkpoint, "--out", folder, "--formats", "paddle")
    (folder / "notes.txt").write_text("mine")
    refused = invoke(*again)
    assert (refused.returncode, "also holds notes.txt" in refused.stderr) == (2, True)
    (folder / "notes.txt").unlink()
    assert invoke(*again, "-q").returncode == 0
    assert not (folder / "inference.onnx").exists()
    assert set(read_facts(folder)["differences"]) == {"paddle", "inference"}


def test_bare_weights_bring_config_size_and_names_by_options(trained, invoke, tmp_path):
    arrays = read_weights(trained.checkpoint)[0]
    save_file(arrays, tmp_path / "bare.safetensors")
    (tmp_path / "names.txt").write_text("0 red\n1 绿\n2 blue\n", encoding="utf-8")
    words = ["-c", trained.config, "--weights", tmp_path / "bare.safetensors", "--formats", "paddle"]
    result = invoke(
        "export", *words, "--img-size", 40, "--labels", tmp_path / "names.txt", "--out", tmp_path / "out"
    )
    assert (result.returncode, result.stderr) == (0, "")
    predictor = Predictor(tmp_path / "out", engine="inference")
    assert predictor.class_names == ["red", "绿", "blue"]
    assert predictor.read(np.zeros((60, 70, 3), np.uint8))["image"].shape == (3, 40, 40)
    assert len(predictor(str(trained.config.parent / "val"))) == 9


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "--weights"),
        (["--weights", "{checkpoint}", "-c", "sot_digits"], "has its own config: leave out -c"),
        (["--weights", "{checkpoint}", "-o", "epochs=1"], "-o changes a config: name one with -c"),
        (["--weights", "{checkpoint}", "--formats", "onnx,tflite"], "there is no format 'tflite'"),
        (["--weights", "{checkpoint}", "--img-size", "0"], "--img-size must be at least 1"),
        (["--weights", "nowhere"], "no checkpoint nowhere"),
        (["--weights", "{checkpoint}", "--labels", "{checkpoint}"], "is no UTF-8 text"),
    ],
)
def test_what_cannot_be_exported_is_refused_at_once(words, complaint, trained, invoke, tmp_path):
    words = [word.format(checkpoint=trained.checkpoint) for word in words]
    result = invoke("export", *words, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert complaint in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_error_that_names_the_extra(trained, invoke, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "paddle2onnx" else True)
    result = invoke("export", "--weights", trained.checkpoint, "--out", tmp_path / "out")
    assert "the format onnx needs paddle2onnx: run `pip install 'passl_sot[export]'`" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_files_is_left_alone(trained, invoke):
    result = invoke("export", "--weights", trained.checkpoint, "--out", trained.checkpoint.parent)
    assert "isn't empty and holds no export that could be replaced" in result.stderr
    assert trained.checkpoint.exists()
