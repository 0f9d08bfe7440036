"""`benchmark --engine`: a table of real engines in real processes; and the script of the published table."""

import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from passl_sot.cli import benchmark, predict
from passl_sot.engine.schema import load_config
from passl_sot.engines import open_engine

ROOT = Path(__file__).parents[2]
PEER = "import sys; print('ready', flush=True); [print(0.5, flush=True) for _ in sys.stdin]"


def test_a_row_for_each_engine_and_precision(trained, capfd):
    words = ["--engine", "eager,openvino,onnxruntime", "--precision", "f32,bf16", "--batch", "1,4"]
    assert benchmark(["-c", str(trained.config), *words, "--repeats", "2", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    rows = {(row["engine"], row["precision"]): row for row in result["rows"]}
    wanted = {("eager", "f32"), ("openvino", "f32"), ("onnxruntime", "f32"), ("openvino", "bf16")}
    reasons = {name: reason for name, reason in result["refused"].items() if "on this processor" in reason}
    assert {*rows, *(tuple(name.split()) for name in reasons)} == wanted
    for (engine, precision), row in rows.items():
        assert set(row["images_per_s"]) == {"1", "4"}
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
        best = max(row["images_per_s"].values())
        peak = result["peak_gflops_per_s"][precision]
        assert row["fraction_of_peak"] == pytest.approx(best * result["gflops"] / peak)
        assert row["ratio"] is None
        if engine != "eager":
            assert 0 < row["difference"] < {"f32": 1e-4, "bf16": 0.1}[precision]
    # Each has a process of its own, and only one of them holds Paddle.
    memory = {engine: rows[engine, "f32"]["memory_gb"] for engine in ("eager", "openvino", "onnxruntime")}
    assert memory["eager"] > memory["openvino"] > 0.02 and memory["eager"] > memory["onnxruntime"] > 0.02


def test_a_folder_beside_another_program(trained, capfd):
    words = ["--engine", "onnxruntime", "--batch", "4", "--repeats", "1"]
    peer = shlex.join([sys.executable, "-c", PEER])
    assert benchmark(["--weights", str(trained.folder), *words, "--compare", peer]) == 0
    heads, _, row = [line for line in capfd.readouterr().out.splitlines() if line.startswith("|")]
    cells = dict(
        zip(*([cell.strip() for cell in line.split("|")[1:-1]] for line in (heads, row)), strict=True)
    )
    assert cells["engine"] == "onnxruntime"
    assert float(cells["ratio"]) == pytest.approx(0.5 / 4 * float(cells["images/s at 4"]), rel=0.1)
    for wrong, said in {
        ("--engine", "tensorrt"): "there is no 'tensorrt': choose among eager, paddle, inference",
        ("--engine", "all", "--precision", "f16"): "there is no 'f16': choose among f32, bf16, int8",
        ("--engine", "all", "--mode", "train"): "--engine: goes with --mode infer",
        ("--engine", "all", "--batch", "1,8", "--compare", "x"): "--compare: goes with one --batch",
        ("--batch", "1,8"): "go with --engine",
        ("--batch", "1,x"): "no number, or several as 1,8: '1,x'",
        ("--batch", ","): "nothing is named",
    }.items():
        with pytest.raises(SystemExit):
            benchmark(["-c", str(trained.config), *wrong])
        assert said in capfd.readouterr().err
    assert benchmark(["--weights", str(trained.folder), "--engine", "eager"]) == 2
    assert "no engine can compute it" in capfd.readouterr().err


def test_the_commands_of_prediction(trained, capfd):
    """The same lines from a checkpoint, from a folder by an engine, and with few digits in bfloat16."""
    images = trained.images[:3]
    assert predict(["--weights", str(trained.checkpoint), *images]) == 0
    wanted = capfd.readouterr().out
    assert predict(["--weights", str(trained.folder), "--engine", "onnxruntime", *images]) == 0
    names = [line.split("  ")[:2] for line in wanted.splitlines()]
    assert [line.split("  ")[:2] for line in capfd.readouterr().out.splitlines()] == names
    assert predict(["--weights", str(trained.folder), "--precision", "bf16", *images]) == 2
    assert "paddle computes in f32 alone: for bf16 choose inference or openvino" in capfd.readouterr().err
    assert predict(["--weights", str(trained.folder)]) == 2
    assert "is an exported folder, which has no data" in capfd.readouterr().err


def test_the_script_of_the_table(trained, load_file, monkeypatch, capsys):
    table = load_file(ROOT / "docs" / "results" / "engines.py")
    # Two of its six columns.
    monkeypatch.setattr(table, "COLUMNS", (("eager", "f32"), ("inference", "f32")))
    cores = os.sched_getaffinity(0)
    try:
        table.main([str(trained.config), "--batch", "2", "--repeats", "1"])
    finally:
        os.sched_setaffinity(0, cores)
    facts, _, heads, _, row = capsys.readouterr().out.splitlines()
    assert "one core; paddlepaddle " in facts and "batches of 2, medians of 1. A matrix product: " in facts
    names = [cell.strip() for cell in heads.split("|")[1:-1]]
    assert names == ["model", "GFLOPs", "eager f32", "inference f32", "V100, published"]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[0] == "`run`" and cells[-1] == "-"
    assert all(float(cell) > 0 for cell in cells[2:4])


def test_the_graphs_that_are_set_beside_official_ones(trained, load_file, tmp_path):
    reach = load_file(ROOT / "docs" / "results" / "reach.py")
    reach.export(str(trained.config), tmp_path)
    whole = tmp_path / "ours" / "inference.bin"
    quantized = tmp_path / "int8" / "inference.bin"
    assert quantized.stat().st_size < whole.stat().st_size / 2
    backbone = load_config(trained.config).model.build().backbone
    noise = reach.Noise([backbone.in_chans, *backbone.img_size])
    images = np.stack([noise.sample((0, i))["image"] for i in range(len(noise))])
    wanted = open_engine("openvino", whole.parent)(images)
    found = open_engine("openvino", quantized.parent, precision="int8")(images)
    assert 0 < np.abs(found - wanted).max() < 0.3 * np.abs(wanted).max()
    before = quantized.stat().st_mtime_ns
    reach.export(str(trained.config), tmp_path)  # what is there stays
    assert quantized.stat().st_mtime_ns == before
