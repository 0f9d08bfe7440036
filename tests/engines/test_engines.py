"""Engines by their real packages: the same rows, precisions, threads, faults, memory."""

import gc
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from passl_sot import Predictor
from passl_sot.engines import ENGINES, EngineError, open_engine
from passl_sot.engines.base import COMPUTES_IN, FILES, STEM
from passl_sot.export import folder as writers
from passl_sot.export.card import ExportError
from passl_sot.launch.cpu_env import usable_cores
from passl_sot.utils.require import MissingExtraError
from passl_sot.utils.silence import silenced

HAS_BF16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def inputs(batch: int = 3) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, 3, 32, 32), np.float32)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_rows_from_every_engine(trained, engine, capfd):
    wanted = Predictor(trained.checkpoint)(trained.images)
    capfd.readouterr()
    predictor = Predictor(trained.folder, engine=engine, batch_size=4)
    assert predictor.engine.name == engine
    for row, right in zip(predictor(trained.images), wanted, strict=True):
        assert (row.path, row.classes, row.names) == (right.path, right.classes, right.names)
        assert row.probabilities == pytest.approx(right.probabilities, abs=2e-5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_same_views_of_images(trained, engine):
    wanted = Predictor(trained.checkpoint, tta=["flip"])(trained.images)
    plain = Predictor(trained.checkpoint)(trained.images)
    found = Predictor(trained.folder, engine=engine, tta=["flip"])(trained.images)
    for row, right, other in zip(found, wanted, plain, strict=True):
        assert row.probabilities == pytest.approx(right.probabilities, abs=1e-5)
        assert row.probabilities != pytest.approx(other.probabilities, abs=1e-5)


def test_engines_report_nothing_to_their_makers(trained, tmp_path):
    """By default they keep a number of this machine in the user's folder, to send with their reports."""
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    for name in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY", "CI"):
        environment.pop(name, None)
    code = "from pathlib import Path\n"
    code += "from passl_sot.engines import onnxruntime_engine as a, openvino_engine as b\n"
    code += f"[engine.make(Path({str(trained.folder)!r}), 'f32', 1, None) for engine in (a, b)]"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not (tmp_path / ".cache" / "Microsoft").exists() and not (tmp_path / "intel").exists()


@pytest.mark.parametrize("engine", [name for name in ENGINES if "bf16" in COMPUTES_IN[name]])
def test_numbers_of_a_precision(trained, engine):
    """float32 is float32 where the processor has faster numbers, and bfloat16 is something else."""
    right = open_engine("paddle", trained.folder)(inputs())
    scale = abs(right).max()
    exact = open_engine(engine, trained.folder)(inputs())
    assert abs(exact - right).max() < 1e-5 * scale
    if not HAS_BF16:
        pytest.skip("this processor has no bfloat16")
    coarse = open_engine(engine, trained.folder, precision="bf16")(inputs())
    assert 1e-4 * scale < abs(coarse - right).max() < 0.1 * scale


def test_what_an_engine_cannot_do_is_one_message(trained, monkeypatch):
    faults = {
        (
            "tensorrt",
            "f32",
        ): "no engine 'tensorrt': choose among auto, paddle, inference, onnxruntime, openvino",
        ("paddle", "f16"): "no precision 'f16': choose among f32, bf16, int8",
        ("paddle", "bf16"): "paddle computes in f32 alone: for bf16 choose inference or openvino",
        ("onnxruntime", "bf16"): "onnxruntime computes in f32 and int8 alone",
    }
    for (engine, precision), words in faults.items():
        with pytest.raises(EngineError, match=words):
            Predictor(trained.checkpoint, engine=engine, precision=precision)
    with pytest.raises(EngineError, match="was exported in f32, not in int8"):
        Predictor(trained.folder, engine="openvino", precision="int8")
    with pytest.raises(EngineError, match="is one file of an exported model: name its folder"):
        Predictor(trained.folder / "inference.onnx")
    with pytest.raises(EngineError, match="`passl-sot export --precision int8` makes int8 of it"):
        Predictor(trained.checkpoint, engine="openvino", precision="int8")
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(
            MissingExtraError, match=rf"needs {name}: run `pip install 'passl_sot\[export\]'`"
        ):
            Predictor(trained.checkpoint, engine=name)


@pytest.mark.parametrize("engine", ENGINES)
def test_files_that_are_missing_or_damaged(trained, tmp_path, engine):
    for number, name in enumerate(FILES[engine]):
        folder = tmp_path / str(number)
        shutil.copytree(trained.folder, folder)
        os.truncate(folder / name, (folder / name).stat().st_size // 2)
        with pytest.raises(EngineError, match=rf"{engine} can't read .*{name}.* of {folder}: export it anew"):
            open_engine(engine, folder)
        with pytest.raises(ExportError, match=rf"{name} is not the file that was exported"):
            Predictor(folder, engine=engine)
        (folder / name).unlink()
        with pytest.raises(EngineError, match=f"{folder} has no {name}, which {engine} reads"):
            Predictor(folder, engine=engine)


@pytest.mark.parametrize("engine", ["paddle", "inference"])
def test_programs_that_read_other_files_are_not_run(trained, tmp_path, engine):
    folder = shutil.copytree(trained.folder, tmp_path / "copy")
    path = folder / "inference.json"
    program = json.loads(path.read_text())
    (block,) = program["program"]["regions"][0]["blocks"]
    kind = {"#": "0.t_dtensor", "D": [{"#": "0.t_ui8"}, [-1], "NCHW", [], 0]}
    attributes = [
        {"AT": {"#": "0.a_str", "D": "/etc/hostname"}, "N": "filename"},
        {"AT": {"#": "1.a_dtype", "D": "uint8"}, "N": "dtype"},
        {"AT": {"#": "1.a_place", "D": [1, 0, ""]}, "N": "place"},
    ]
    output = [{"%": 99_999, "TT": kind}]
    block["ops"][-1]["I"] = [{"%": 99_999}]
    block["ops"][-1]["O"][0]["TT"] = kind
    block["ops"].insert(-1, {"#": "1.read_file", "A": attributes, "I": [], "O": output, "OA": []})
    path.write_text(json.dumps(program))
    with pytest.raises(EngineError, match=r"inference\.json is refused: its operator read_file reads or"):
        open_engine(engine, folder)


@pytest.mark.parametrize("engine", ENGINES)
def test_inputs_of_another_shape(trained, engine):
    opened = open_engine(engine, trained.folder)
    # Three gray images have as many numbers as one in colour.
    for shape in ((3, 1, 32, 32), (2, 3, 32, 40), (3, 32, 32)):
        with pytest.raises(EngineError, match=r"the model takes \[\?, 3, 32, 32\], not \[" + str(shape[0])):
            opened(np.zeros(shape, np.float32))


def test_a_batch_to_be_fastest_at(trained):
    for engine in ENGINES:
        opened = open_engine(engine, trained.folder, batch=3)
        for size in (2, 3, 3, 4):
            wanted = open_engine("paddle", trained.folder)(inputs(size))
            assert abs(opened(inputs(size)) - wanted).max() < 1e-5 * abs(wanted).max(), engine


def test_threads_share_a_predictor(trained):
    for engine in ENGINES:
        opened = open_engine(engine, trained.folder)
        batches = [inputs(1 + number % 5) for number in range(40)]
        wanted = [opened(batch) for batch in batches[:5]]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(opened, batches))
        for number, output in enumerate(found):
            assert output == pytest.approx(wanted[number % 5], abs=1e-5), engine
    predictor = Predictor(trained.folder, engine="openvino")
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(predictor, trained.images * 3))
    assert [row.names for (row,) in rows] == [row.names for row in predictor(trained.images)] * 3


class Wide(nn.Layer):
    """Twelve megabytes of weights, and little to compute."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(768, 4096)

    def forward(self, image):
        return self.linear(image.flatten(1))


def resident() -> float:
    """Megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_engines_leave_no_memory_behind(tmp_path):
    model = Wide()
    model.eval()
    stem = str(tmp_path / STEM)
    paddle.jit.save(model, stem, input_spec=[paddle.static.InputSpec([None, 3, 16, 16], "float32", "image")])
    with silenced():
        writers.write_onnx(stem)
        writers._write_openvino(stem)
    images = np.zeros((2, 3, 16, 16), np.float32)
    for engine in ENGINES:
        before = 0.0
        for number in range(10):
            opened = open_engine(engine, tmp_path)
            opened(images)
            del opened
            gc.collect()
            if number == 4:
                before = resident()
        assert resident() - before < 40, engine  # five times the weights are 63


def test_threads_are_those_that_may_be_used(tmp_path):
    def threads(*words: str, **variables: str) -> int:
        code = "from passl_sot.launch.cpu_env import usable_threads; print(usable_threads())"
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        command = [*words, sys.executable, "-c", code]
        done = subprocess.run(
            command, env={**environment, **variables}, check=True, capture_output=True, text=True
        )
        return int(done.stdout)

    first = str(min(os.sched_getaffinity(0)))
    assert threads() == usable_cores()
    assert threads("taskset", "-c", first) == 1
    assert threads(OMP_NUM_THREADS="1") == 1
    assert threads(OMP_NUM_THREADS="many") == threads(OMP_NUM_THREADS="999") == usable_cores()
    quota = tmp_path / "cpu.max"
    for text, cores in {"max 100000": usable_cores(), "100000 100000": 1, "50000 100000": 1}.items():
        quota.write_text(text)
        assert usable_cores(str(quota)) == cores
