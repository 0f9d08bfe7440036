"""Processes that meet: what is checked first, and that nobody waits for another's work in a collective."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import paddle
import pytest

from passl_sot.config.loader import ConfigError
from passl_sot.engine.distributed import start
from passl_sot.launch.process_group import check_gpu

ROOT = Path(__file__).parents[2]
JOIN = """
import sys
from passl_sot.cli.command import guarded
def run():
    from passl_sot.engine.distributed import start
    start("cpu", limit=6)
    return 0
sys.exit(guarded(run))
"""


def join(port: int, rank: int, report: Path) -> subprocess.CompletedProcess:
    """Process `rank` of two, alone, as a supervisor starts it."""
    more = {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": str(rank), "PYTHONPATH": str(ROOT)}
    more |= {"PADDLE_MASTER": f"127.0.0.1:{port}", "PADDLE_CURRENT_ENDPOINT": f"127.0.0.1:{port + rank + 1}"}
    more["PADDLE_TRAINER_ENDPOINTS"] = f"127.0.0.1:{port + 1},127.0.0.1:{port + 2}"
    options = {"capture_output": True, "text": True, "timeout": 60}
    environment = {**os.environ, **more, "PASSL_SOT_REPORT": str(report)}
    return subprocess.run([sys.executable, "-c", JOIN], env=environment, check=False, **options)


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_whose_peer_never_comes_gives_advice(port, rank, tmp_path):
    began = time.monotonic()
    done = join(port, rank, tmp_path / "report")
    assert time.monotonic() - began < 25
    assert done.returncode == 1
    said = json.loads((tmp_path / "report").read_text())
    assert said["final"]
    wanted = f"error: within 6 s process {rank} of 2 could not join the others at 127.0.0.1:{port}. "
    assert said["text"].startswith(wanted)
    assert "firewall" in said["text"]


def test_a_port_that_is_taken(port, tmp_path):
    with socket.create_server(("127.0.0.1", port)):
        done = join(port, 0, tmp_path / "report")
    assert done.returncode == 2
    assert f"error: process 0 can't listen on 127.0.0.1:{port} (Address already in use)" in done.stderr
    assert "Traceback" not in done.stderr


def test_devices_that_are_not_there(monkeypatch):
    assert check_gpu("1,2", 2) == 1
    with pytest.raises(ConfigError, match=r"is to use GPU 3, and Paddle sees 2 \(numbers 0 to 1\)"):
        check_gpu("3", 2)
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: False)
    with pytest.raises(ConfigError, match="device is 'gpu' but Paddle sees none"):
        start("gpu")
