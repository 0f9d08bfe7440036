"""Where random numbers come from: every stream is a function of the run's seed and of a place in the epoch.

A key is (epoch, index), or (epoch, index, copy) where an epoch holds several copies of an image. None of it
depends on worker or process counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Key = tuple[int, int] | tuple[int, int, int]

# The fourth number sets streams apart from each other; an image's first one, [seed, epoch, index], has none.
_ORDER, _MIXED, _LATER, _COPY = 1, 2, 3, 4


def generator(*numbers: int) -> np.random.Generator:
    """A generator seeded by several numbers, each 0 or more."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


def of_order(seed: int, epoch: int) -> np.random.Generator:
    """For the order of an epoch's images."""
    return generator(seed, epoch, 0, _ORDER)


def of_image(seed: int, key: Key) -> np.random.Generator:
    """For the transforms of one copy of an image."""
    epoch, index, copy = _split(key)
    return generator(seed, epoch, index, _COPY, copy) if copy else generator(seed, epoch, index)


def of_image_later(seed: int, key: Key) -> np.random.Generator:
    """For what is done to one copy of an image as part of its batch."""
    epoch, index, copy = _split(key)
    return generator(seed, epoch, index, _LATER, *([copy] if copy else []))


def of_batch(seed: int, keys: Sequence[Key]) -> np.random.Generator:
    """For what is done to a batch as a whole; processes that hold other copies of the same images differ."""
    epochs, indices, copies = zip(*map(_split, keys), strict=True)
    return generator(seed, epochs[0], 0, _MIXED, *indices, *(copies if any(copies) else ()))


def _split(key: Key) -> tuple[int, int, int]:
    return int(key[0]), int(key[1]), int(key[2]) if len(key) == 3 else 0
