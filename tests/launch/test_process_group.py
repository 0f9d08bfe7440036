"""Processes that meet: what is checked first, and that nobody waits for another's work in a collective."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import paddle
import pytest

from passl_sot import cli
from passl_sot.config import ConfigError
from passl_sot.engine.distributed import start
from passl_sot.launch.process_group import check_gpu

ROOT = Path(__file__).parents[2]
JOIN = """
import sys
from passl_sot.cli.command import guarded
def run():
    from passl_sot.engine.distributed import start
    start("cpu", limit=1)
    return 0
sys.exit(guarded(run))
"""


def join(port: int, rank: int, report: Path) -> subprocess.Popen:
    """Process `rank` of two, alone, as a supervisor starts it."""
    more = {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": str(rank), "PYTHONPATH": str(ROOT)}
    more |= {"PADDLE_MASTER": f"127.0.0.1:{port}", "PADDLE_CURRENT_ENDPOINT": f"127.0.0.1:{port + rank + 1}"}
    more["PADDLE_TRAINER_ENDPOINTS"] = f"127.0.0.1:{port + 1},127.0.0.1:{port + 2}"
    environment = {**os.environ, **more, "PASSL_SOT_REPORT": str(report)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", JOIN], env=environment, **pipes)


def test_processes_that_cannot_meet_end_with_advice(tmp_path):
    """At once: each of two whose peer never comes, and one whose port is taken."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [server.getsockname()[1] for server in servers]
        for server in servers[:2]:
            server.close()
        reports = [tmp_path / name for name in ("first", "second", "taken")]
        jobs = [
            join(port, rank, report) for port, rank, report in zip(ports, (0, 1, 0), reports, strict=True)
        ]
        said = [job.communicate(timeout=120)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [1, 1, 2]
    for rank in (0, 1):
        wanted = (
            f"error: within 1 s process {rank} of 2 could not join the others at 127.0.0.1:{ports[rank]}. "
        )
        report = reports[rank].read_text()
        assert report.startswith(wanted)
        assert "firewall" in report
    taken = f"error: process 0 can't listen on 127.0.0.1:{ports[2]} (Address already in use)"
    assert taken in said[2] and reports[2].read_text().startswith(taken)
    assert "Traceback" not in said[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PADDLE_TRAINERS_NUM": "abc"}, "PADDLE_TRAINERS_NUM is 'abc', and must be a whole number from 1"),
        ({"PADDLE_TRAINERS_NUM": "0"}, "PADDLE_TRAINERS_NUM is '0'"),
        ({"PADDLE_TRAINERS_NUM": "-2"}, "PADDLE_TRAINERS_NUM is '-2'"),
        ({"PADDLE_TRAINER_ID": "zz"}, "PADDLE_TRAINER_ID is 'zz', and must be a whole number from 0 to 1"),
        ({"PADDLE_TRAINERS_NUM": None, "PADDLE_TRAINER_ID": "zz"}, "PADDLE_TRAINER_ID is 'zz'"),
        ({"PADDLE_TRAINER_ID": "2"}, "PADDLE_TRAINER_ID is '2'"),
        ({"PADDLE_TRAINER_ID": None}, "PADDLE_TRAINER_ID is not set"),
        ({"PADDLE_NNODES": "1.5"}, "PADDLE_NNODES is '1.5'"),
        ({"PADDLE_MASTER": "here"}, "PADDLE_MASTER is 'here', and must be HOST:PORT"),
        ({"PADDLE_MASTER": "here:99999"}, "PADDLE_MASTER is 'here:99999'"),
        ({"PADDLE_TRAINERS_NUM": "1", "PADDLE_LOCAL_SIZE": "x"}, "PADDLE_LOCAL_SIZE is 'x'"),
    ],
)
def test_environments_of_no_launcher(experiment, monkeypatch, capsys, changes, message):
    """As of a job script with a mistake: one line, before anything connects."""
    launched = {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "0", "PADDLE_MASTER": "127.0.0.1:1"}
    for name, value in {**launched, "PADDLE_LOCAL_SIZE": "2", "PADDLE_LOG_DIR": "log", **changes}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    arguments = ["-c", str(experiment), "-o", "epochs=1"]
    given = [*changes.values()][-1] or ""
    for more in ({}, {"POD_NAME": "abcdef"}):  # with it, Paddle's launcher, whose processes supervise others
        if more and (given.isdecimal() or "PADDLE_NNODES" in changes or "PADDLE_MASTER" in changes):
            continue
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        for data in ([], ["--data", str(experiment.parent)]):
            assert cli.train([*arguments, *data]) == 2
            said = capsys.readouterr().err
            assert message in said and said.count("error:") == 1


def test_devices_that_are_not_there(monkeypatch):
    assert check_gpu("1,2", 2) == 1
    with pytest.raises(ConfigError, match=r"is to use GPU 3, and Paddle sees 2 \(numbers 0 to 1\)"):
        check_gpu("3", 2)
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: False)
    with pytest.raises(ConfigError, match="device is 'gpu' but Paddle sees none"):
        start("gpu")
