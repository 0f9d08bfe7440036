"""Two machines, as two network namespaces with a cable between them: they train, and they resume."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from passl_sot.weights.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]


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


def train_on(machines, experiment: Path, tmp_path: Path, *more: str) -> list[str]:
    """What the two launchers print."""
    master = f"{machines[0][1]}:29177"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE")}
    environment["PYTHONPATH"] = str(ROOT)
    jobs = []
    for rank, (name, address) in enumerate(machines):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "paddle.distributed.launch"]
        command += ["--master", master, "--nnodes", "2", "--rank", str(rank), "--host", address]
        command += ["--nproc_per_node", "1", "--log_level", "ERROR", "--log_dir", str(tmp_path / name)]
        command += [str(ROOT / "tools" / "train.py"), "-c", str(experiment), *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        jobs.append(subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes))
    try:
        texts = [job.communicate(timeout=120)[0] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(texts)
    return texts


@pytest.mark.slow
def test_two_machines_train_and_resume(machines, experiment, tmp_path):
    settings = ("-o", "dataloader.train.sampler.batch_size=4")
    first, _ = train_on(machines, experiment, tmp_path, *settings, "epochs=1")
    assert "4 per device x 2 device(s)" in first
    more = ("epochs=2", "--resume", "auto", "--resume-override", "epochs")
    again, _ = train_on(machines, experiment, tmp_path, *settings, *more)
    assert "resuming from" in again
    saved = read_checkpoint(tmp_path / "output" / "run" / "last.safetensors")
    assert saved.meta["progress"]["epoch"] == 2
