"""Environment settings that make Paddle fast on a CPU; they must stand before it starts.

As it comes, Paddle runs at about 0.4 of its speed on this kind of machine: its 2019 matrix library takes
a slow path on AMD, transposes become slow strided views, and glibc maps and unmaps every large tensor.
"""

import contextlib
import itertools
import os
import sys
import warnings
from pathlib import Path

MARK = "PASSL_SOT_TUNED"
# What the matrix library's AVX-512 kernels are made of.
_AVX512 = {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}


def usable_cores(quota_file: str = "/sys/fs/cgroup/cpu.max") -> int:
    """Cores that this process may use: fewer than the machine has where it, or its container, is limited.

    Args:
        quota_file: Where control groups keep the limit of a container's processor time.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # there is none, or it says "max"
        time, period = Path(quota_file).read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(time) // int(period)))
    return cores


def usable_threads() -> int:
    """Threads to compute with: `usable_cores`, or OMP_NUM_THREADS where that was set when this process began.

    (Paddle sets it to 1 when it is imported, so its present value says nothing.)
    """
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/self/environ").read_bytes().split(b"\0")
        chosen = [line.partition(b"=")[2] for line in lines if line.startswith(b"OMP_NUM_THREADS=")]
        return max(1, min(int(chosen[0]), usable_cores())) if chosen else usable_cores()
    return usable_cores()


def settings(cpu: str) -> dict[str, str]:
    """The environment variables that `tune` sets, by the text of /proc/cpuinfo."""
    variables = {
        # Transposes become real copies. In-place writes through slices then don't reach the base tensor.
        "FLAGS_use_stride_kernel": "0",
        # glibc keeps large blocks instead of returning them to the system after every operation.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(32 * 2**30),
    }
    # The matrix library takes its fast kernels on Intel alone, unless it is told which: 7 are those for
    # AVX-512, 5 those for AVX2. On Intel it chooses by itself.
    if cpu_fact(cpu, "vendor_id") == "AuthenticAMD":
        flags = set(cpu_fact(cpu, "flags").split())
        if flags >= _AVX512:
            variables["MKL_DEBUG_CPU_TYPE"] = "7"
        elif "avx2" in flags:
            variables["MKL_DEBUG_CPU_TYPE"] = "5"
    return variables


def tune(enabled: bool = True) -> str:
    """Restarts this Python with the fast settings, unless they stand already. Call before importing Paddle.

    Gives a line about the settings in force, to be logged (after the restart).
    """
    # Paddle's import says so at every start; nothing here is ever compiled by it.
    warnings.filterwarnings("ignore", message="No ccache found")
    if not enabled:
        return "Paddle's environment left as it is (--no-tune); on CPU it may run at half its speed or less"
    wanted = settings(read_cpu())
    missing = {k: v for k, v in wanted.items() if k not in os.environ}
    if missing and MARK not in os.environ:
        # glibc reads its variables when a process starts, hence a restart and not just os.environ.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing, MARK: "1"})
    return "fast CPU settings: " + " ".join(f"{k}={os.environ[k]}" for k in wanted if k in os.environ)


def read_cpu() -> str:
    """What /proc/cpuinfo says of the first processor; "" where there is none."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return "".join(itertools.takewhile(str.strip, file))
    return ""


def describe_cpu() -> str:
    """The processor's name, family and model."""
    # The name of a virtual machine's often hides which one it is.
    cpu = read_cpu()
    name, family, model = (cpu_fact(cpu, key) for key in ("model name", "cpu family", "model"))
    return f"{name} (family {family}, model {model})"


def cpu_fact(cpu: str, name: str) -> str:
    """The value of a line of such a text; "" without one."""
    for line in cpu.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
