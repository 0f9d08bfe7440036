"""Processes that die: the cause last on screen, nobody left behind, good checkpoints, restarts."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from passl_sot.launch.supervisor import SupervisionError, Supervisor, should_supervise
from passl_sot.weights.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
# Trains as tools/train.py does, but one process meets with an accident at an update.
ACCIDENT = """
import os, signal, sys, time
from passl_sot import cli
from passl_sot.launch.supervisor import generation

def accident():
    {accident}

if generation() is not None:
    from passl_sot.engine.trainer import Trainer
    agree = Trainer._agree

    def meet_with_it(self, *args):
        if self.world.rank == {rank} and self.progress.step == {step} and generation() < {times}:
            accident()
        return agree(self, *args)

    Trainer._agree = meet_with_it

sys.exit(cli.train())
"""
SMALL = ("-o", "epochs=4", "dataloader.train.sampler.batch_size=4")


@pytest.fixture
def faulty(tmp_path):
    def write(accident: str, rank: int, step: int = 4, times: int = 1):
        path = tmp_path / "faulty.py"
        path.write_text(ACCIDENT.format(accident=accident, rank=rank, step=step, times=times))
        return path

    return write


def last_of(text: str) -> str:
    """The last line that isn't the launcher's own."""
    return [line for line in text.splitlines() if line and not line.startswith("LAUNCH")][-1]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_traceback_of_the_process_that_failed_comes_last(experiment, launch, faulty, left_behind, rank):
    began = time.monotonic()
    done = launch(2, "-c", experiment, *SMALL, script=faulty("raise RuntimeError('boom')", rank))
    assert time.monotonic() - began < 60
    assert done.returncode not in (0, None)
    assert last_of(done.stdout) == "RuntimeError: boom", done.stdout
    assert f"process {rank} failed:\nTraceback (most recent call last)" in done.stdout
    assert left_behind() == []
    saved = read_checkpoint(experiment.parent / "output" / "run" / "last.safetensors")
    assert saved.meta["progress"]["step"] == 3


@pytest.mark.slow
def test_a_killed_process_restarts_the_job_which_then_equals_one_without(
    experiment, launch, faulty, left_behind, tmp_path
):
    whole = launch(2, "-c", experiment, *SMALL, f"output_dir={tmp_path}/whole")
    assert whole.returncode == 0, whole.stdout
    kill = faulty("os.kill(os.getpid(), signal.SIGKILL)", rank=1)
    cut = launch(2, "-c", experiment, *SMALL, f"output_dir={tmp_path}/cut", "--max-restarts", 1, script=kill)
    assert cut.returncode == 0, cut.stdout
    assert re.search(r"process 1 failed:\nit \(pid \d+ on \S+\) was ended by SIGKILL", cut.stdout)
    assert "restart 1 of 1" in cut.stdout
    assert "resuming from" in cut.stdout
    assert left_behind() == []
    a, b = (
        read_checkpoint(tmp_path / name / "run" / "last.safetensors").tensors for name in ("whole", "cut")
    )
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.slow
def test_restarts_are_counted(experiment, launch, faulty):
    script = faulty("raise RuntimeError('boom')", rank=1, step=0, times=9)  # before there is a checkpoint
    done = launch(2, "-c", experiment, *SMALL, "--max-restarts", 1, script=script)
    assert done.returncode not in (0, None)
    assert "restart 1 of 1" in done.stdout
    assert "restart 2" not in done.stdout
    assert last_of(done.stdout) == "RuntimeError: boom"


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_the_end_of_a_log_begins_with_a_whole_character(tmp_path, shift):
    """The launcher shows the last 3,000 bytes, or nothing where they aren't text."""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(f"""
import sys
from passl_sot.launch.supervisor import generation, report_failure, supervise
if generation() is None:
    sys.exit(supervise(0))
print("\u7aef" * 1500, "-" * {shift}, file=sys.stderr)
report_failure("the cause", final=True)
sys.exit(7)
""")
    with log.open("w") as out:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run([sys.executable, script], stdout=out, stderr=out, env=environment, check=False)
    assert done.returncode == 7
    end = log.read_bytes()[-3000:].decode()
    assert end.startswith("\u7aef") and end.rstrip("\n").endswith("the cause")


@pytest.mark.slow
def test_what_the_user_can_mend_is_not_tried_again(experiment, launch, left_behind):
    """A bad file that only process 1 reads ends all, at once, with its name."""
    (experiment.parent / "val" / "猫" / "2.png").write_bytes(b"no image")
    began = time.monotonic()
    skip = "dataloader.train.loader.max_bad=0"
    done = launch(2, "-c", experiment, *SMALL, skip, "--max-restarts", 3)
    assert time.monotonic() - began < 30
    assert done.returncode not in (0, None)
    assert "2.png" in last_of(done.stdout)
    assert "restart 1" not in done.stdout
    assert left_behind() == []


@pytest.mark.slow
def test_nobody_outlives_the_launcher(experiment, launcher, left_behind):
    settings = ("-o", "epochs=500", "dataloader.train.sampler.batch_size=4")
    options = launcher(2, "-c", experiment, *settings)
    with subprocess.Popen(**options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if "epoch 2/500" in line:
                process.kill()
                break
    until = time.monotonic() + 20
    while left_behind() and time.monotonic() < until:
        time.sleep(0.2)
    assert left_behind() == []
    read_checkpoint(experiment.parent / "output" / "run" / "last.safetensors")


@pytest.mark.slow
def test_a_single_process_is_restarted_too(experiment, faulty, tmp_path):
    script = faulty("os.kill(os.getpid(), signal.SIGSEGV)", rank=0)
    command = [sys.executable, str(script), "-c", str(experiment), *SMALL, "--max-restarts", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "was ended by SIGSEGV" in done.stderr
    assert "resuming from" in done.stdout
    saved = read_checkpoint(tmp_path / "output" / "run" / "last.safetensors")
    assert saved.meta["progress"]["epoch"] == 4


@pytest.mark.slow
def test_stopping_is_no_failure(experiment, launcher, tmp_path):
    options = launcher(2, "-c", experiment, "-o", "epochs=500", "--max-restarts", 5)
    with subprocess.Popen(**options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if "epoch 2/500" in line:
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
    text = (tmp_path / "log" / "workerlog.0").read_text()
    assert "stopped by SIGTERM; saved" in text
    assert "restart 1" not in text


def test_what_supervision_needs(monkeypatch):
    assert not should_supervise(0)
    assert should_supervise(1)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setenv("PADDLE_TRAINER_ENDPOINTS", "10.0.0.1:6170,10.0.0.2:6170")
    assert should_supervise(0)
    monkeypatch.setenv("PADDLE_MASTER", "10.0.0.1:6170")  # as --ips and --start_port have it
    assert not should_supervise(0)
    with pytest.raises(SupervisionError, match="needs the launcher's --master"):
        should_supervise(1)
    monkeypatch.setitem(os.environ, "PASSL_SOT_GENERATION", "0")
    assert not should_supervise(1)


@pytest.mark.slow
def test_work_of_one_process_may_take_longer_than_gloo_waits(experiment, launch, faulty):
    """Half a minute is what gloo's collectives endure."""
    done = launch(2, "-c", experiment, *SMALL, "epochs=2", script=faulty("time.sleep(33)", rank=1))
    assert done.returncode == 0, done.stdout
    assert "finished" in done.stdout


def test_a_signal_that_comes_before_the_child_is_not_lost(tmp_path, monkeypatch):
    """Such as Ctrl-C while other machines are waited for."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "import time; time.sleep(60)"])
    supervisor = Supervisor(0, ("127.0.0.1", 1), tmp_path)
    supervisor._forward(signal.SIGTERM, None)
    supervisor._start({"cause": None, "generation": 0, "what": ""})
    assert supervisor.child.wait(20) == -signal.SIGTERM
    assert supervisor._outcome(supervisor.child).text == "stopped by SIGTERM"
