"""Tuning and the Paddle check, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from passl_sot.launch.cpu_env import MARK, settings

ROOT = Path(__file__).parents[2]
NO_PADDLE = """
import sys
sys.modules["paddle"] = None
"""


def untuned() -> dict[str, str]:
    drop = {MARK, *settings("AuthenticAMD")}
    return {k: v for k, v in os.environ.items() if k not in drop}


def run(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=untuned(), timeout=60)


def test_only_amd_gets_the_matrix_librarys_switch():
    assert settings("AuthenticAMD")["MKL_DEBUG_CPU_TYPE"] == "5"
    assert "MKL_DEBUG_CPU_TYPE" not in settings("GenuineIntel")
    assert settings("GenuineIntel")["FLAGS_use_stride_kernel"] == "0"


def script(tmp_path: Path, arguments: str = "") -> Path:
    path = tmp_path / "tool.py"
    path.write_text(
        "import os, sys\n"
        "from passl_sot.launch.cpu_env import tune\n"
        f"line = tune({arguments})\n"
        "assert 'paddle' not in sys.modules\n"
        "print(line, '|', os.environ.get('MALLOC_MMAP_MAX_'), '|', sys.argv[1:], '|', sys.flags.utf8_mode)\n"
    )
    return path


def test_a_tool_restarts_itself_once_with_the_settings(tmp_path):
    command = [sys.executable, "-X", "utf8", script(tmp_path), "a b", "-c", "x"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=untuned())
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("fast CPU settings: ")
    assert lines[0].endswith("| 0 | ['a b', '-c', 'x'] | 1")


def test_no_tune_leaves_the_environment_alone(tmp_path):
    command = [sys.executable, script(tmp_path, "False")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=untuned())
    assert "--no-tune" in done.stdout
    assert "| None |" in done.stdout


def test_a_setting_of_the_users_own_stays(tmp_path):
    environment = {**untuned(), "MALLOC_MMAP_MAX_": "7"}
    command = [sys.executable, script(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert "| 7 |" in done.stdout


def test_a_missing_paddle_gives_one_clear_sentence(tmp_path):
    done = run(NO_PADDLE + "from passl_sot import Model")
    assert done.returncode == 1
    assert "PaddlePaddle is not installed: run `pip install paddlepaddle" in done.stderr.splitlines()[-1]
    call = "from passl_sot.cli import train; sys.exit(train(['-c', 'sot_tiny', '--no-tune']))"
    done = run(NO_PADDLE + call)
    assert done.returncode == 2
    assert done.stderr.startswith("error: PaddlePaddle is not installed")
    assert len(done.stderr.splitlines()) == 1
    done = run(NO_PADDLE + "import passl_sot; print(passl_sot.list_models('sot_t*'))")
    assert done.stdout == "['sot_tiny']\n"
