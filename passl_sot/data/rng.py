"""Where random numbers come from: every stream is a function of the run's seed and of a place in the epoch.

A key is (epoch, index), or (epoch, index, copy) where an epoch holds several copies of an image. None of it
depends on worker or process counts.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from passl_sot.imageio.kernels.jit import available

Key = tuple[int, ...]  # (epoch, index), or (epoch, index, copy)

# The fourth number sets streams apart from each other; an image's first one, [seed, epoch, index], has none.
_ORDER, _MIXED, _LATER, _COPY = 1, 2, 3, 4


def generator(*numbers: int) -> np.random.Generator:
    """A generator seeded by several numbers, each 0 or more."""
    try:  # what NumPy makes of the numbers, in half of its time
        words: Sequence[int] | np.ndarray = np.array(numbers, np.uint32)
    except OverflowError:  # larger seeds are more than one word
        words = numbers
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def of_order(seed: int, epoch: int) -> np.random.Generator:
    """For the order of an epoch's images."""
    return generator(seed, epoch, 0, _ORDER)


def of_image(seed: int, key: Key) -> np.random.Generator:
    """For the transforms of one copy of an image."""
    epoch, index, copy = _split(key)
    return _quick(seed, epoch, index, _COPY, copy) if copy else _quick(seed, epoch, index)


def of_image_later(seed: int, key: Key) -> np.random.Generator:
    """For what is done to one copy of an image as part of its batch."""
    epoch, index, copy = _split(key)
    return _quick(seed, epoch, index, _LATER, *([copy] if copy else []))


def of_batch(seed: int, keys: Sequence[Key]) -> np.random.Generator:
    """For what is done to a batch as a whole; processes that hold other copies of the same images differ."""
    epochs, indices, copies = zip(*map(_split, keys), strict=True)
    return generator(seed, epochs[0], 0, _MIXED, *indices, *(copies if any(copies) else ()))


def _quick(*numbers: int) -> np.random.Generator:
    """`generator` in a third of the time: most of what it takes is NumPy's hashing."""
    if not available() or max(numbers) >> 32:
        return generator(*numbers)
    return np.random.Generator(np.random.PCG64(_Seeds(numbers)))  # type: ignore[arg-type]


class _Seeds(ISeedSequence):
    """`SeedSequence` of numbers below 2^32, as far as PCG64 needs it."""

    def __init__(self, numbers: Sequence[int]):
        words = np.zeros(max(4, len(numbers)), np.uint32)
        words[: len(numbers)] = numbers
        self._numbers, self._state = numbers, np.empty(4, np.uint64)
        _loops().expand(words, len(numbers), self._state)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        if n_words == 4 and dtype is np.uint64:
            return self._state
        return np.random.SeedSequence(self._numbers).generate_state(n_words, dtype)


@functools.cache
def _loops() -> types.ModuleType:
    from passl_sot.data import streams

    return streams


class Streams:
    """The generators of many images at once: `of_image` of each key, draw by draw. Needs numba.

    Args:
        seed: The run's seed.
        keys: The images' keys, int64 [B, 2], or [B, 3] with copies.
    """

    def __init__(self, seed: int, keys: np.ndarray):
        # As SeedSequence takes numbers apart.
        first = [seed >> 32 * i & 0xFFFFFFFF for i in range(max(1, -(-seed.bit_length() // 32)))]
        words = np.zeros((len(keys), len(first) + 4), np.uint32)
        words[:, : len(first)] = first
        words[:, len(first) : len(first) + 2] = keys[:, :2]
        counts = np.full(len(keys), len(first) + 2)
        if keys.shape[1] == 3:
            copied = keys[:, 2] > 0
            words[copied, -2], words[copied, -1] = _COPY, keys[copied, 2]
            counts[copied] += 2
        self._streams = np.empty((len(keys), 6), np.uint64)
        _loops().seed(words, counts, self._streams)

    def random(self) -> np.ndarray:
        """What `Generator.random()` gives for each, float64 [B]."""
        out = np.empty(len(self._streams))
        _loops().draw_doubles(self._streams, out)
        return out

    def integers(self, high: int) -> np.ndarray:
        """What `Generator.integers(high)` gives for each, int64 [B]; `high` from 1 to below 2^32."""
        out = np.empty(len(self._streams), np.int64)
        _loops().draw_integers(self._streams, high, out)
        return out


@functools.cache
def streams_agree() -> bool:
    """Whether `Streams` can be used: numba is there, and NumPy draws as it does; a new NumPy might not."""
    if not available():
        return False
    keys = [(3, 70_000 + i) for i in range(4)]
    ours, theirs = Streams(42, np.array(keys)), [generator(42, *key) for key in keys]
    for high in (9, 9, 9, 3_000_000_000):
        if ours.integers(high).tolist() != [rng.integers(high) for rng in theirs]:
            return False
        if ours.random().tolist() != [rng.random() for rng in theirs]:
            return False
    return True


def _split(key: Key) -> tuple[int, int, int]:
    return int(key[0]), int(key[1]), int(key[2]) if len(key) == 3 else 0
