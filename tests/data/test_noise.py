"""The noise of `RandomErasing`: N(0, 1), independent, the same with and without compiled loops."""

from statistics import NormalDist
from unittest.mock import patch

import numpy as np
import pytest
from scipy import stats

from passl_sot.data.transforms.noise import fill_with_noise
from passl_sot.imageio.kernels.jit import available


def noise(seed: int, *shape: int) -> np.ndarray:
    image = np.zeros(shape, np.float32)
    fill_with_noise(image, 0, 0, *shape[1:], np.random.default_rng(seed))
    return image


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.concatenate([noise(seed, 3, 200, 250).reshape(-1) for seed in range(20)]).astype(float)


def test_a_normal_distribution(values):
    assert stats.kstest(values, "norm").pvalue > 0.01
    count = len(values)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10_170)):
        assert abs(np.mean(values**power) - mean) < 3.5 * np.sqrt(variance / count), power


def test_the_tails(values):
    """The outermost parts, beyond 3.49, are drawn by another method."""
    for bound in (3.0, 3.4, 3.5, 3.7, 4.0, 4.3):
        expected = 2 * NormalDist().cdf(-bound) * len(values)
        for side, part in ((values > bound, 0.5), (values < -bound, 0.5), (abs(values) > bound, 1)):
            assert abs(side.sum() - part * expected) < 4 * np.sqrt(part * expected), bound
    tail = values[values > 3.5]
    assert stats.kstest(tail, stats.truncnorm(3.5, np.inf).cdf).pvalue > 0.01


def test_neighbours_and_images_have_nothing_in_common(values):
    limit = 4 / np.sqrt(len(values))
    for lag in (1, 2, 3, 16, 250, 50_000, 150_000):
        for a, b in ((values, values), (abs(values), abs(values)), (values, values**2)):
            assert abs(np.corrcoef(a[:-lag], b[lag:])[0, 1]) < 2 * limit, lag
    assert len(np.unique(values[:150_000])) > 0.99 * 150_000


@pytest.mark.skipif(not available(), reason="numba is what is compared with")
def test_the_same_without_compiled_loops():
    for seed in range(40):
        image, other = np.ones((3, 120, 90), np.float32), np.ones((3, 120, 90), np.float32)
        rngs = np.random.default_rng(seed), np.random.default_rng(seed)
        box = (7, 11, 100, 70 + seed % 3)
        fill_with_noise(image, *box, rngs[0])
        with patch("passl_sot.data.transforms.noise.available", lambda: False):
            fill_with_noise(other, *box, rngs[1])
        np.testing.assert_array_equal(image, other)
        assert (image[:, :7] == 1).all() and (image[:, :, 81 + seed % 3 :] == 1).all()
        assert abs(image).max() > 3.49  # the tail's method, too
        assert rngs[0].random() == rngs[1].random()
