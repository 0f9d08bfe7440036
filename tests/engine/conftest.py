"""Jobs of several processes, started as users start them, and what they may leave behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def launcher(tmp_path):
    """The command and environment that start `script` (default: tools/train.py) in so many processes."""

    def command(processes: int, *arguments: object, script: Path | None = None) -> dict:
        words = ["-m", "paddle.distributed.launch", "--nproc_per_node", processes, "--log_level", "ERROR"]
        words += ["--log_dir", tmp_path / "log", script or ROOT / "tools" / "train.py", *arguments]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE")}
        environment["PYTHONPATH"] = str(ROOT)
        return {"args": [sys.executable, *map(str, words)], "env": environment, "cwd": tmp_path}

    return command


@pytest.fixture
def launch(launcher):
    """Runs a job to its end; standard output and error come as one text, as on a screen."""

    def run(processes: int, *arguments: object, script: Path | None = None, timeout: float = 240):
        options = launcher(processes, *arguments, script=script)
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": timeout}
        return subprocess.run(**options, **out, check=False)

    return run


@pytest.fixture
def left_behind(tmp_path):
    """Processes whose command line names this test's folder."""

    def look() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it has ended meanwhile
            if str(tmp_path) in line:
                found.append(line)
        return found

    return look
