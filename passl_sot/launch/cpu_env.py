"""Environment settings that make Paddle fast on a CPU; they must stand before it starts.

As it comes, Paddle runs at about 0.4 of its speed on this kind of machine: its 2019 matrix library takes
a slow path on AMD, transposes become slow strided views, and glibc maps and unmaps every large tensor.
"""

import contextlib
import os
import sys
import warnings

MARK = "PASSL_SOT_TUNED"


def usable_cores() -> int:
    """Cores that this process may run on: fewer than the machine has where it is bound to some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def settings(cpu_vendor: str) -> dict[str, str]:
    """The environment variables that `tune` sets, by the `vendor_id` of /proc/cpuinfo."""
    variables = {
        # Transposes become real copies. In-place writes through slices then don't reach the base tensor.
        "FLAGS_use_stride_kernel": "0",
        # glibc keeps large blocks instead of returning them to the system after every operation.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(32 * 2**30),
    }
    # The matrix library's switch: on Intel it would turn AVX-512 off.
    if cpu_vendor == "AuthenticAMD":
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
    wanted = settings(_cpu_vendor())
    missing = {k: v for k, v in wanted.items() if k not in os.environ}
    if missing and MARK not in os.environ:
        # glibc reads its variables when a process starts, hence a restart and not just os.environ.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing, MARK: "1"})
    return "fast CPU settings: " + " ".join(f"{k}={os.environ[k]}" for k in wanted if k in os.environ)


def _cpu_vendor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("vendor_id"):
                return line.split(":")[1].strip()
    return ""
