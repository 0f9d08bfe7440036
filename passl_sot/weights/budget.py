"""How much memory the reading of one file may take, so that a small one can't fill the machine."""

import math
import os
from pathlib import Path

from passl_sot.config import zh
from passl_sot.utils.memory import machine_memory
from passl_sot.weights import CheckpointError

LIMIT = "PASSL_SOT_READ_LIMIT"  # the environment variable that replaces the limits below, in GB
# Weights that are stored in 8 bits take four times their file's size; compressed zeros can take any.
_TIMES = 16
_FREE = 2**28
_MOST = 2**35


class Budget:
    """The bytes that reading a file of `size` may still take: 16 times as many and 256 MB.

    At most they are 34 GB, or what the machine has.
    All readers count what they make, before they make it where it can be large. What is freed on the way
    isn't given back.
    """

    def __init__(self, size: int):
        self._size = size
        self._limit = min(_TIMES * size + _FREE, _MOST, machine_memory())
        given = os.environ.get(LIMIT)
        if given is not None:
            self._limit = _bytes_of(given)
        self._left = self._limit

    @classmethod
    def of(cls, path: Path) -> "Budget":
        """The budget of a file."""
        return cls(path.stat().st_size)

    def take(self, count: int) -> None:
        """Counts so many bytes; a CheckpointError where they are more than there are left."""
        self._left -= count
        if self._left < 0:
            raise CheckpointError(
                f"it has {self._size:,} bytes and would take more than {self._limit / 1e9:.3g} GB of memory; "
                f"refused. If you trust it, allow more by the environment variable {LIMIT}=GB"
                + zh("read_limit")
            )


def _bytes_of(text: str) -> int:
    try:
        count = float(text) * 1e9
    except ValueError:
        count = math.nan
    if not 0 < count < math.inf:
        raise CheckpointError(f"the environment variable {LIMIT} is {text!r}, not a number of GB above 0")
    return int(count)
