"""Workers that die, hang, are orphaned or get signals: real processes, real blocking files."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from passl_sot.data import build_dataloader, build_dataset, check_data
from passl_sot.data.errors import WorkerError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def silent(folder, split):
    """A loader over 16 images of which the one in the second place of `b` never answers; its path."""
    paths = []

    def make(workers: int, **more):
        root = folder({"a": 8, "b": 8}, name=f"set{workers}")
        config = split(root, workers=workers, shuffle=False)
        config["loader"].update(more)
        dataset = build_dataset(config["dataset"])
        path = Path(dataset.path(9))
        path.unlink()
        os.mkfifo(path)
        paths.append(path)
        return build_dataloader(config, mode="train", seed=0, dataset=dataset), path

    yield make
    for path in paths:
        # Threads of this process that still wait there come to an end.
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    for thread in threading.enumerate():
        if "_thread_loop" in thread.name:
            thread.join(5)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_never_answers(silent, workers):
    loader, path = silent(workers, timeout=1)
    who = r"worker [01] \(pid \d+\)" if workers else "the thread that reads images"
    began = time.monotonic()
    with pytest.raises(
        WorkerError, match=rf"no batch came for 1 s: {who} had been reading image 9 \({path}\) for"
    ):
        list(loader)
    assert time.monotonic() - began < 12
    assert not multiprocessing.active_children()


def test_leaving_while_a_worker_hangs(silent):
    """What ends the loop is another matter, such as a signal; the worker must not hold it back."""
    loader, _ = silent(1, timeout=None)
    for _ in loader:  # one of four; by now the worker has been told of the third
        until = time.monotonic() + 10
        while "had been reading image 9 " not in loader._reader.whereabouts(0):
            assert time.monotonic() < until
            time.sleep(0.01)
        began = time.monotonic()
        break
    assert time.monotonic() - began < 15
    assert not multiprocessing.active_children()


def test_the_check_before_a_run_does_not_wait_either(silent):
    loader, path = silent(0)
    with pytest.raises(WorkerError, match=rf"image 9 \({path}\) was not read within 0.5 s"):
        check_data(loader.dataset, None, 2, timeout=0.5)


def test_a_worker_that_dies_while_the_main_process_is_busy(folder, split):
    """No error where the main thread happens to be; the next batch that is asked for tells."""
    loader = build_dataloader(split(folder({"a": 100}), workers=2), mode="train", seed=0)
    batches = iter(loader)
    next(batches)
    first = min(multiprocessing.active_children(), key=lambda process: process.pid)
    os.kill(first.pid, signal.SIGSEGV)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        sum(range(1000))
    with pytest.raises(WorkerError, match=rf"worker 0 \(pid {first.pid}\) was ended by SIGSEGV; it "):
        list(batches)


def test_workers_end_with_a_killed_parent(folder, split):
    code = (
        "import multiprocessing, os, sys\nfrom passl_sot.data import build_dataloader\n"
        f"loader = build_dataloader({split(folder({'a': 100}), workers=2)!r}, mode='train', seed=0)\n"
        "for _ in loader:\n"
        "    print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as parent:
        pids = parent.stdout.readline().split()
        assert len(pids) == 2 and all(Path(f"/proc/{pid}").exists() for pid in pids)
        parent.kill()
        assert parent.stdout.read() == ""  # the pipe's other end is closed by all who had it
    until = time.monotonic() + 2
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_strangers_sigterm_is_not_for_workers(folder, split):
    loader = build_dataloader(split(folder({"a": 60}), workers=2), mode="train", seed=0)
    seen = 0
    for batch in loader:
        if not seen:
            pids = [str(process.pid) for process in multiprocessing.active_children()]
            subprocess.run(["kill", "-TERM", *pids], check=True)
            time.sleep(0.3)
        seen += len(batch["label"])
    assert seen == 60


def test_a_suspended_job_has_not_waited(folder, split):
    """As by a scheduler that gives the machine to another job for a while."""
    config = split(folder({"a": 60}), workers=1)
    config["loader"]["timeout"] = 1.5
    code = (
        "import multiprocessing, os, subprocess, time\nfrom passl_sot.data import build_dataloader\n"
        f"loader = build_dataloader({config!r}, mode='train', seed=0)\n"
        "for number, _ in enumerate(loader, 1):\n"
        "    if number == 2:\n"
        "        worker, own = multiprocessing.active_children()[0].pid, os.getpid()\n"
        "        stop = f'kill -STOP {worker}; sleep 0.5; kill -STOP {own}; sleep 3; kill -CONT {own} {worker}'\n"
        "        subprocess.Popen(['sh', '-c', stop])\n"
        "        time.sleep(0.2)\n"
        "print(number)\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "15\n", done.stderr
    assert time.monotonic() - began > 3.5
