"""Two machines, as two network namespaces with a cable between them: they train, resume, lose each other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from passl_sot.weights.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "tools" / "train.py"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines():
    """Names and addresses of two namespaces."""
    number = os.getpid() % 200 + 20
    names = [f"sot{number}a", f"sot{number}b"]
    addresses = [f"10.{number}.7.1", f"10.{number}.7.2"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        for name, address in zip(names, addresses, strict=True):
            ip("link", "set", name, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', None) or error}")
    else:
        yield list(zip(names, addresses, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


# The second machine's process is killed; the first one's would wait for it in the store, for ever.
LOST = """
import os, signal, sys
from passl_sot import cli
from passl_sot.launch.supervisor import REPORT

if REPORT in os.environ:
    from passl_sot.engine import distributed
    from passl_sot.engine.trainer import Trainer
    distributed._ALIVE = 0.1
    distributed._SILENT = 3.0
    agree = Trainer._agree

    def meet_with_it(self, *args, **more):
        if self.world.rank == 1 and self.progress.step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return agree(self, *args, **more)

    Trainer._agree = meet_with_it

sys.exit(cli.train())
"""


def train_on(machines, experiment: Path, tmp_path: Path, *more: str, script: Path = TRAIN) -> list[tuple]:
    """Exit status and output of the two launchers."""
    master = f"{machines[0][1]}:29177"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE")}
    environment["PYTHONPATH"] = str(ROOT)
    jobs = []
    for rank, (name, address) in enumerate(machines):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "paddle.distributed.launch"]
        command += ["--master", master, "--nnodes", "2", "--rank", str(rank), "--host", address]
        command += ["--nproc_per_node", "1", "--log_level", "ERROR", "--log_dir", str(tmp_path / name)]
        command += [str(script), "-c", str(experiment), *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        jobs.append(subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes))
    try:
        texts = [job.communicate(timeout=120)[0] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    return [(job.returncode, text) for job, text in zip(jobs, texts, strict=True)]


@pytest.mark.slow
def test_two_machines_train_and_resume(machines, experiment, tmp_path):
    settings = ("-o", "dataloader.train.sampler.batch_size=4")
    (status, first), (other, _) = train_on(machines, experiment, tmp_path, *settings, "epochs=1")
    assert (status, other) == (0, 0), first
    assert "4 per device x 2 device(s)" in first
    more = ("epochs=2", "--resume", "auto", "--resume-override", "epochs")
    (status, again), (other, _) = train_on(machines, experiment, tmp_path, *settings, *more)
    assert (status, other) == (0, 0), again
    assert "resuming from" in again
    saved = read_checkpoint(tmp_path / "output" / "run" / "last.safetensors")
    assert saved.meta["progress"]["epoch"] == 2


@pytest.mark.slow
def test_a_lost_machine_ends_the_job_on_the_others(machines, experiment, tmp_path):
    script = tmp_path / "lost.py"
    script.write_text(LOST)
    settings = ("-o", "dataloader.train.sampler.batch_size=4")
    (status, first), (other, second) = train_on(machines, experiment, tmp_path, *settings, script=script)
    assert status and other
    # The others wait for it in the store, which tells which it was, or in a sum.
    assert re.search("process( 1)? is gone; the log on its machine has the cause", first)
    assert "was ended by SIGKILL" in second
