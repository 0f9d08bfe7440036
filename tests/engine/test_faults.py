"""Injected faults, one process: what the user is told, what is left on the disk, and that training goes on.

What needs no privileges: a limit on the size of files (RLIMIT_FSIZE) stands for a full disk. A really full
file system, a read-only one and a small /dev/shm are mounted in a namespace of the run's own; where the
machine allows no namespaces, these tests are skipped. Faults of several processes: tests/launch/test_jobs.py.
"""

import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from passl_sot import cli
from passl_sot.engine.distributed import World
from passl_sot.engine.nan_check import NonFiniteError
from passl_sot.engine.run_dir import RunFolder, read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.weights.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
# Trains as tools/train.py does, after some lines that arrange for an accident.
SCRIPT = """
import os, signal, sys
from passl_sot import cli
{accident}
sys.exit(cli.train())
"""
# Ends the process at the third checkpoint, of which half has been written.
KILL_IN_A_WRITE = """
from passl_sot.weights import checkpoint
fsync, files = os.fsync, []

def halve(handle):
    path = os.readlink(f"/proc/self/fd/{handle}")
    files.extend([path] if path.endswith(".tmp") else [])
    if len(files) == 3:
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(handle)

checkpoint.os.fsync = halve
"""
# Something happens at the third update, once.
AT_AN_UPDATE = """
import time
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path
from passl_sot.engine.trainer import Trainer
agree = Trainer._agree
done = []

def meet_with_it(self, *args, **more):
    if self.progress.step == 2 and not done:
        done.append(True)
        {accident}
    return agree(self, *args, **more)

Trainer._agree = meet_with_it
"""
KILL_AT_AN_UPDATE = AT_AN_UPDATE.format(accident="os.kill(os.getpid(), signal.SIGKILL)")
# The worker dies in the middle of an update: it has ended, or waits for its parent to notice.
KILL_A_WORKER = AT_AN_UPDATE.format(
    accident="""
        worker = active_children()[0].pid
        os.kill(worker, signal.SIGKILL)
        with suppress(OSError):
            while "\\nState:\\tZ" not in Path(f"/proc/{worker}/status").read_text():
                time.sleep(0.01)
"""
)
# To the data workers, their server, and the run itself.
SIGTERM_TO_ALL = AT_AN_UPDATE.format(
    accident="""
        workers = [process.pid for process in active_children()]
        stat = Path(f"/proc/{workers[0]}/stat").read_text()
        server = int(stat.rpartition(")")[2].split()[1])
        assert len({*workers, server, os.getpid()}) == 4
        for pid in (server, *workers, os.getpid()):
            os.kill(pid, signal.SIGTERM)
"""
)
WORKERS = "dataloader.train.loader.num_workers=2"


def train(experiment: Path, folder: Path, *overrides: str, **more) -> Trainer:
    trainer = Trainer(load_config(experiment, overrides), folder, World(), **more)
    trainer.fit()
    return trainer


def first_epoch(experiment: Path, folder: Path, *overrides: str) -> None:
    """The first of two epochs; then the run is cut off."""
    trainer = Trainer(load_config(experiment, overrides), folder, World())
    begin = trainer._train_epoch

    def only_the_first(epoch: int) -> int:
        if epoch:
            raise KeyboardInterrupt
        return begin(epoch)

    trainer._train_epoch = only_the_first
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()


def same(first: Path, second: Path) -> None:
    a, b = read_checkpoint(first).tensors, read_checkpoint(second).tensors
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix in (".tmp", ".safetensors")}


@pytest.fixture
def start(experiment, tmp_path):
    """Starts a run in a process of its own, in tmp_path/output/run."""

    def begin(*overrides: str, accident: str = "", inside: tuple = (), more: tuple = (), **options):
        script = tmp_path / "faulty.py"
        script.write_text(SCRIPT.format(accident=accident))
        command = [*inside, sys.executable, script, "-c", experiment, *more]
        command += ["-o", *overrides] if overrides else []
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*map(str, command)], **pipes, env=environment, cwd=tmp_path, **options)

    return begin


@pytest.fixture
def run(start):
    """Runs one to its end: status, what it printed, its messages."""

    def to_the_end(*overrides: str, **options) -> subprocess.CompletedProcess:
        process = start(*overrides, **options)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return to_the_end


def namespace(*commands: str) -> tuple[str, ...]:
    """Words that run a command where these mounts are; skips the test where that isn't allowed."""
    enter = ("unshare", "--user", "--map-root-user", "--mount")
    if (
        not shutil.which("unshare")
        or subprocess.run([*enter, "mount", "-t", "tmpfs", "x", "/mnt"]).returncode
    ):
        pytest.skip("this machine doesn't allow mounting in a namespace")
    return *enter, "sh", "-ec", "; ".join([*commands, '"$@"']), "sh"


# -- the disk -----------------------------------------------------------------------------------------
def test_a_kill_in_the_middle_of_a_write(experiment, run, tmp_path):
    folder = tmp_path / "output" / "run"
    done = run(accident=KILL_IN_A_WRITE)
    assert done.returncode == -signal.SIGKILL
    half = names(folder) - {"last.safetensors", "previous.safetensors", "best.safetensors"}
    assert {name.lstrip(".").split(".")[0] for name in half} == {"last", "previous"} and len(half) == 2
    assert all(name.endswith(".tmp") for name in half)
    assert read_checkpoint(folder / "last.safetensors").meta["progress"]["step"] == 3
    train(experiment, folder, resume="auto")
    assert names(folder) == {"last.safetensors", "previous.safetensors", "best.safetensors"}
    train(experiment, tmp_path / "whole")
    same(folder / "last.safetensors", tmp_path / "whole" / "last.safetensors")


@pytest.mark.parametrize("what", ["last.safetensors", "metrics.jsonl", "config.yaml"])
def test_a_file_that_cannot_grow(experiment, tmp_path, capfd, what):
    """The limit lets smaller files through; it meets the checkpoint, the growing log, or the first file."""
    folder = tmp_path / "output" / "run"
    # Updates of one image each make many rows of the log before there is another checkpoint.
    many = ("dataloader.train.sampler.batch_size=1", "lr_scheduler.reference_batch=1")
    first_epoch(experiment, folder, *many)
    before = (folder / "last.safetensors").read_bytes()
    rows, settings = ((folder / name).stat().st_size for name in ("metrics.jsonl", "config.yaml"))
    assert settings < rows < len(before)
    # The header of the next checkpoint may be some bytes shorter.
    limits = {
        "last.safetensors": len(before) - 100,
        "metrics.jsonl": rows + 1000,
        "config.yaml": settings - 1,
    }
    limit = limits[what]
    capfd.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        status = cli.train(["-c", str(experiment), "--resume", "auto", "-o", *many])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    said = capfd.readouterr().err
    assert status == 2
    assert "Traceback" not in said
    name = "checkpoint " if what.startswith("last") else ""
    assert f"error: can't write {name}{folder / what}: File too large" in said
    assert (folder / "last.safetensors").read_bytes() == before
    assert not [name for name in names(folder) if name.endswith(".tmp")]
    read_checkpoint(folder / "best.safetensors")


def test_a_full_disk(experiment, run, tmp_path):
    """Room for two checkpoints and a half: the third has no place beside the last and the one before."""
    train(experiment, tmp_path / "size", "epochs=1")
    size = (tmp_path / "size" / "last.safetensors").stat().st_size
    folder, kept = tmp_path / "output", tmp_path / "kept"
    folder.mkdir()
    inside = namespace(
        f"mount -t tmpfs -o size={size * 5 // 2} x {folder}", f"trap 'cp -a {folder} {kept}' EXIT"
    )
    done = run(inside=inside)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"can't write checkpoint {folder}/run/last.safetensors: No space left on device." in done.stderr
    assert f"({size / 1e6:.0f} MB needed)" in done.stderr
    assert names(kept / "run") == {"last.safetensors", "previous.safetensors", "best.safetensors"}
    assert read_checkpoint(kept / "run" / "last.safetensors").meta["progress"]["step"] == 3
    train(experiment, kept / "run", resume="auto")
    train(experiment, tmp_path / "whole")
    same(kept / "run" / "last.safetensors", tmp_path / "whole" / "last.safetensors")


def test_a_read_only_output_folder(experiment, run, tmp_path):
    folder = tmp_path / "output"
    folder.mkdir()
    inside: tuple[str, ...] = ()
    if os.geteuid() == 0:  # whom permissions don't bind
        inside = namespace(f"mount --bind {folder} {folder}", f"mount -o remount,bind,ro {folder}")
    else:
        folder.chmod(0o555)
    done = run(inside=inside)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"error: can't write to {folder}/run: " in done.stderr
    assert "set output_dir elsewhere" in done.stderr
    assert not list(folder.iterdir())


@pytest.mark.parametrize("cut", [0, 1000, -1])
def test_a_truncated_latest_checkpoint(experiment, tmp_path, caplog, monkeypatch, cut):
    """`best` is a second name of the same file, and is cut with it."""
    folder = tmp_path / "run"
    first_epoch(experiment, folder)
    last, best = folder / "last.safetensors", folder / "best.safetensors"
    assert last.samefile(best)
    os.truncate(last, cut % last.stat().st_size)
    monkeypatch.setattr(logging.getLogger("passl_sot"), "propagate", True)
    train(experiment, folder, resume="auto")
    assert f"{last} is damaged" in caplog.text
    assert "trying the one before it" in caplog.text
    assert f"resuming from {folder}/previous.safetensors" in caplog.text
    train(experiment, tmp_path / "whole")
    same(last, tmp_path / "whole" / "last.safetensors")
    same(best, tmp_path / "whole" / "best.safetensors")


def untimed(folder):
    return [{**row, "time": None} for row in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.parametrize("best", ["cut with it", "whole"])
def test_a_truncated_last_of_a_complete_run(experiment, tmp_path, caplog, monkeypatch, best):
    """It is mended without training; what it was stays."""
    folder, once = tmp_path / "run", "eval_interval=2"
    assert train(experiment, folder, once).progress.best_step == 6  # so `best` is a second name of it
    last = folder / "last.safetensors"
    rows = untimed(folder)
    whole = tmp_path / "whole.safetensors"
    shutil.copyfile(last, whole)
    if best == "whole":
        last.unlink()
    last.write_bytes(whole.read_bytes()[:5000])
    monkeypatch.setattr(logging.getLogger("passl_sot"), "propagate", True)
    monkeypatch.setattr(Trainer, "_train_epoch", None)
    train(experiment, folder, once, resume="auto")
    assert f"{last} is damaged" in caplog.text
    assert f"{last} is mended: " in caplog.text
    for name in ("last", "best"):
        same(folder / f"{name}.safetensors", whole)
    assert folder.joinpath("last.unreadable").read_bytes() == whole.read_bytes()[:5000]
    assert untimed(folder) == rows
    caplog.clear()
    train(experiment, folder, once, resume="auto")
    assert "already complete" in caplog.text and "damaged" not in caplog.text


def test_a_damaged_last_never_takes_the_place_of_a_whole_one(experiment, tmp_path, monkeypatch):
    """A kill at any moment of the first save after a fall-back leaves a checkpoint that can be read."""
    folder = tmp_path / "run"
    first_epoch(experiment, folder)
    os.truncate(folder / "last.safetensors", 1000)
    trainer = Trainer(load_config(experiment), folder, World(), resume="auto")
    replace, whole = os.replace, []

    def look(source, target):
        whole.append(RunFolder(folder).latest() is not None)
        replace(source, target)
        whole.append(RunFolder(folder).latest() is not None)

    monkeypatch.setattr("passl_sot.weights.checkpoint.os.replace", look)
    trainer.fit()
    assert len(whole) > 4
    assert all(whole)


def test_two_runs_in_one_folder(experiment, start, tmp_path, capfd):
    with start("epochs=500") as first:
        for line in first.stdout:
            if "epoch 2/500" in line:
                break
        assert cli.train(["-c", str(experiment), "--resume", "auto"]) == 2
        said = capfd.readouterr().err
        assert f"error: another process is training in {tmp_path}/output/run: wait for it" in said
        assert "Traceback" not in said
        first.send_signal(signal.SIGTERM)
        rest = first.stdout.read()
    assert first.returncode == 143
    assert "stopped by SIGTERM; saved" in rest
    rows = read_metrics(tmp_path / "output" / "run" / "metrics.jsonl")
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    saved = read_checkpoint(tmp_path / "output" / "run" / "last.safetensors").meta
    assert saved["progress"]["step"] == steps[-1]
    assert saved["config"]["epochs"] == 500


# -- data workers -------------------------------------------------------------------------------------
def test_a_killed_data_worker_is_named_and_the_run_resumed(experiment, run, tmp_path):
    """The worker dies while the main process is in the middle of an update."""
    saved = tmp_path / "output" / "run" / "last.safetensors"
    many = ("epochs=1", "dataloader.train.sampler.batch_size=1", "lr_scheduler.reference_batch=1", WORKERS)
    many += ("checkpoint.update_interval=1",)
    done = run(*many, accident=KILL_A_WORKER)
    assert done.returncode == 1
    said = done.stderr
    assert "error: a data worker process died: worker " in said
    assert "was ended by SIGKILL; it " in said
    assert "Traceback" not in said
    assert read_checkpoint(saved).meta["progress"]["step"] > 0
    train(experiment, saved.parent, *many, resume="auto")
    train(experiment, tmp_path / "whole", *many)
    same(saved, tmp_path / "whole" / "last.safetensors")


def test_a_killed_run_gives_its_folder_free_at_once(experiment, run, left_behind, tmp_path):
    """Workers inherit the lock's file; those that outlive the run would keep it."""
    slow = ("dataloader.train.sampler.batch_size=2", WORKERS)
    done = run(*slow, accident=KILL_AT_AN_UPDATE)
    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 60
    while left_behind() and time.monotonic() < until:
        time.sleep(0.01)
    assert left_behind() == []
    RunFolder(tmp_path / "output" / "run").claim()


def test_sigterm_to_every_process_of_a_run_saves(run, tmp_path):
    """As service managers and schedulers send it, to the data workers and their server too."""
    many = ("dataloader.train.sampler.batch_size=1", "lr_scheduler.reference_batch=4", WORKERS)
    done = run(*many, accident=SIGTERM_TO_ALL)
    assert done.returncode == 143, done.stderr
    assert "stopped by SIGTERM; saved" in done.stdout
    saved = read_checkpoint(tmp_path / "output" / "run" / "last.safetensors").meta["progress"]
    assert saved["step"] == 4  # the update that it came in was decided already


def test_a_small_dev_shm(run):
    """Nothing is stored there, so its size, in containers often 64 MB or less, doesn't matter."""
    done = run("epochs=1", WORKERS, inside=namespace("mount -t tmpfs -o size=128k x /dev/shm"))
    assert done.returncode == 0, done.stderr
    assert "/dev/shm" not in done.stdout + done.stderr


# -- numbers and signals ------------------------------------------------------------------------------
def test_nan_from_an_update_on(experiment, tmp_path):
    """Update 4 of 6 and all that follow are bad; what was saved before is what the run ends with."""
    folder = tmp_path / "run"
    cfg = load_config(experiment, ["epochs=9", "nonfinite_limit=3"])
    trainer = Trainer(cfg, folder, World())
    task = trainer.task.step

    def spoil(model, batch):
        if trainer.progress.step >= 4:
            batch["image"][0, 0, 0, 0] = float("nan")
        return task(model, batch)

    trainer.task.step = spoil
    with pytest.raises(
        NonFiniteError, match="not finite in 3 updates in a row; it begins in the input images"
    ):
        trainer.fit()
    assert (trainer.progress.step, trainer.progress.skipped) == (6, 3)
    saved = read_checkpoint(folder / "last.safetensors")
    assert saved.meta["progress"]["step"] == 6 and saved.meta["progress"]["skipped"] == 2
    assert all(np.isfinite(array).all() for array in saved.tensors.values())


@pytest.mark.parametrize("at", [2, 7])
def test_sigterm_during_evaluation(experiment, tmp_path, at):
    """In the second of five batches with the raw weights, or with the averaged ones."""
    folder, small = tmp_path / "run", "dataloader.val.sampler.batch_size=2"
    trainer = Trainer(load_config(experiment, [small]), folder, World())
    evaluated = []

    def count(layer, inputs):
        if not layer.training:
            evaluated.append(1)
            if len(evaluated) == at:
                signal.raise_signal(signal.SIGTERM)

    trainer.model.register_forward_pre_hook(count)
    assert trainer.fit() is None
    assert len(evaluated) == at
    saved = read_checkpoint(folder / "last.safetensors")
    assert saved.meta["progress"]["pending_evaluation"]
    assert not [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] != "train"]
    again = train(experiment, folder, small, resume="auto")
    assert again.progress.best_step > 0
    train(experiment, tmp_path / "whole", small)
    same(folder / "last.safetensors", tmp_path / "whole" / "last.safetensors")
    rows = [
        [(r["kind"], r["step"], r.get("top1"), r.get("loss")) for r in read_metrics(path / "metrics.jsonl")]
        for path in (folder, tmp_path / "whole")
    ]
    assert rows[0] == rows[1]


def test_odd_files_are_bad_files(experiment, invoke, write_odd_files):
    """Pipes, devices, rings of links, sparse giants; evaluation ends at the first, as at other bad files."""
    folder = experiment.parent / "train" / "c"
    write_odd_files(folder)
    for more in (["--dry-run"], ["--check-all-files", "-o", "epochs=1"]):
        done = invoke("train", "-c", experiment, *more)
        assert done.returncode == 0, done.stderr
        for name, reason in (
            ("loop", "a link that leads back to itself"),
            ("device", "is a device"),
            ("pipe", "is a pipe"),
            ("sparse", "has 60,000 MB"),
        ):
            assert f"unreadable image {folder}/{name}.png: {reason}" in done.stdout
    rows = read_metrics(experiment.parent / "output" / "run" / "metrics.jsonl")
    assert rows[-3]["bad_files"] == 4
    (experiment.parent / "val" / "c" / "loop.png").symlink_to("loop.png")
    done = invoke("train", "-c", experiment, "--dry-run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"val: unreadable image {experiment.parent}/val/c/loop.png: a link that leads back" in done.stderr
