"""Commands that find config, model and data in the checkpoint: no `-c`."""

import json
import re
import shutil

import pytest

from passl_sot.data import ListFile, PackedImages
from passl_sot.weights.checkpoint import read_checkpoint, write_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory, write_experiment):
    """The folder of a finished run; its data lie three folders above."""
    from passl_sot import cli

    folder = tmp_path_factory.mktemp("trained")
    path = write_experiment(folder)
    assert cli.train(["-c", str(path), "-o", "epochs=1"]) == 0
    return folder / "output" / "run"


@pytest.fixture
def moved(trained, tmp_path):
    """The best checkpoint of a run on another machine, whose data aren't here."""
    saved = read_checkpoint(trained / "best")
    for split in ("train", "val"):
        saved.meta["config"]["dataloader"][split]["dataset"]["dataroot"] = f"/elsewhere/{split}"
    write_checkpoint(tmp_path / "best.safetensors", saved.tensors, saved.meta)
    return tmp_path / "best.safetensors"


def test_eval(trained, invoke, tmp_path):
    done = invoke("eval", "--weights", trained / "best", "--out", tmp_path / "m.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["images"] == 9 and "it differs" not in done.stdout
    done = invoke("eval", "--weights", trained / "best", "-o", "dataloader.val.sampler.batch_sizes=2")
    assert done.returncode == 2
    assert f"{trained / 'best.safetensors'}" not in done.stderr and "did you mean 'batch_size'" in done.stderr


def test_eval_on_a_folder(moved, trained, invoke, tmp_path):
    root = trained.parent.parent
    done = invoke("eval", "--weights", moved, "--data", root, "--out", tmp_path / "m.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.json").read_text())["images"] == 9
    # A folder of classes alone, from which nothing was held out: all of it.
    done = invoke("eval", "--weights", moved, "--data", root / "train", "--out", tmp_path / "m.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.json").read_text())["images"] == 24
    assert f"all images of {root}/train are evaluated" in done.stdout
    # Of a part of the classes.
    few = tmp_path / "few"
    for name in ("猫", "c"):
        shutil.copytree(root / "val" / name, few / name)
    done = invoke("eval", "--weights", moved, "--data", few, "--out", tmp_path / "m.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.json").read_text())["images"] == 6
    packed = tmp_path / "packed"
    assert invoke("make-cache", root, packed, "--tile-only", "--processes", 1).returncode == 0
    done = invoke("eval", "--weights", moved, "--data", packed, "--out", tmp_path / "m.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.json").read_text())["images"] == 9


def test_images_held_out_of_training_are_evaluated(experiment, invoke, tmp_path):
    photos = tmp_path / "train"
    done = invoke("train", "-c", experiment, "--data", photos, "-o", "epochs=1")
    assert done.returncode == 0, done.stderr
    best = tmp_path / "output" / "run" / "best"
    for more in ([], ["--data", photos]):
        done = invoke("eval", "--weights", best, *more, "--out", tmp_path / "m.json")
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "m.json").read_text())["images"] == 6
    # Of other images a user wants all: the line on the share says how.
    every = re.search(r"for all images add -o (\S+)", done.stdout)[1]
    done = invoke("eval", "--weights", best, "--data", photos, "-o", every, "--out", tmp_path / "m.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.json").read_text())["images"] == 24
    # Begun again on a folder that has both splits, it takes all of the first.
    done = invoke("train", "--pretrained", best, "--data", tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "24 training, 9 validation images" in done.stdout


def test_predict(trained, moved, invoke, tmp_path):
    done = invoke("predict", "--weights", trained / "best", "--out", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "p.json").read_text())
    assert len(rows) == 9 and all(str(trained.parent.parent / "val") in row["path"] for row in rows)
    root = trained.parent.parent
    done = invoke("predict", "--weights", moved, "--data", root, "--out", tmp_path / "q.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "q.json").read_text()) == rows
    assert invoke("make-cache", root, tmp_path / "packed", "--tile-only", "--processes", 1).returncode == 0
    done = invoke("predict", "--weights", moved, "--data", tmp_path / "packed")
    assert done.returncode == 2 and "is a packed copy, which holds no files: `eval --weights" in done.stderr
    assert invoke("predict", "--weights", moved, "--data", root, root / "val").returncode == 2


def test_dry_run(trained, invoke):
    best = trained / "best"
    for start in (["--init-from", best], ["--pretrained", best], ["--resume", best]):
        done = invoke("train", *start, "--dry-run")
        assert done.returncode == 0, done.stderr
        assert "24 training, 9 validation images, 3 classes" in done.stdout
        assert re.search(
            r"input not counted: \d+:\d\d:\d\d an epoch, \d+:\d\d:\d\d for \d+ epochs", done.stdout
        )
    done = invoke("train", "--resume", best, "--evaluate-only")
    assert done.returncode == 0, done.stderr


def test_going_on(trained, invoke, tmp_path, monkeypatch):
    """From any place: the run goes on in its own folder."""
    folder = tmp_path / "output" / "run"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(tmp_path)
    wanted = ["-o", "epochs=2", "--resume-override", "epochs"]
    done = invoke("train", "--resume", folder / "last", *wanted)
    assert done.returncode == 0, done.stderr
    assert read_checkpoint(folder / "last").meta["progress"]["epoch"] == 2
    assert f"run folder {folder}" in done.stdout


def test_benchmark(trained, moved, invoke):
    arguments = ("--batch", 2, "--repeats", 1, "--json")
    done = invoke("benchmark", "--weights", moved, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["batch"] == 2
    done = invoke("benchmark", "--weights", moved, "--mode", "data", *arguments)
    assert done.returncode == 2 and "--data DIR" in done.stderr
    done = invoke(
        "benchmark", "--weights", moved, "--data", trained.parent.parent, "--mode", "data", *arguments
    )
    assert done.returncode == 0, done.stderr
    assert "one core (images/s)" in json.loads(done.stdout)


@pytest.mark.parametrize(
    "command", [("eval", "--weights"), ("predict", "--weights"), ("train", "--dry-run", "--init-from")]
)
def test_data_of_another_machine(moved, invoke, command):
    done = invoke(*command, moved)
    assert done.returncode == 2
    assert "was trained on data in /elsewhere/" in done.stderr
    assert "isn't here: name a folder of the same classes with --data DIR" in done.stderr
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr


def test_what_holds_no_config(trained, invoke, tmp_path):
    import paddle

    paddle.save({"x": paddle.zeros([1])}, str(tmp_path / "bare.pdparams"))
    for weights in (tmp_path / "bare.pdparams", tmp_path / "bare"):
        done = invoke("eval", "--weights", weights)
        assert done.returncode == 2 and "is no checkpoint" in done.stderr and "with -c" in done.stderr
    done = invoke("eval", "--weights", tmp_path / "none")
    assert done.returncode == 2 and "no checkpoint" in done.stderr
    for arguments in (["train"], ["train", "--resume", "auto"], ["benchmark"]):
        done = invoke(*arguments)
        assert done.returncode == 2 and "name a config with -c, or a checkpoint" in done.stderr


def test_a_list_s_checkpoint_on_a_folder(trained, invoke, tmp_path):
    """The settings that lists and folders share are kept."""
    saved = read_checkpoint(trained / "best")
    node = saved.meta["config"]["dataloader"]["val"]["dataset"]
    node.update(name=ListFile.__name__, dataroot="/elsewhere", list_file="/elsewhere/list.txt")
    write_checkpoint(tmp_path / "listed.safetensors", saved.tensors, saved.meta)
    weights = ("eval", "--weights", tmp_path / "listed")
    assert "was trained on data in /elsewhere" in invoke(*weights).stderr
    done = invoke(*weights, "--data", trained.parent.parent)
    assert done.returncode == 0, done.stderr
    assert "ImageFolder takes no list_file: left out" in done.stdout
    assert PackedImages.__name__ not in done.stdout
