"""Code of compiled loops on disk: compiled by one process of the machine, and never in the way."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

# Says "ready", waits for a line, then normalizes two images; prints them and how many loops it compiled.
PROGRAM = """
import json, shutil, sys
from pathlib import Path
import numpy as np
from passl_sot.imageio.kernels import cache, layout
print("ready", flush=True)
task = input()
folder = Path(layout.normalize._cache.cache_path)
if task == "spoil":
    shutil.rmtree(folder)
    folder.write_text("a file where the folder was")
scale = np.full(3, 2, np.float32)
out = np.empty((2, 3, 1), np.float32)
layout.normalize_each(np.arange(6, dtype=np.uint8).reshape(2, 3), scale, scale, out)
loops = (layout.normalize_each, layout.normalize)
compiled = sum(sum(loop.stats.cache_misses.values()) for loop in loops)
print(json.dumps([out.ravel().tolist(), compiled, str(folder), cache.state()]))
"""


def start(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=pipe, stdout=pipe, text=True, env=environment
    )


def result(process: subprocess.Popen) -> list:
    answer = json.loads(process.stdout.readline())
    assert process.wait() == 0
    pixels, *rest = answer
    assert pixels == [2, 4, 6, 8, 10, 12]
    return rest


def begin(process: subprocess.Popen, task: str = "") -> None:
    process.stdin.write(f"{task}\n")
    process.stdin.close()


def test_processes_that_begin_together_compile_each_loop_once(tmp_path):
    processes = [start(tmp_path) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        begin(process)
    counts = [result(process)[0] for process in processes]
    assert sum(counts) == 2  # loops: one, and one that it calls


def test_whoever_compiles_has_the_lock_and_others_see_it(tmp_path):
    first = start(tmp_path)
    assert first.stdout.readline() == "ready\n"
    begin(first)
    compiled, folder, state = result(first)
    assert compiled == 2 and state == "idle"
    # Held by a process that compiles something else: what is there already is taken all the same.
    with (Path(folder) / "compiling.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = start(tmp_path)
        assert second.stdout.readline() == "ready\n"
        begin(second)
        assert result(second) == [0, folder, "compiling"]


def test_a_folder_that_goes_ends_nothing(tmp_path):
    process = start(tmp_path)
    assert process.stdout.readline() == "ready\n"
    begin(process, "spoil")
    assert result(process)[0] == 2
