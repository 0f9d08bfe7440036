"""Supervisors without Paddle: they say the cause, end and start their children together, and leave none."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from passl_sot.launch.supervisor import Supervisor, supervise

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from passl_sot.launch.supervisor import report_failure, supervise

status = supervise()
if status is not None:
    sys.exit(status)
rank = int(os.environ["PADDLE_TRAINER_ID"])

def fail(text, status=1):
    report_failure(text)
    sys.exit(status)

"""
WAIT = "time.sleep(100)"
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
GLOO = "fail('[gloo/transport/tcp/pair.cc:534] Connection closed by peer')"


@pytest.fixture
def job(tmp_path):
    """Starts two processes with the environment that Paddle's launcher gives them, and these lines."""

    def begin(first: str, second: str, **more: str) -> list[subprocess.Popen]:
        processes = []
        for rank, line in enumerate((first, second)):
            script = tmp_path / f"rank{rank}.py"
            script.write_text(SCRIPT + line)
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "POD_NAME": "abcdef", "PADDLE_NNODES": "1"}
            environment |= {
                "PADDLE_TRAINERS_NUM": "2",
                "PADDLE_LOCAL_SIZE": "2",
                "PADDLE_TRAINER_ID": str(rank),
            }
            environment |= {"PADDLE_LOG_DIR": str(tmp_path), **more}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
            processes.append(subprocess.Popen([sys.executable, str(script)], env=environment, **pipes))
        return processes

    return begin


@pytest.fixture
def run(job):
    """Runs such a job to its end; status and messages of each process."""

    def to_the_end(first: str, second: str, **more: str) -> list[tuple[int, str]]:
        processes = job(first, second, **more)
        said = [process.communicate(timeout=60)[1] for process in processes]
        return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]

    return to_the_end


@pytest.mark.parametrize(
    ("first", "second", "status", "cause"),
    [
        (WAIT, "fail('error: this', 2)", 2, "process 1 failed:\nerror: this\n"),
        ("fail('error: that', 3)", WAIT, 3, "process 0 failed:\nerror: that\n"),
        (WAIT, "sys.exit(4)", 4, "process 1 failed:\nit left with status 4 and without a message; its log"),
        (
            KILLED,
            WAIT,
            1,
            ") was ended by SIGKILL: by hand, or by the system for want of memory (dmesg tells)\n",
        ),
        # The one that lost its peer speaks first; the peer is to blame.
        ("time.sleep(0.5); os.abort()", GLOO, 1, ") was ended by SIGABRT\n"),
        (WAIT, GLOO, 1, "process 1 failed:\n[gloo/transport/tcp/pair.cc:534] Connection closed by peer\n"),
    ],
    ids=["message", "first", "silent", "killed", "consequence", "consequence of nothing"],
)
def test_all_end_and_say_the_cause_last(run, left_behind, first, second, status, cause):
    for left_with, said in run(first, second):
        assert left_with == status
        assert said.startswith("process ") or "Traceback" in said
        assert cause in said[said.rindex("process ") :]
    assert left_behind() == []


def test_success_leaves_no_file(run, tmp_path):
    assert run("", "time.sleep(0.3)") == [(0, ""), (0, "")]
    assert {path.suffix for path in tmp_path.iterdir()} == {".py"}


def test_failures_without_a_place_to_write_them(run):
    """As on a full disk: each says its own."""
    statuses = run("fail('error: a')", "fail('error: b')", PADDLE_LOG_DIR="/nowhere")
    assert [status for status, _ in statuses] == [1, 1]
    assert "process 1 failed:\nit left with status 1" in statuses[1][1]


def test_a_refused_connection_is_tried_again(run):
    count = "Path(f'{rank}').open('a').write('x'); first = len(Path(f'{rank}').read_text()) == 1\n"
    # It is refused when the other has begun, which would take its second start for the first otherwise.
    begun = "while not (Path('0').exists() and Path('0').read_text()): time.sleep(0.01)\n"
    ended = run(f"{count}if first: time.sleep(100)", f"{count}{begun}if first: fail('refused', 75)")
    assert ended == [(0, ""), (0, "")]  # nobody has to do anything


def test_attempts_end(run, tmp_path):
    always = "Path('tries').open('a').write('x'); fail('refused', 75)"
    for status, said in run(WAIT, always):
        assert status == 75
        assert said == "process 1 failed:\nrefused\n"
    assert (tmp_path / "tries").read_text() == "xxx"
    for _, said in run(WAIT, always, PADDLE_NNODES="2", POD_NAME="other"):
        assert said == "process 1 failed:\nrefused\n"


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_the_end_of_a_log_begins_with_a_whole_character(tmp_path, shift):
    """The launcher shows the last 3,000 bytes, or nothing where they aren't text."""
    log = tmp_path / "log"
    script = tmp_path / "script.py"
    script.write_text(
        f"{SCRIPT}\nprint('\u7aef' * 1500, '-' * {shift}, file=sys.stderr)\nfail('the cause', 7)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "POD_NAME": "abcdef"}
    environment |= {"PADDLE_LOG_DIR": str(tmp_path), "PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "0"}
    environment["PADDLE_LOCAL_SIZE"] = "1"
    with log.open("w") as out:
        done = subprocess.run([sys.executable, script], stdout=out, stderr=out, env=environment, check=False)
    assert done.returncode == 7
    end = log.read_bytes()[-3000:].decode()
    assert end.startswith("\u7aef") and end.rstrip("\n").endswith("the cause")


def test_a_child_does_not_outlive_its_supervisor(job, left_behind):
    processes = job("print('up', flush=True); time.sleep(100)", "print('up', flush=True); time.sleep(100)")
    for process in processes:
        assert process.stdout.readline() == "up\n"
        process.kill()
    for process in processes:
        process.communicate(timeout=60)  # the children hold the pipes
    assert left_behind() == []


def test_a_signal_is_forwarded_once(job):
    """Paddle's launcher sends it again and again, while the child saves and ends."""
    count = "seen = []; signal.signal(signal.SIGTERM, lambda *_: seen.append(1)); print('up', flush=True)\n"
    count += "while not seen: time.sleep(0.01)\ntime.sleep(0.5); print(len(seen), flush=True)"
    processes = job(count, count)
    for process in processes:
        assert process.stdout.readline() == "up\n"
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
    assert [process.communicate(timeout=60)[0] for process in processes] == ["1\n", "1\n"]
    assert [process.returncode for process in processes] == [0, 0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_saved_and_stopped_is_no_failure(job, number):
    """Whoever was told: the others stop with it, and none is ended while it still saves."""
    told = "seen = []; signal.signal({0}, lambda *_: seen.append(1)); print('up', flush=True)\n"
    told += "while not seen: time.sleep(0.01)\nPath('told').touch(); sys.exit(128 + {0})"
    late = "print('up', flush=True)\nwhile not Path('told').exists(): time.sleep(0.01)\n"
    late += "time.sleep(1); print('saved', flush=True); sys.exit(128 + {0})"
    processes = job(told.format(int(number)), late.format(int(number)))
    for process in processes:
        assert process.stdout.readline() == "up\n"
    processes[0].send_signal(number)
    assert [process.communicate(timeout=60) for process in processes] == [("", ""), ("saved\n", "")]
    assert [process.returncode for process in processes] == [128 + number] * 2


def test_a_signal_that_comes_before_the_child_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "import time; time.sleep(60)"])
    supervisor = Supervisor(0, 1, tmp_path / "failure")
    supervisor._forward(signal.SIGTERM, None)
    child = supervisor._start()
    assert child.wait(20) == -signal.SIGTERM
    assert supervisor._outcome(child).text == "stopped by SIGTERM"


def test_what_supervision_needs(monkeypatch):
    """Several processes, started by Paddle's launcher."""
    for name in ("PADDLE_TRAINERS_NUM", "PADDLE_LOG_DIR", "POD_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert supervise() is None
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    assert supervise() is None
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "1")
    monkeypatch.setenv("PADDLE_LOG_DIR", "log")
    monkeypatch.setenv("POD_NAME", "abcdef")
    assert supervise() is None
