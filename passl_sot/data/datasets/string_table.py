"""Many strings in two arrays, and the order in which people expect names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import numpy as np

_AT_ONCE = 1 << 14  # entries, whose bytes then fit into the processor's cache
_ONE = np.uint64(1)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64
_INVERSE = np.uint64(pow(int(_FACTOR), -1, 2**64))
_DIGITS = re.compile(r"([0-9]+)")


class StringTable:
    """A read-only list of strings in one byte buffer.

    A million paths as Python objects cost about 150 MB in every worker process (reference counts make each
    worker copy them); here they share 40 MB.

    Args:
        strings: The entries; file names that aren't valid UTF-8 survive.
    """

    def __init__(self, strings: Iterable[str]):
        encoded = [os.fsencode(string) for string in strings]
        self._offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(entry) for entry in encoded], out=self._offsets[1:])
        self._buffer = np.frombuffer(b"".join(encoded), np.uint8)

    @classmethod
    def from_parts(cls, offsets: np.ndarray, buffer: np.ndarray) -> StringTable:
        """A table over arrays that `parts` gave, such as those of a mapped file."""
        table = cls(())
        table._offsets, table._buffer = offsets, buffer
        return table

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Where entries begin and end, int64 [N + 1], and their bytes, uint8."""
        return self._offsets, self._buffer

    def select(self, indices: np.ndarray) -> StringTable:
        """A table of some of the entries."""
        return StringTable(self[index] for index in indices.tolist())

    def name_codes(self) -> np.ndarray:
        """A number for what follows the last "/" of each entry, uint64 [N]: the same for the same names.

        Different names have different numbers, but for accidents: a polynomial of their bytes modulo 2^64.
        """
        codes = np.empty(len(self), np.uint64)
        for begin in range(0, len(self), _AT_ONCE):
            ends = self._offsets[begin : begin + _AT_ONCE + 1]
            codes[begin : begin + _AT_ONCE] = _name_codes(self._buffer[ends[0] : ends[-1]], ends - ends[0])
        return codes

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"entry {index} of {size}")
        index %= size
        return os.fsdecode(self._buffer[self._offsets[index] : self._offsets[index + 1]].tobytes())


def _name_codes(text: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    starts, ends = offsets[:-1], offsets[1:]
    slashes = np.flatnonzero(text == ord("/"))
    if len(slashes):
        before = np.searchsorted(slashes, ends) - 1
        starts = np.where(before < 0, starts, np.maximum(starts, slashes[before] + 1))
    sums = np.zeros(len(text) + 1, np.uint64)
    np.cumsum((text.astype(np.uint64) + _ONE) * _powers(_FACTOR, len(text)), out=sums[1:])
    return (sums[ends] - sums[starts]) * _powers(_INVERSE, len(text) + 1)[starts]


def _powers(base: np.uint64, count: int) -> np.ndarray:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, out=powers)


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key by which digits inside names count as numbers: 0, 1, 2, 10; img2, img10."""
    parts = _DIGITS.split(name)
    key = tuple((0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part)
    return key, name
