"""Random numbers of the data layer: each generator is a function of the run's seed and a place in the run.

Philox4x64-10 makes random words of a key and a counter (Salmon et al., "Parallel Random Numbers: As Easy as
1, 2, 3", 2011). The key is a hash of the seed; the counter is [block, purpose and copy, index, epoch], so
nothing depends on worker or process counts. An image's key below is (epoch, index), or (epoch, index, copy)
where an epoch holds several copies of an image.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.random.bit_generator import ISeedSequence

from passl_sot.imageio.kernels.jit import compiled

Key = tuple[int, ...]

# Purposes, which keep the streams of one place apart; copies are counted above them.
_IMAGE, _LATE, _BATCH = range(3)
_PURPOSES = 3


def order_rng(seed: int, epoch: int) -> Generator:
    """For the order of an epoch's images."""
    # Not Philox: checkpoints of half-finished epochs, old ones too, continue in this order.
    return np.random.default_rng([seed, epoch, 0, 1])


def image_rng(seed: int, key: Key, *, late: bool = False) -> Generator:
    """For the transforms of one copy of an image; `late` for those after its batch was made."""
    epoch, index, *copy = key
    purpose = _LATE if late else _IMAGE
    return _generator(seed, purpose + int(sum(copy)) * _PURPOSES, int(index), int(epoch))


def batch_rng(seed: int, keys: Sequence[Key]) -> Generator:
    """For a batch as a whole; processes that hold other copies of the same images differ."""
    # All of its images take part, by a hash: a balanced epoch may hold one image first in several batches.
    place = SeedSequence(np.array(keys, np.uint32).ravel()).generate_state(2, np.uint64)
    return _generator(seed, _BATCH, *place.tolist())


class Streams:
    """The generators of many images at once, by keys int64 [B, 2] or [B, 3]. Needs numba.

    Draws equal those of `image_rng`.
    """

    def __init__(self, seed: int, keys: np.ndarray):
        self._key = _seed_key(seed).words
        self._counters = np.zeros((len(keys), 4), np.uint64)
        self._counters[:, 3] = keys[:, 0]
        self._counters[:, 2] = keys[:, 1]
        self._counters[:, 1] = keys[:, 2:].sum(axis=1) * _PURPOSES  # 0 without copies
        self._words = np.empty((len(keys), 4), np.uint64)
        self._drawn = 0

    def random(self) -> np.ndarray:
        """The next `Generator.random()` of each image, float64 [B]."""
        place = self._drawn % 4
        if place == 0:
            self._counters[:, 0] += np.uint64(1)  # before the first block too, as NumPy does
            _block_kernel()(self._key, self._counters, self._words)
        self._drawn += 1
        return (self._words[:, place] >> np.uint64(11)) * 2.0**-53  # the upper 53 bits, as NumPy does


class _SeedKey(ISeedSequence):
    """A seed's key for Philox."""

    # As a seed sequence: `Philox(key=...)` reads the system's entropy too, 9.5 us instead of 3.

    def __init__(self, seed: int):
        self.words = SeedSequence(seed).generate_state(2, np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> np.ndarray:
        return self.words


_seed_key = functools.lru_cache(maxsize=64)(_SeedKey)


def _generator(seed: int, purpose: int, low: int, high: int) -> Generator:
    return Generator(Philox(_seed_key(seed), counter=[0, purpose, low, high]))  # type: ignore[arg-type]


@functools.cache
def _block_kernel() -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
    # In NumPy a block takes 1.4 us an image in batches of 128; this, 0.1 of the 2.6 of a whole CIFAR batch.
    return compiled(_philox_blocks)


def _philox_blocks(key, counters, words):
    """Writes the block of each counter, uint64 [B, 4], to `words`, uint64 [B, 4]; `key` is uint64 [2]."""
    half = np.uint64(32)
    low_half = np.uint64(0xFFFFFFFF)

    def product_high(a, b):
        a0 = a & low_half
        b0 = b & low_half
        middle = (a >> half) * b0 + (a0 * b0 >> half)
        other = a0 * (b >> half) + (middle & low_half)
        return (a >> half) * (b >> half) + (middle >> half) + (other >> half)

    multiplier0 = np.uint64(0xD2E7470EE14C6C93)
    multiplier1 = np.uint64(0xCA5A826395121157)
    for i in range(len(counters)):
        block = words[i]
        block[:] = counters[i]
        key0 = key[0]
        key1 = key[1]
        for _ in range(10):
            even = product_high(block[2], multiplier1) ^ block[1] ^ key0
            odd = product_high(block[0], multiplier0) ^ block[3] ^ key1
            block[1] = block[2] * multiplier1  # products wrap around at 64 bits
            block[3] = block[0] * multiplier0
            block[0] = even
            block[2] = odd
            key0 += np.uint64(0x9E3779B97F4A7C15)  # Weyl sequences: the golden ratio, the root of 3 less 1
            key1 += np.uint64(0xBB67AE8584CAA73B)
