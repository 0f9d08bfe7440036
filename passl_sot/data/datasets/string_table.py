"""Many strings in two arrays, and the order in which people expect names."""

import os
import re
from collections.abc import Iterable, Sequence

import numpy as np

# 2^64 over the golden ratio, as in Fibonacci hashing.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_DIGITS = re.compile(r"([0-9]+)")


class StringTable:
    """A read-only list of strings in one byte buffer; file names that aren't valid UTF-8 survive."""

    # A million paths as Python objects cost about 150 MB in every worker process, as reference counts make
    # each worker copy them; here they share 40 MB.
    def __init__(self, strings: Iterable[str]):
        strings = list(strings)
        text = "".join(strings)
        entries: Sequence[str | bytes] = strings
        if not text.isascii():  # otherwise lengths in characters are lengths in bytes
            entries = [os.fsencode(string) for string in strings]
        self._offsets = np.zeros(len(entries) + 1, np.int64)
        np.cumsum(list(map(len, entries)), out=self._offsets[1:])
        self._buffer = np.frombuffer(os.fsencode(text), np.uint8)

    @classmethod
    def from_parts(cls, offsets: np.ndarray, buffer: np.ndarray) -> "StringTable":
        """A table over arrays that `parts` gave, such as those of a mapped file."""
        table = cls(())
        table._offsets = offsets
        table._buffer = buffer
        return table

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Where entries begin and end, int64 [N + 1], and their bytes, uint8."""
        return self._offsets, self._buffer

    def name_codes(self) -> np.ndarray:
        """A hash of each entry's file name, the part after the last "/", uint64 [N]."""
        codes = np.zeros(len(self), np.uint64)
        places = self._offsets[1:] - 1
        rows = np.arange(len(self))
        # From the ends of all names to their fronts, one byte of each at a time.
        while len(rows := rows[places[rows] >= self._offsets[rows]]):
            rows = rows[self._buffer[places[rows]] != ord("/")]
            codes[rows] = codes[rows] * _FACTOR + self._buffer[places[rows]] + np.uint64(1)
            places[rows] -= 1
        return codes

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"entry {index} of {size}")
        index %= size
        return os.fsdecode(self._buffer[self._offsets[index] : self._offsets[index + 1]].tobytes())


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key by which digits inside names count as numbers: 0, 1, 2, 10; img2, img10."""
    # Every second part is digits, so that a number is never compared with a text.
    parts = [int(part) if place % 2 else part for place, part in enumerate(_DIGITS.split(name))]
    return parts, name  # the name decides between 1 and 01
