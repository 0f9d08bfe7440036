"""The real PaddleX and PaddleClas: processes in environments of their own."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from ppcls_tools.make_client_envs import ROOT, is_ready, python_of

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="session")
def client():
    """`client(name, program, task)` runs a program of `programs/` in a client's environment.

    It is handed the task as JSON, and gives back what it writes to its result file.
    """

    def run(name: str, program: str, task: dict, folder: Path) -> dict:
        if not is_ready(name):
            pytest.skip(f"no {name} here: python3 ppcls_tools/make_client_envs.py {name}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "task.json").write_text(json.dumps(task, default=str))
        # Nothing of this project is in reach but the checkout's ppcls_tools.
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FLAGS_"))},
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True",
        }
        command = [python_of(name), PROGRAMS / program, folder / "task.json", folder / "result.json"]
        done = subprocess.run(
            list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
        return json.loads((folder / "result.json").read_text())

    return run
