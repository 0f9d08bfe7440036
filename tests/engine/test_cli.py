"""The command line: what a user can get wrong is one message and status 2, never a traceback."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from passl_sot import cli
from passl_sot import predict as engine_predict
from passl_sot.cli import command as cli_command
from passl_sot.engine.distributed import World
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.weights.checkpoint import read_checkpoint, write_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(experiment) -> Path:
    """The folder that the command line gives the experiment's run, with `best` and `last` in it."""
    trainer = Trainer(load_config(experiment, ["epochs=1"]), experiment.parent / "output" / "run", World())
    trainer.fit()
    return trainer.folder.path


def refused(capsys, status: int, *words: str) -> None:
    text = capsys.readouterr().err
    assert status == 2, text
    assert text.count("error:") == 1
    for word in words:
        assert word in text


def test_scores_are_written_before_pictures(experiment, run, tmp_path, monkeypatch):
    def out_of_memory(*_, **__):
        raise MemoryError("for the picture")

    monkeypatch.setattr("passl_sot.tasks.labelled.save_confusion", out_of_memory)
    out = tmp_path / "evaluation" / "metrics.json"
    with pytest.raises(MemoryError):
        cli.evaluate(["-c", str(experiment), "--weights", str(run / "best"), "--out", str(out)])
    assert json.loads(out.read_text())["images"] == 9
    for name in ("per_class.csv", "confusion.csv", "predictions.csv"):
        assert (out.parent / name).stat().st_size, name


def test_evaluation_does_without_matplotlib(experiment, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    out = tmp_path / "metrics.json"
    assert cli.evaluate(["-c", str(experiment), "--weights", str(run / "best"), "--out", str(out)]) == 0
    assert "no picture: " in capsys.readouterr().out
    names = [Path(path).name for path in json.loads(out.read_text())["files"]]
    assert names == ["per_class.csv", "confusion.csv", "predictions.csv"]


@pytest.mark.parametrize("name", ["folder.json", "file/r.json", "file/below/r.json", "/proc/none/r.json"])
def test_outputs_are_tried_before_the_work(experiment, run, tmp_path, capsys, monkeypatch, name):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("x")
    out = str(tmp_path / name)

    def never(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr("passl_sot.engine.entry.evaluate_run", never)
    monkeypatch.setattr(engine_predict, "Predictor", never)
    weights = ["--weights", str(run / "best")]
    refused(
        capsys,
        cli.evaluate(["-c", str(experiment), *weights, "--out", out]),
        out,
        "name" if "proc" not in out else "",
    )
    outputs = ["--out", str(tmp_path / "ok.csv"), "--out", out]
    refused(capsys, cli.predict([*weights, *outputs, str(tmp_path / "val")]), out)
    assert not (tmp_path / "ok.csv").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EISDIR, errno.ENOTDIR])
def test_faults_of_paths_are_the_users(number, capsys):
    def fail() -> int:
        raise OSError(number, os.strerror(number), "some/where")

    refused(capsys, cli_command.guarded(fail), f"error: some/where: {os.strerror(number)}: ")


def test_other_faults_of_the_system_are_not_hidden(capsys):
    def fail() -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "some/where")

    with pytest.raises(OSError, match="Input/output error"):
        cli_command.guarded(fail)


def test_a_disk_that_is_full_at_the_end_leaves_the_old_table(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "r.csv"
    out.write_text("old")

    def full(predictions, path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(engine_predict, "_write_csv", full)
    status = cli.predict(["--weights", str(run / "best"), str(tmp_path / "val" / "c"), "--out", str(out)])
    refused(capsys, status, "No space left on device: free some space")
    assert out.read_text() == "old"
    assert list(tmp_path.glob("*r.csv*")) == [out]


def test_the_suffix_may_be_left_out(experiment, run, tmp_path):
    config = ["-c", str(experiment)]
    out = tmp_path / "evaluation" / "metrics.json"
    assert cli.evaluate([*config, "--weights", str(run / "best"), "--out", str(out)]) == 0
    assert out.exists()
    assert cli.predict(["--weights", str(run / "best"), str(tmp_path / "val" / "c")]) == 0
    assert cli.train([*config, "-o", "epochs=1", "--resume", str(run / "last")]) == 0


def test_incomplete_checkpoints_are_named_by_every_command(experiment, run, tmp_path, capsys):
    saved = read_checkpoint(run / "best")
    for key in ("config", "class_names", "preprocessing", "progress"):
        write_checkpoint(saved.path, saved.tensors, {k: v for k, v in saved.meta.items() if k != key})
        words = (str(saved.path.with_suffix("")), f"has no {key}")
        weights, config = ["--weights", str(run / "best")], ["-c", str(experiment)]
        refused(capsys, cli.evaluate([*config, *weights]), *words)
        refused(capsys, cli.predict([*weights, str(tmp_path / "val")]), *words)
        refused(capsys, cli.train([*config, "--resume", str(run / "best")]), *words)


def test_dry_run_reads_the_weights(experiment, run, tmp_path, capsys, caplog):
    check = ["-c", str(experiment), "--dry-run", "-o", "epochs=1"]
    for more in (["--init-from", str(run / "best")], ["--resume", str(run / "last")], ["--resume", "auto"]):
        assert cli.train([*check, *more]) == 0
        other = ["-o", "model.architecture.embed_dim=32", *more]
        capsys.readouterr()
        named = ["--resume-override", "model"] if "--resume" in more else []
        refused(
            capsys, cli.train([*check, *other, *named]), "doesn't fit the model", "[16] in the file and [32]"
        )
        assert not list(tmp_path.glob("output/run/*.tmp"))
    for more in (["--init-from", "nothing"], ["--resume", "nothing"]):
        refused(capsys, cli.train([*check, *more]), "nothing")
    elsewhere = ["-o", f"output_dir={tmp_path / 'elsewhere'}", "--resume", "auto"]
    assert cli.train([*check, *elsewhere]) == 0
    capsys.readouterr()
    refused(capsys, cli.train([*check, *elsewhere, "--evaluate-only"]), "nothing to evaluate")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(("dtype", "wide", "bits"), [("BF16", "u4", "u2"), ("F8_E5M2", "u2", "u1")])
def test_every_command_reads_types_that_numpy_lacks(
    writer, experiment, run, tmp_path, capsys, dtype, wide, bits
):
    """Their bits are the upper half of a float's of twice as many."""
    arrays = read_checkpoint(run / "best").part("model")
    cut = {name: value.astype(f"f{wide[1]}").view(wide) for name, value in arrays.items()}
    cut = {name: (value >> 8 * int(bits[1])).astype(bits) for name, value in cut.items()}
    path = str(writer.write_safetensors(tmp_path / "a.safetensors", cut, dtype))
    config = ["-c", str(experiment)]
    assert cli.evaluate([*config, "--weights", path]) == 0
    for number, option in enumerate(("--init-from", "--pretrained")):
        to = ["-o", "epochs=1", f"output_dir={tmp_path / str(number)}"]
        assert cli.train([*config, option, path, *to]) == 0
    assert f"{len(arrays)} of {len(arrays)} entries from {path}" in capsys.readouterr().out
    refused(capsys, cli.predict(["--weights", path, str(tmp_path / "val")]), "bare weights")


def test_evaluate_only_needs_weights(experiment, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.train(["-c", str(experiment), "--evaluate-only"])
    refused(capsys, caught.value.code, "--evaluate-only needs weights")


def test_print_config_checks_what_it_shows(experiment, tmp_path, capsys):
    assert cli.print_config(["-c", str(experiment), "-o", "nonfinite_limit=4"]) == 0
    assert "nonfinite_limit: 4" in capsys.readouterr().out
    faulty = tmp_path / "faulty.yaml"
    faulty.write_text(experiment.read_text(encoding="utf-8") + "epohcs: 3\n", encoding="utf-8")
    for more in ([], ["--diff", str(experiment)]):
        assert cli.print_config(["-c", str(faulty), *more]) == 2
        done = capsys.readouterr()
        assert "epohcs" in done.out
        assert "unknown key 'epohcs'; did you mean 'epochs'?" in done.err
    assert cli.print_config(["-c", str(experiment), "-o", "seed=x"]) == 2
    assert "seed" in capsys.readouterr().err
    alone = tmp_path / "alone.yaml"  # a model alone is what Model() takes
    alone.write_text("model: {architecture: {name: SoT}, head: {name: LinearHead, num_classes: 3}}\n")
    assert cli.print_config(["-c", str(alone)]) == 0
    assert cli.print_config(["-c", str(ROOT / "configs" / "_base_" / "runtime.yaml")]) == 0


def test_print_config_into_a_pipe_that_closes(experiment):
    command = [sys.executable, str(ROOT / "tools" / "print_config.py"), "-c", str(experiment)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_while_importing(tmp_path):
    """Paddle's core would turn an interrupt of its import into an ImportError."""
    code = (
        "import sys; from passl_sot import cli; print('go', flush=True); "
        "sys.exit(cli.evaluate(['-c', 'sot_digits', '--weights', 'nothing']))"
    )
    for wait in (0, 0.2, 0.4, 0.6, 0.8):
        command = [sys.executable, "-c", code]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        ) as process:
            assert process.stdout.readline() == "go\n"
            time.sleep(0.02 + wait)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate()
        assert (process.returncode, said) == (
            cli_command.INTERRUPTED,
            "interrupted\n",
        ) or "no weights file" in said


def test_help_says_what_plus_is_for(capsys):
    with pytest.raises(SystemExit):
        cli.train(["--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "+a.b=value adds a key whose section isn't there yet" in text


def test_make_list_below_a_file(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "data" / "train" / name / "0.png")
    (tmp_path / "file").write_text("x")
    script = str(ROOT / "ppcls_tools" / "make_list.py")
    for out in ("file/x", "file"):
        command = [sys.executable, script, str(tmp_path / "data"), str(tmp_path / out)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(f"make_list: can't write to {tmp_path / out}: ")
        assert done.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "x"
