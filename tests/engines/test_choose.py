"""`auto`, and the cache of exported models, with real engines in real processes."""

import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from passl_sot import Predictor
from passl_sot.engines.base import EngineError
from passl_sot.engines.choose import choose_engine, fastest
from passl_sot.export.cached import LIMIT
from passl_sot.utils.environment import EnvironmentVariableError
from passl_sot.utils.logger import get_logger
from passl_sot.weights.checkpoint import CheckpointError


@pytest.fixture
def lines(caplog):
    """Texts of log lines so far."""
    log = get_logger()
    log.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, log.name)
    yield lambda: [record.getMessage() for record in caplog.records]
    log.removeHandler(caplog.handler)


def test_it_is_measured_once_and_remembered(trained, home, lines):
    first = choose_engine(trained.folder, batches=(1, 2))
    said = lines()
    assert [line.startswith("auto: measuring paddle, inference, onnxruntime, openvino") for line in said] == [
        True,
        False,
    ]
    assert said[1].startswith(f"auto: {first} (f32, threads: ")
    assert all(f"{name} " in said[1] for name in ("paddle", "inference", "onnxruntime", "openvino"))
    assert choose_engine(trained.folder, batches=(1, 2)) == first
    assert lines()[2:] == said[1:]
    (file,) = (home / "engines").glob("*.json")
    found = json.loads(file.read_text())
    assert found["refused"] == {}
    assert all(set(times) == {"1", "2"} for times in found["milliseconds"].values())
    # That is what a predictor asks too.
    assert Predictor(trained.folder, engine="auto", batch_size=2).engine.name == first
    assert sum("measuring" in line for line in lines()) == 1


@pytest.fixture
def one_engine(trained, tmp_path):
    """A folder for OpenVINO alone, which starts quickly."""
    folder = tmp_path / "one"
    shutil.copytree(trained.folder, folder)
    for name in ("inference.json", "inference.pdiparams", "inference.onnx"):
        (folder / name).unlink()
    return folder


def test_an_answer_that_was_cut_off_is_found_again(one_engine, home, lines):
    assert choose_engine(one_engine, batches=(1,)) == "openvino"
    (file,) = (home / "engines").glob("*.json")
    for number, spoiled in enumerate((file.read_text()[:20], '{"engine": "openvino", "refused": {}}')):
        file.write_text(spoiled)
        assert choose_engine(one_engine, batches=(1,)) == "openvino"
        assert sum("measuring" in line for line in lines()) == number + 2
    assert json.loads(file.read_text())["engine"] == "openvino"


def test_wrong_and_broken_engines_are_named_and_never_chosen(trained, tmp_path, lines):
    folder = tmp_path / "folder"
    shutil.copytree(trained.folder, folder)
    graph = onnx.load(folder / "inference.onnx")
    largest = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    changed = np.float32(1.1) * onnx.numpy_helper.to_array(largest)
    largest.CopyFrom(onnx.numpy_helper.from_array(changed, largest.name))
    onnx.save(graph, folder / "inference.onnx")
    (folder / "inference.bin").write_bytes(b"")
    assert choose_engine(folder, batches=(1,)) in ("paddle", "inference")
    assert "onnxruntime (gives other numbers than Paddle: they differ by" in lines()[-1]
    assert "openvino (openvino can't read inference.xml or inference.bin" in lines()[-1]
    for name in ("inference.json", "inference.onnx"):
        (folder / name).unlink()
    with pytest.raises(EngineError, match=r"no engine computes .* in f32: openvino \(openvino can't read"):
        choose_engine(folder, batches=(1,))
    with pytest.raises(
        EngineError, match="has no files for an engine that is installed and computes in int8"
    ):
        shutil.rmtree(folder)
        choose_engine(folder, precision="int8")


def test_near_ties_do_not_flip():
    base = {1: 0.010, 8: 0.070}
    slower = {1: 0.0104, 8: 0.072}
    assert fastest({"openvino": base, "inference": slower}) == "inference"
    assert fastest({"inference": base, "openvino": slower}) == "inference"
    assert fastest({"openvino": base, "paddle": {1: 0.011, 8: 0.080}}) == "openvino"
    assert fastest({}) == ""


def test_processes_export_a_checkpoint_once(trained, home):
    code = (
        "import sys; from passl_sot import Predictor; "
        "p = Predictor(sys.argv[1], engine='inference'); print(p(sys.argv[2])[0].names)"
    )
    command = [sys.executable, "-c", code, str(trained.checkpoint), trained.images[0]]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sum(text.count("exporting the model") for text in said) == 1
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]
    assert len([path for path in (home / "exports").iterdir() if path.name != ".lock"]) == 1


def test_the_cache_has_a_limit_and_keeps_nothing_half_written(trained, home, monkeypatch):
    Predictor(trained.checkpoint, engine="inference", prefer="raw")
    monkeypatch.setenv(LIMIT, "0")
    left = home / "exports" / ".killed.tmp"
    left.mkdir()
    Predictor(trained.checkpoint, engine="inference", prefer="ema")
    assert not left.exists()
    (kept,) = (path for path in (home / "exports").iterdir() if path.is_dir())
    before = (kept / "inference.json").stat().st_mtime_ns
    Predictor(trained.checkpoint, engine="inference", prefer="ema")
    assert (kept / "inference.json").stat().st_mtime_ns == before
    for nonsense in ("much", "nan", "-1"):
        monkeypatch.setenv(LIMIT, nonsense)
        with pytest.raises(
            EnvironmentVariableError, match="PASSL_SOT_CACHE_GB: must be a number of gigabytes"
        ):
            Predictor(trained.checkpoint, engine="inference")
    monkeypatch.delenv(LIMIT)
    # Damaged behind its back: numbers that are a little wrong would not show.
    weights = kept / "inference.pdiparams"
    right = weights.read_bytes()
    weights.write_bytes(bytes([right[0], *right[1:-1], right[-1] ^ 1]))
    Predictor(trained.checkpoint, engine="inference", prefer="ema")
    assert weights.read_bytes() == right


def test_a_home_that_cannot_be_written_to(trained, one_engine, home, lines):
    home.write_text("a file")
    with pytest.raises(
        CheckpointError, match="name a folder for exported models with the environment variable PASSL"
    ):
        Predictor(trained.checkpoint, engine="inference")
    assert choose_engine(one_engine, batches=(1,)) == "openvino"
    assert any("set PASSL_SOT_HOME to a folder" in line for line in lines())
