"""The training study of docs/results: its scripts run at a tiny size, and its pages show their results."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "results" / "study.py"
PAGE = SCRIPT.with_name("README.md")
HEADS = ("ClassT", "WordT", "ClassT+WordT")


def load_script(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        spec.loader.exec_module(module)
    return module


study = load_script(SCRIPT)
seeing = load_script(SCRIPT.with_name("seeing.py"))
comparison = sys.modules["comparison"]


@pytest.fixture
def arguments(experiment, tmp_path) -> list[str]:
    """Three classes stand for CIFAR-10: 12 training images of 24, 6 validation images of 9."""
    tiny = ["--seeds", "7", "--train-per-class", "4", "--val-per-class", "2"]
    overrides = ["epochs=1", "lr_scheduler.warmup_epochs=0", "dataloader.train.sampler.batch_size=12"]
    return ["--data", str(experiment.parent), "--out", str(tmp_path / "study"), *tiny, "-o", *overrides]


@pytest.mark.slow
def test_the_script_at_a_tiny_size(arguments, tmp_path, capsys):
    (command,) = re.findall(r"^```bash\n(python .+? --data )CIFAR-10-images\n```", PAGE.read_text(), re.M)
    command += shlex.join(arguments[1:])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "CIFAR-10: 12 training and 6 validation images" in done.stdout + done.stderr

    out = tmp_path / "study"
    results = json.loads((out / "study.json").read_text())
    names = [f"{data}/{head}/7" for data in ("CIFAR-10", "digits") for head in HEADS]
    assert list(results["runs"]) == names
    sizes = results["parameters"]["CIFAR-10"]
    assert len({*sizes.values()}) == 3 and max(sizes.values()) / min(sizes.values()) < 1.03
    for name in names:
        rows = [json.loads(line) for line in (out / name / "study" / "metrics.jsonl").open()]
        (val,) = (row for row in rows if row["kind"] == "val_raw")
        assert results["runs"][name]["top1"] == [round(val["top1"], 4)]
        assert results["runs"][name]["cpu_seconds"] > 0
    words = (out / "CIFAR-10" / "WordT" / "7" / "study" / "config.yaml").read_text()
    assert "class_token: false" in words and "seed: 7" in words
    table = (out / "study.md").read_text()
    for head in HEADS:
        top1 = results["runs"][f"digits/{head}/7"]["top1"][0]
        assert f"| digits | {head} | {results['parameters']['digits'][head]:,} | {top1:.2f} |" in table
    assert table.count("| unknown | one seed |") == 6
    with Image.open(out / "study.png") as picture:
        assert picture.size == (1440, 520)
        for colour in comparison.COLOURS.values():
            assert (np.asarray(picture.convert("RGB")) == ImageColor.getrgb(colour)).all(axis=-1).any()

    _check_seeing(out)

    # A run that was killed after its last epoch: its numbers are taken from its folder, the others stay.
    killed = dict(results, runs={k: v for k, v in results["runs"].items() if k != names[1]})
    (out / "study.json").write_text(json.dumps(killed))
    assert study.main(arguments) == 0
    again = json.loads((out / "study.json").read_text())["runs"]
    assert again[names[1]]["top1"] == results["runs"][names[1]]["top1"]
    assert {k: again[k] for k in killed["runs"]} == killed["runs"]

    capsys.readouterr()
    assert study.main([*arguments, "optimizer.weight_decay=0.1"]) == 2
    assert "study.json is of other settings" in capsys.readouterr().err


def _check_seeing(folder: Path) -> None:
    """The script that looks into the models of a study."""
    out = folder.parent / "seeing"
    assert seeing.main([f"--study={folder}", f"--out={out}", "--images=2", "--steps=2"]) == 0
    results = json.loads((out / "seeing.json").read_text())
    assert list(results["data"]) == ["CIFAR-10", "digits"]
    of_digits = results["runs"]["digits/7"]
    trained = json.loads((folder / "study.json").read_text())["runs"]["digits/ClassT/7"]
    assert of_digits["calibration"]["ClassT"]["top1"] == pytest.approx(trained["top1"][0], abs=1e-3)
    for method in seeing.METHODS:
        views = of_digits["views"][method]
        assert list(views) == [*HEADS, "ClassT of ClassT+WordT", "WordT of ClassT+WordT"]
        for view in views.values():
            assert -1 <= view["details"] <= 1 and 0 < view["area"] <= 1
            curve = view["insertion curve"]
            area = np.mean([*curve[:-1], *curve[1:]])
            assert len(curve) == 3 and view["insertion"] == pytest.approx(area, abs=1e-3)
    for data in results["data"]:
        for name in (f"curves_{data}.png", f"maps_{data}.jpg"):
            with Image.open(out / name) as picture:
                assert min(picture.size) > 300
    # What is there isn't computed again.
    results["runs"]["digits/7"]["calibration"]["WordT"]["ece"] = 12.34
    (out / "seeing.json").write_text(json.dumps(results))
    assert seeing.main([f"--study={folder}", f"--out={out}", "--images=2", "--steps=2"]) == 0
    assert " | 12.34 | " in seeing.tables(json.loads((out / "seeing.json").read_text()))["calibration"]


def test_measures_of_maps():
    left = np.zeros((1, 4, 4), np.float32)
    left[:, :, 0] = 1
    assert seeing.share_of_area(left)[0] == pytest.approx(0.25)
    assert seeing.share_of_area(np.ones((1, 4, 4), np.float32))[0] == pytest.approx(1)
    assert seeing.rank_correlation(left, left)[0] == pytest.approx(1)
    assert seeing.rank_correlation(left, -left)[0] == pytest.approx(-1)
    assert seeing.rank_correlation(left, np.ones_like(left))[0] == 0
    # An edge between the second and the third of four columns of cells.
    image = np.zeros((1, 3, 16, 16), np.float32)
    image[:, :, :, 8:] = 1
    details = seeing.details_of(image, (4, 4))
    assert (details[0, :, [1, 2]] > 0).all() and (details[0, :, [0, 3]] == 0).all()


def test_models_without_a_study_are_refused(tmp_path, capsys):
    assert seeing.main([f"--study={tmp_path}"]) == 2
    assert "study.json is missing: run docs/results/study.py before" in capsys.readouterr().err


def test_models_of_different_size_are_not_compared():
    with pytest.raises(study.StudyError, match=r"100 to 104 parameters, 4\.0 % apart"):
        comparison.check_equal({"ClassT": 100, "WordT": 102, "ClassT+WordT": 104})
    comparison.check_equal({"ClassT": 100, "WordT": 102, "ClassT+WordT": 103})


def test_data_without_classes_are_refused(tmp_path, capsys):
    assert study.main([f"--data={tmp_path}", f"--out={tmp_path / 'out'}"]) == 2
    assert "train holds no class folders: --data takes a folder with train/" in capsys.readouterr().err


def test_the_page_and_the_picture_show_the_results(tmp_path):
    results = json.loads(SCRIPT.with_name("study.json").read_text())
    assert len(results["runs"]) == 18
    assert comparison.tables(results) in PAGE.read_text()
    drawn = comparison.draw(results, list(results["parameters"]), study.STUDY.label)
    drawn.savefig(tmp_path / "study.png")
    with Image.open(SCRIPT.with_name("study.png")) as kept, Image.open(tmp_path / "study.png") as picture:
        # Fonts differ a little between versions of matplotlib.
        assert np.abs(np.asarray(kept, float) - np.asarray(picture, float)).mean() < 2


def test_the_page_on_seeing_shows_what_was_found():
    results = json.loads(SCRIPT.with_name("seeing.json").read_text())
    page = SCRIPT.with_name("seeing.md").read_text()
    assert results["data"] == {"CIFAR-10": [1, 2, 3], "digits": [1, 2, 3]}
    for table in seeing.tables(results).values():
        assert table in page
