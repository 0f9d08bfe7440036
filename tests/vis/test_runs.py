"""`passl-sot compare`: a real run beside planted ones, still training, broken, or of another task."""

import csv
import json
import math
import re
import shutil
from html import unescape
from pathlib import Path

import pytest

from passl_sot import cli
from passl_sot.engine.pictures import epochs_at
from passl_sot.engine.run_dir import RunFolder
from passl_sot.utils.figure import drawable
from passl_sot.vis.runs import differing, draw_curves, figures_of, read_runs


@pytest.fixture(scope="module")
def trained_run(write_experiment, tmp_path_factory) -> Path:
    """The folder of a real run of two epochs."""
    config = write_experiment(tmp_path_factory.mktemp("run"))
    assert cli.train(["-c", str(config), "-q"]) == 0
    return config.parent / "output" / "run"


def planted(folder: Path, scores, *, name="top1", before=None, epochs=3, config="") -> Path:
    """A run's folder with ten updates in each epoch, and an evaluation at the end of each."""
    folder.mkdir(parents=True)
    rows = []
    for epoch, score in enumerate(scores, 1):
        place = {"epoch": epoch, "time": 60.0 * epoch}
        for step in (1, 5, 10):
            values = {"loss": 1.0 / epoch, "lr": 0.1, "images_per_s": 20.0, "memory_gb": 1.5}
            rows.append({"kind": "train", "step": 10 * (epoch - 1) + step, **place, **values})
        for kind, value in (("val_raw", score), ("val_ema", score - 1)):
            values = {**(before or {}), name: value, "loss": 2.0 / epoch}
            rows.append({"kind": kind, "step": 10 * epoch, **place, **values})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(
        f"epochs: {epochs}\nseed: 1\noutput_dir: {folder}\n{config}", encoding="utf-8"
    )
    (folder / "run.json").write_text(json.dumps({"version": "1", "processes": 2, "overrides": ["seed=1"]}))
    return folder


def test_a_real_run_beside_others(trained_run, invoke, tmp_path, browser, requested):
    longer = planted(
        tmp_path / "猫" / "run", [50, 70, 60, 65], epochs=9, config="loss: {name: A, weight: 1e-5}\n"
    )
    out = tmp_path / "out"
    done = invoke("compare", trained_run, longer, "--out", out)
    assert done.returncode == 0 and "index.html" in done.stdout, done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.png",
        "index.html",
        "runs.csv",
        "runs.json",
    ]
    real, other = json.loads((out / "runs.json").read_text())["runs"]
    assert (real["status"], real["epochs done"], real["updates"], real["score"]) == (
        "complete",
        "2 of 2",
        6,
        "top1",
    )
    rows = [json.loads(line) for line in (trained_run / "metrics.jsonl").open()]
    for kind in ("raw", "ema"):
        of_kind = [row for row in rows if row["kind"] == f"val_{kind}"]
        assert real[f"last {kind}"] == of_kind[-1]["top1"] and real[f"loss {kind}"] == of_kind[-1]["loss"]
        assert real[f"best {kind}"] == max(row["top1"] for row in of_kind)
    assert re.fullmatch(r"1 x .*, \d+ cores", real["hardware"])
    wanted = {"status": "stopped", "epochs done": "4 of 9", "best raw": 70, "best raw at epoch": 2}
    wanted |= {
        "last raw": 65,
        "last ema": 64,
        "minutes": 3.0,
        "rate": 20.0,
        "rate of": "images",
        "memory (GB)": 1.5,
    }
    assert {name: other[name] for name in wanted} == wanted
    settings = json.loads((out / "runs.json").read_text())["settings"]
    assert [*settings["epochs"].values()] == ["2", "9"] and "output_dir" not in settings
    assert [*settings["loss.weight"].values()] == ["–", "1.0e-05"] and "seed" not in settings
    assert [*settings["run.processes"].values()] == ["1", "2"] and "run.version" in settings
    with (out / "runs.csv").open(encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file))
    assert [line["epochs"] for line in lines] == ["2", "9"] and lines[1]["best raw"] == "70"

    requested()
    browser.get((out / "index.html").as_uri())
    heads = [head.text for head in browser.find_elements("css selector", "h2")]
    assert heads == ["Curves", "Figures", "Time and hardware", "Settings that differ"]
    assert "猫" in browser.find_element("css selector", "table").text
    assert browser.execute_script("return document.images[0].naturalWidth") > 1000
    assert not [url for url in requested() if not url.startswith(("file:", "data:"))]


def test_a_run_that_still_trains(tmp_path):
    running = RunFolder(planted(tmp_path / "a" / "run", [10, 20]))
    still = planted(tmp_path / "b" / "run", [10, 20])
    lines = (still / "metrics.jsonl").read_text().splitlines(keepends=True)
    (still / "metrics.jsonl").write_text("".join(lines[:-2]) + '{"kind": "val_r')
    empty = planted(tmp_path / "c" / "run", [])
    running.claim()
    runs = read_runs([running.path, still, empty])
    running.close()
    assert [run.name for run in runs] == ["a", "b", "c"]
    assert [figures_of(run)["status"] for run in runs] == ["training", "stopped", "stopped"]
    # A line that is being written is no fault.
    assert [run.faults for run in runs[:2]] == [[], []] and "holds no rows yet" in runs[2].faults[0]
    assert figures_of(runs[1])["epochs done"] == "1 of 3" and figures_of(runs[2])["best raw"] is None
    # The second epoch, which has no end yet, is taken to be as long as the first.
    assert epochs_at(runs[1].rows, [1, 5, 10, 15, 20]) == pytest.approx([0.1, 0.5, 1, 1.5, 2])
    assert all(map(math.isnan, epochs_at(runs[1].rows[:2], [1, 5])))
    loss = draw_curves(runs).axes[0]
    assert max(loss.get_lines()[3].get_xdata()) == pytest.approx(2)


def test_what_is_broken_is_named(tmp_path, invoke):
    a, b, c = (planted(tmp_path / name, [10, 20]) for name in "abc")
    lines = (a / "metrics.jsonl").read_text().splitlines()
    lines[6] = '{"kind": "train", "step": 11, "epoch": 2, "loss": "low"}'
    (a / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (b / "config.yaml").write_text("epochs: [1\n")
    (c / "run.json").unlink()
    done = invoke("compare", a, b, c, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    page = unescape((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    for said in (
        f"{a}/metrics.jsonl:7: is no row",
        f"{b}/config.yaml: its settings",
        f"{c}/run.json: versions",
    ):
        assert said in done.stdout and said in page
    runs = json.loads((tmp_path / "out" / "runs.json").read_text())["runs"]
    assert [run["epochs done"] for run in runs] == ["1 of 3", "2 of ?", "2 of 3"]
    assert [run["status"] for run in runs] == ["stopped", "unknown", "stopped"]
    shutil.rmtree(tmp_path / "out")
    done = invoke("compare", a, a, tmp_path / "none", b / "run.json", "--out", tmp_path / "out")
    assert done.returncode == 2 and f"{a} is named twice" in done.stderr
    for wrong in (tmp_path / "none", b / "run.json"):
        assert f"{wrong} holds no metrics.jsonl: name the folder of a run" in done.stderr
    assert "不是训练输出目录" in done.stderr and not [*tmp_path.glob("out/*")]


def test_several_tasks_and_many_runs(tmp_path):
    of_texts = {"name": "matthews", "before": {"accuracy": 90.0}}
    texts = planted(tmp_path / "texts", [1, 2], config="task: {score: matthews}\n", **of_texts)
    lists = planted(tmp_path / "lists", [1, 2], name="map")
    runs = read_runs([texts, lists])
    assert [run.score for run in runs] == ["matthews", "map"]
    panels = [axes.get_ylabel() for axes in draw_curves(runs).axes[::2]]
    assert panels == ["loss", "matthews", "map", "learning rate"]
    assert differing(runs)["task.score"] == ["matthews", "–"]

    many = [planted(tmp_path / f"{i:02} {'很长的名字 long $x$' * 2}", [i, 2 * i]) for i in range(30)]
    figure = draw_curves(read_runs(many))
    figure.draw_without_rendering()
    names = figure.legends[1]
    box = names.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 > figure.axes[0].bbox.y1
    assert len({tuple(line.get_color()) for line in names.get_lines()}) == 30
    (wanted,), _ = drawable(["00 很长的名字 long $x$"])  # with "?" where this machine has no Chinese font
    assert names.get_texts()[0].get_text().startswith(wanted)
