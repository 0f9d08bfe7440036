"""Tuning and the Paddle check, in processes of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from passl_sot.launch.cpu_env import MARK, cpu_fact, read_cpu, settings

ROOT = Path(__file__).parents[2]
NO_PADDLE = """
import sys
sys.modules["paddle"] = None
"""


def untuned() -> dict[str, str]:
    drop = {MARK, "MKL_DEBUG_CPU_TYPE", *settings("")}
    return {k: v for k, v in os.environ.items() if k not in drop}


def run(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=untuned(), timeout=60)


# The lines of /proc/cpuinfo that count, of a processor each; others stand between them.
CPUS = {
    "Zen 5": (
        "AuthenticAMD",
        "sse4_2 avx2 avx512f avx512dq rdseed avx512cd avx512bw avx512vl avx512_bf16",
        "7",
    ),
    "Zen 3": ("AuthenticAMD", "sse4_2 fma avx avx2 rdseed", "5"),
    "Zen 4 whose hypervisor hides a part": ("AuthenticAMD", "avx2 avx512f avx512cd", "5"),
    "Bulldozer": ("AuthenticAMD", "sse4_2 avx fma4", None),
    "Sapphire Rapids": ("GenuineIntel", "avx2 avx512f avx512dq avx512cd avx512bw avx512vl", None),
    "of another kind": (None, None, None),
}


@pytest.mark.parametrize("name", CPUS)
def test_the_matrix_librarys_switch_follows_the_processor(name):
    vendor, flags, wanted = CPUS[name]
    text = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: 26\nflags\t\t: {flags}\n" if flags else ""
    found = settings(text)
    assert found.get("MKL_DEBUG_CPU_TYPE") == wanted
    assert found["FLAGS_use_stride_kernel"] == "0"


def test_this_machines_processor_is_read():
    text = read_cpu()
    assert text.count("processor\t") <= 1
    if "flags" in text:  # not on ARM
        assert "fpu" in cpu_fact(text, "flags").split()
    assert cpu_fact(text, "no such line") == ""


def settings_that_run_here() -> list[str | None]:
    """No switch, and those whose kernels this processor can run; not that of this process's own tests."""
    flags = cpu_fact(read_cpu(), "flags")
    as_amd = f"vendor_id: AuthenticAMD\nflags: {flags}\n"
    best = settings(as_amd).get("MKL_DEBUG_CPU_TYPE")
    found = [None, *(kind for kind in ("5", "7") if best and kind <= best)]
    if settings("").items() <= os.environ.items():  # tuned: the golden tests themselves are run under it
        found.remove(os.environ.get("MKL_DEBUG_CPU_TYPE"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", settings_that_run_here())
def test_models_agree_with_the_official_numbers_under_each_setting(kind):
    """Golden tests, in processes of their own."""
    environment = {**untuned(), MARK: "1", **settings("")}
    if kind:
        environment["MKL_DEBUG_CPU_TYPE"] = kind
    chosen = "(test_whole_model and float32 and (t2t_vit_7 or deit_tiny_patch or pit_ti-)) or test_head["
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen]
    command.append(str(ROOT / "tests" / "modeling" / "test_golden.py"))
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


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


def test_sigterm_ends_a_command_without_paddles_stack():
    """As if it had crashed; training handles the signal itself."""
    code = """
import sys, time
from passl_sot.cli.command import guarded
guarded(lambda: (print("ready", flush=True), time.sleep(300)))
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=untuned(), cwd=ROOT, **pipes) as child:
        assert child.stdout.readline() == "ready\n"
        child.terminate()
        assert "FatalError" not in child.communicate(timeout=60)[1]
    assert child.returncode == -signal.SIGTERM
