"""Two training processes under the launcher: faults end both soon, the cause is last, nobody is left behind.

How supervisors do it, without Paddle: test_supervisor.py.
"""

import re
import signal
import subprocess
import time

import numpy as np
import pytest

from passl_sot.engine.distributed import World
from passl_sot.engine.run_dir import read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.weights.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow
# Trains as tools/train.py does, after some lines that arrange for an accident in the training processes.
SCRIPT = """
import os, resource, signal, sys, time
from pathlib import Path
from passl_sot import cli
from passl_sot.launch.supervisor import REPORT

if REPORT in os.environ:
    from passl_sot.engine import trainer
    from passl_sot.engine.trainer import Trainer
    from passl_sot.tasks import classification
    trainer.draw_run = lambda *_: None  # drawing takes a second
    agree, check_data = Trainer._agree, classification.check_data
{accident}

sys.exit(cli.train())
"""
# The main process checks the files before training; what is done to them behind that is met in training.
AFTER_THE_CHECK = """
    def check_and_spoil(*args, **more):
        check_data(*args, **more)
        {spoil}

    classification.check_data = check_and_spoil
"""
AT_AN_UPDATE = """
    def meet_with_it(self, *args, **more):
        if self.world.rank == {rank} and self.progress.step == 4:
            {accident}
        return agree(self, *args, **more)

    Trainer._agree = meet_with_it
"""
# At a batch its peer waits for it through the store, without a limit. Gloo would end a collective after 30 s.
LATE = """
    from passl_sot.engine.distributed import World
    wait, barrier = World._wait, World.barrier

    def tell(self, done):
        wait(self, lambda: Path("late").exists() and Path("waiting").touch() or done())

    def come_late(self):
        if self._meetings == 9:
            Path("late").touch()
            while not Path("waiting").exists():
                time.sleep(0.01)
        barrier(self)

    if os.environ["PADDLE_TRAINER_ID"] == "0":
        World._wait = tell
    else:
        World.barrier = come_late
"""
SMALL = ("-o", "epochs=4", "dataloader.train.sampler.batch_size=4", "dataloader.train.loader.num_workers=1")


@pytest.fixture
def together(experiment, launch, tmp_path):
    """Runs two processes to their end; also how long it took and what both logged."""

    def run(*more: str, accident: str):
        script = tmp_path / "faulty.py"
        script.write_text(SCRIPT.format(accident=accident))
        began = time.monotonic()
        done = launch(2, "-c", experiment, *SMALL, *more, script=script)
        done.seconds = time.monotonic() - began
        done.logs = "".join(path.read_text() for path in sorted((tmp_path / "log").glob("workerlog.*")))
        return done

    return run


def last_of(text: str) -> str:
    """The last line that isn't the launcher's own."""
    return [line for line in text.splitlines() if line and not line.startswith("LAUNCH")][-1]


def test_a_killed_process_ends_all_and_the_resumed_run_equals_one_without(together, left_behind, tmp_path):
    """Killed is the one that holds the lock on the run's folder."""
    whole = together(f"output_dir={tmp_path}/whole", accident=LATE)
    assert whole.returncode == 0 and "finished" in whole.stdout, whole.stdout
    kill = AT_AN_UPDATE.format(rank=0, accident="os.kill(os.getpid(), signal.SIGKILL)")
    done = together(accident=kill)
    assert left_behind() == []  # the data workers either
    assert done.returncode not in (0, None)
    assert done.seconds < 60
    assert re.search(r"it \(pid \d+ on \S+\) was ended by SIGKILL", last_of(done.stdout))
    path = tmp_path / "output" / "run" / "last.safetensors"
    assert read_checkpoint(path).meta["progress"]["step"] == 3
    again = together("--resume", "auto", accident="")
    assert again.returncode == 0 and "resuming from" in again.stdout, again.stdout
    saved = read_checkpoint(path).tensors
    expected = read_checkpoint(tmp_path / "whole" / "run" / "last.safetensors").tensors
    assert saved.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(saved[name], array, err_msg=name)


def test_the_traceback_of_the_process_that_failed_comes_last(together, left_behind, tmp_path):
    done = together(accident=AT_AN_UPDATE.format(rank=1, accident="raise RuntimeError('boom')"))
    assert done.seconds < 60
    assert done.returncode not in (0, None)
    assert last_of(done.stdout) == "RuntimeError: boom", done.stdout
    assert "process 1 failed:\nTraceback (most recent call last)" in done.stdout
    assert left_behind() == []
    saved = read_checkpoint(tmp_path / "output" / "run" / "last.safetensors")
    assert saved.meta["progress"]["step"] == 3


def test_a_bad_file_of_one_process_ends_all_with_its_name(experiment, together, left_behind):
    (experiment.parent / "val" / "猫" / "2.png").write_bytes(b"no image")
    done = together("dataloader.train.loader.max_bad=0", accident="")
    assert done.seconds < 60
    assert done.returncode not in (0, None)
    assert "2.png" in last_of(done.stdout)
    assert left_behind() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nobody_outlives_the_launcher(experiment, launcher, left_behind, tmp_path, number):
    """Paddle's launcher passes any signal on as SIGTERM, three times; what kills it, supervisors notice."""
    options = launcher(2, "-c", experiment, *SMALL, "epochs=500")
    said = []
    with subprocess.Popen(**options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            said.append(line)
            if "epoch 2/500" in line:
                process.send_signal(number)
                break
        process.stdout.read()
    # What Paddle notes when processes join, and bars, which the launcher would show line by line.
    noise = ("Modified FLAGS", "topology.py", "tcp_utils", "it/s]")
    assert not [words for words in noise if words in "".join(said)]
    until = time.monotonic() + 60
    while left_behind() and time.monotonic() < until:
        time.sleep(0.1)
    assert left_behind() == []
    if number == signal.SIGINT:
        assert process.returncode in (143, signal.SIGINT)  # its processes', or the launcher's own
    logs = [(tmp_path / "log" / f"workerlog.{rank}").read_text() for rank in (0, 1)]
    assert "stopped by SIGTERM; saved" in logs[0]
    assert "Traceback" not in "".join(logs)
    saved = read_checkpoint(tmp_path / "output" / "run" / "last.safetensors")
    assert saved.meta["progress"]["step"] >= 4


def test_a_silent_disk_ends_all_with_the_files_name(together, left_behind, tmp_path):
    path = tmp_path / "train" / "c" / "3.png"
    # Who opens a file that another process has leased waits until that gives it back, or for 45 seconds.
    lease = f"fcntl.fcntl(os.open('{path}', os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)"
    ignore = "signal.signal(signal.SIGIO, signal.SIG_IGN)"
    accident = AT_AN_UPDATE.format(rank=0, accident=f"import fcntl; {ignore}; {lease}")
    done = together("dataloader.train.loader.timeout=5", accident=accident)
    assert left_behind() == []
    assert done.returncode not in (0, None)
    assert done.seconds < 60 and "gloo/transport" not in done.logs  # nobody waited for gloo's half minute
    text = rf"error: no batch came for 5 s: worker 0 \(pid \d+\) had been reading image \d+ \({path}\) for "
    assert re.search(text, last_of(done.stdout))
    assert "Traceback" not in done.stdout


def test_a_storm_of_bad_files_ends_all_at_once(together, left_behind):
    """Every second image is bad; each is named once, whichever process met it."""
    files = "sorted(Path('train').rglob('*.png'))[::2]"
    spoil = AFTER_THE_CHECK.format(spoil=f"[path.write_bytes(b'<html>') for path in {files}]")
    done = together("dataloader.train.loader.max_bad=5", accident=spoil)
    assert left_behind() == []
    assert done.returncode not in (0, None)
    assert done.seconds < 60 and "gloo/transport" not in done.logs
    assert "Traceback" not in done.logs
    match = re.search(
        r"failed:\nerror: (\d+) faults in the data:\n  1\. (\d+) unreadable images, more than the 5",
        done.stdout,
    )
    assert match
    count = int(match[2])
    assert 6 <= count <= 12 and int(match[1]) == 1 + min(count, 10)
    named = re.findall(
        r"WARNING unreadable image (\d+) \(at most 5 may be skipped\).*: (/.*?\.png): ", done.logs
    )
    assert [int(number) for number, _ in named] == list(range(1, count + 1))
    assert len({path for _, path in named}) == count


def test_a_refused_connection_is_tried_again(together, left_behind, tmp_path):
    accident = f"""
    from paddle import distributed
    from paddle.base import core
    init, create = distributed.init_parallel_env, core.ProcessGroupGloo.create

    def counted(*args):
        with Path("{tmp_path}/groups." + os.environ["PADDLE_TRAINER_ID"]).open("a") as file:
            file.write("x")
        return create(*args)

    core.ProcessGroupGloo.create = counted

    def refuse():
        attempts = Path("{tmp_path}/attempts." + os.environ["PADDLE_TRAINER_ID"])
        with attempts.open("a") as file:
            file.write("x")
        if attempts.name.endswith("1") and attempts.stat().st_size == 1:
            raise RuntimeError("[gloo/transport/tcp/pair.cc] connect [127.0.0.1]:4018: Connection refused")
        init()

    distributed.init_parallel_env = refuse
"""
    done = together("epochs=1", accident=accident)
    assert left_behind() == []
    assert (tmp_path / "attempts.1").read_text() == "xx"
    # A second group would find addresses of the first in the store: the cause of refused connections.
    assert (tmp_path / "groups.1").read_text() == "x"
    assert "error" not in done.stdout.lower() and "failed" not in done.stdout
    assert "Connection refused" not in done.stdout + done.logs
    assert done.returncode == 0 and "finished" in done.stdout, done.stdout


def test_nan_in_one_process_is_traced_there(together, tmp_path):
    """Gradients are shared, so both have it; where it begins one of them knows."""
    accident = """
    prepare = classification.ClassificationTask.prepare

    def spoil_later(self, model, *args):
        fc1, calls = model.backbone.blocks[1].mlp.fc1, []

        def spoil(layer, inputs, output):
            calls.append(layer.training)
            if calls.count(True) > 4 and os.environ["PADDLE_TRAINER_ID"] == "1":
                return output * float("nan")

        fc1.register_forward_post_hook(spoil)
        prepare(self, model, *args)

    classification.ClassificationTask.prepare = spoil_later
"""
    done = together("nonfinite_limit=2", accident=accident)
    assert done.returncode == 1
    assert done.seconds < 60
    place = "the output of backbone.blocks.1.mlp.fc1 (Linear) in process 1"
    assert f"not finite in 2 updates in a row; it begins in {place}. The last" in last_of(done.stdout)
    saved = read_checkpoint(tmp_path / "output" / "run" / "last.safetensors")
    assert saved.meta["progress"]["step"] == 3
    assert all(np.isfinite(array).all() for array in saved.tensors.values())


def test_a_file_that_cannot_grow_ends_all(together, left_behind, tmp_path):
    """The second epoch's checkpoint: the others learn of it while they wait."""
    limit = "path = Path('output/run/last.safetensors'); size = path.stat().st_size // 2; "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))"
    done = together(accident=AT_AN_UPDATE.format(rank=0, accident=limit))
    assert left_behind() == []
    assert done.returncode == 2
    assert done.seconds < 60
    path = tmp_path / "output" / "run" / "last.safetensors"
    assert f"error: can't write checkpoint {path}: File too large." in last_of(done.stdout)
    assert read_checkpoint(path).meta["progress"]["step"] == 3


def test_sigterm_during_the_evaluation_of_one_process(experiment, together, tmp_path):
    """The other, which has more batches, stops with it."""
    accident = """
    from passl_sot.engine.distributed import World
    from passl_sot.modeling.classifier import Classifier
    forward, any_rank = Classifier.forward, World.any_rank

    def tell(self, here):
        answer = any_rank(self, here)
        if answer and self.rank:
            Path("told").touch()
        return answer

    def watched(self, x):
        rank = int(os.environ["PADDLE_TRAINER_ID"])
        if not self.training:
            with Path(f"evaluated.{rank}").open("a") as file:
                file.write("x")
            if Path(f"evaluated.{rank}").stat().st_size == 2:
                # Each is at its second batch when the signal comes to one of them.
                while rank and not (Path("evaluated.0").exists() and Path("evaluated.0").stat().st_size == 2):
                    time.sleep(0.01)
                if rank:
                    os.kill(os.getpid(), signal.SIGTERM)
                while not rank and not Path("told").exists():
                    time.sleep(0.01)
        return forward(self, x)

    Classifier.forward = watched
    World.any_rank = tell
"""
    small = "dataloader.val.sampler.batch_size=1"
    done = together(small, "epochs=2", accident=accident)
    assert done.returncode == 143, done.stdout
    folder = tmp_path / "output" / "run"
    assert f"stopped by SIGTERM; saved {folder}/last.safetensors" in done.stdout
    assert [len((tmp_path / f"evaluated.{rank}").read_text()) for rank in (0, 1)] == [2, 2]
    saved = read_checkpoint(folder / "last.safetensors").meta["progress"]
    assert saved["pending_evaluation"] and saved["step"] == 3
    # In one process, for a change: the updates are the same.
    cfg = load_config(experiment, [*SMALL[1:], small, "epochs=2"])
    Trainer(cfg, folder, World(), resume="auto").fit()
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "val_raw"]
    assert [row["step"] for row in rows] == [3, 6]
    assert {row["images"] for row in rows} == {9}
