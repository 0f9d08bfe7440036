from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from passl_sot.data.rng import image_rng
from passl_sot.data.transforms.image import Normalize
from passl_sot.data.transforms.mixup import RandomErasing


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _normal(image: np.ndarray) -> np.ndarray:
    return Normalize()(image, _rng())


def _box(changed: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def test_one_rectangle_becomes_noise(photos):
    erase = RandomErasing(prob=1)
    values = []
    for seed in range(20):
        image = _normal(photos[seed % 3])
        before = image.copy()
        result = erase(image, _rng(seed))
        np.testing.assert_array_equal(image, before)  # the one handed in isn't changed
        assert result.dtype == np.float32 and result.shape == image.shape
        rng = _rng(seed)
        rng.random()
        top, left, h, w = erase.region(*image.shape[1:], rng)
        changed = (result != image).all(0)
        assert _box(changed) == (top, left, h, w) and changed.sum() == h * w
        assert np.array_equal((result != image).any(0), changed)
        values.append(result[:, changed])
        # Each pixel and channel has a draw of its own.
        assert len(np.unique(values[-1])) > 0.99 * values[-1].size
    noise = np.concatenate([v.ravel() for v in values])
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs(np.mean(np.abs(noise) < 1) - 0.6827) < 0.01


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """The noise of ten images of a run, 1.5 million values."""
    erase, images = RandomErasing(prob=1, scale=(0.99, 0.99), ratio=1), []
    for index in range(10):
        image = np.zeros((3, 224, 224), np.float32)
        erase.apply(image, image_rng(42, (0, index)), 0, image)
        images.append(image[image != 0])
    return np.concatenate(images).astype(float)


def test_a_normal_distribution(values):
    assert len(values) > 1_450_000 and stats.kstest(values, "norm").pvalue > 0.01
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10_170)):
        assert abs(np.mean(values**power) - mean) < 3.5 * np.sqrt(variance / len(values)), power
    for bound in (3.0, 3.5, 4.0, 4.3):
        expected = 2 * stats.norm.sf(bound) * len(values)
        for side, part in ((values > bound, 0.5), (values < -bound, 0.5), (abs(values) > bound, 1)):
            assert abs(side.sum() - part * expected) < 4 * np.sqrt(part * expected), bound


def test_neighbours_and_images_have_nothing_in_common(values):
    for lag in (1, 2, 3, 223, 223 * 223, 3 * 223 * 223):
        for a, b in ((values, values), (abs(values), abs(values)), (values, values**2)):
            assert abs(np.corrcoef(a[:-lag], b[lag:])[0, 1]) < 8 / np.sqrt(len(values)), lag


def test_in_place_it_is_the_same():
    image = _rng(5).standard_normal((3, 24, 40)).astype(np.float32)
    for seed in range(40):
        for erase in (RandomErasing(prob=0.5), RandomErasing(count=3)):
            copy, draws, others = image.copy(), _rng(seed), _rng(seed)
            erase.apply(copy, draws, 0, copy)
            np.testing.assert_array_equal(copy, erase(image, others))
            assert draws.random() == others.random()


def test_as_a_plain_transcription():
    """Draw for draw the same as the description written out."""

    def reference(image, rng):
        if not rng.random() < 0.25:
            return image
        _, height, width = image.shape
        for _ in range(10):
            area = rng.uniform(0.02, 1 / 3) * height * width
            aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
            h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if h < height and w < width:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                image = image.copy()
                image[:, top : top + h, left : left + w] = rng.standard_normal((3, h, w), np.float32)
                return image
        return image

    image = _rng(5).standard_normal((3, 24, 40)).astype(np.float32)
    for seed in range(60):
        np.testing.assert_array_equal(RandomErasing()(image, _rng(seed)), reference(image, _rng(seed)))


def test_ten_thousand_draws():
    rng, erase = _rng(0), RandomErasing()
    top, left, h, w = np.array([erase.region(1000, 1000, rng) for _ in range(10_000)], float).T
    area, aspect = h * w / 1e6, h / w
    assert 0.019 < area.min() < 0.021 and 0.32 < area.max() < 0.334
    assert 0.297 < aspect.min() < 0.31 and 3.2 < aspect.max() < 3.36  # sides are whole pixels
    # Below 0.3 no rectangle is refused, so area is uniform and the aspect log-uniform there.
    share = np.histogram(area[area < 0.3], bins=7, range=(0.02, 0.3))[0] / (area < 0.3).sum()
    np.testing.assert_allclose(share, 1 / 7, atol=0.015)
    logs = np.log(aspect[area < 0.3]) / math.log(1 / 0.3)
    share = np.histogram(logs, bins=8, range=(-1, 1))[0] / len(logs)
    np.testing.assert_allclose(share, 1 / 8, atol=0.015)
    for begin, side in ((top, h), (left, w)):
        assert (begin >= 0).all() and (begin + side <= 1000).all()
        room = begin / (1000 - side)
        assert abs(room.mean() - 0.5) < 0.012 and abs(room.var() - 1 / 12) < 0.005


@pytest.mark.parametrize("prob", [0.25, 0.0, 1.0])
def test_share_of_images(prob):
    image, rng = np.full((3, 8, 8), 9, np.float32), _rng(0)
    erase = RandomErasing(prob=prob)
    assert (
        abs(np.mean([erase(image, rng) is not image for _ in range(10_000)]) - prob)
        < 0.015 * (0 < prob < 1) + 1e-9
    )


def test_several_rectangles_share_the_area():
    image, rng = np.full((3, 300, 300), 9, np.float32), _rng(0)
    one = RandomErasing(prob=1, scale=(0.3, 0.3), ratio=1.0)
    assert abs((one(image, rng) != 9).all(0).mean() - 0.3) < 0.01
    three = RandomErasing(prob=1, scale=(0.3, 0.3), ratio=1.0, count=3)
    areas = [(three(image, rng) != 9).all(0).mean() for _ in range(50)]
    assert max(areas) < 0.302 and np.mean(areas) > 0.2  # less than 0.3 where they overlap
    assert three.region(300, 300, rng)[2:] == (95, 95)


def test_gives_up_after_ten_tries():
    whole = RandomErasing(prob=1, scale=(1.0, 1.0), ratio=1.0)
    image, rng, other = np.ones((3, 20, 20), np.float32), _rng(1), _rng(1)
    assert whole.region(20, 20, rng) is None
    other.random(20)  # an area and an aspect in each
    assert rng.random() == other.random()
    np.testing.assert_array_equal(whole(image, rng), image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 4), (50, 2)])
def test_tiny_images(shape):
    image = np.ones((3, *shape), np.float32)
    for seed in range(10):
        assert RandomErasing(prob=1)(image, _rng(seed)).shape == image.shape


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prob": 1.1}, "RandomErasing.prob is 1.1"),
        ({"scale": (0.5, 0.2)}, "lowest <= highest"),
        ({"scale": (0.0, 0.2)}, "RandomErasing.scale"),
        ({"scale": (0.1, 1.2)}, "highest <= 1"),
        ({"ratio": 0}, "RandomErasing.ratio is 0"),
        ({"ratio": 2}, "RandomErasing.ratio is 2"),
        ({"count": 0}, "RandomErasing.count is 0"),
    ],
)
def test_values_out_of_range(arguments, words):
    with pytest.raises(ValueError, match=words):
        RandomErasing(**arguments)
