"""How much memory there is, for estimates before anything large is made."""

import os
from contextlib import suppress
from pathlib import Path

# Limits of the control groups of a container, in both versions of their file system.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int:
    """Bytes of memory that this machine has, or this container may use."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min(found)
