"""Forty thousand images as sot_small's transforms draw for them, against what the papers' recipes say.

Each image has its streams of a run, from which all of its draws are taken in order. Chi-square and
Kolmogorov-Smirnov tests at a fixed seed: where nothing is wrong, each would fall below `LEAST` for one seed
in a thousand.
"""

from __future__ import annotations

import collections
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from passl_sot.config import get_config
from passl_sot.data.rng import batch_rng, image_rng
from passl_sot.data.transforms.image import TRANSFORMS
from tests.data.drawn_steps import steps_of

IMAGES, SEED, LEAST = 40_000, 42, 1e-3
SIDE = 100_000  # of the images that regions are drawn in, so that whole pixels don't matter
FIFTEEN = [
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
]


class Large:
    """An image of which only the size is there, and which keeps the region that it was asked for."""

    shape = (SIDE, SIDE, 3)

    def __getitem__(self, rectangle):
        rows, columns = rectangle
        self.region = rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start
        return self


@pytest.fixture(scope="module")
def recipe() -> dict:
    dataset = get_config("configs/sot/sot_small.yaml").dataloader.train.dataset
    nodes = [*dataset.transforms, *dataset.batch_transforms]
    return {node["name"]: TRANSFORMS.build(node) for node in nodes}


@pytest.fixture(scope="module")
def drawn(recipe) -> SimpleNamespace:
    crop, flip, augment, erasing = (
        recipe[name] for name in ("RandomResizedCrop", "RandomHorizontalFlip", "RandAugment", "RandomErasing")
    )
    image, small, blank = Large(), np.zeros((1, 1, 3), np.uint8), np.zeros((3, 1, 1), np.float32)
    filters, found = [], SimpleNamespace(crops=[], flipped=[], steps=[], erased=[], regions=[])
    with pytest.MonkeyPatch.context() as patch:
        module = sys.modules["passl_sot.data.transforms.image"]
        patch.setattr(module, "resize", lambda *_, interpolation, **__: filters.append(interpolation))
        for number in range(IMAGES):
            key = divmod(number, 1000)
            rng = image_rng(SEED, key)
            crop(image, rng)
            found.crops.append(image.region)
            found.flipped.append(flip(small, rng) is not small)
            found.steps.append(steps_of(augment, rng))
            rng = image_rng(SEED, key, late=True)
            found.erased.append(erasing(blank, rng) is not blank)
            found.regions.append(erasing.region(SIDE, SIDE, rng))
    found.filters = filters
    return found


def even(values) -> float:
    """How likely values come as unevenly often as these, where all should come equally often."""
    return stats.chisquare(list(collections.Counter(values).values())).pvalue


def unrelated(pairs) -> float:
    """How likely counts of pairs are as far from independent as these."""
    found = collections.Counter(pairs)
    rows, columns = sorted({a for a, _ in found}), sorted({b for _, b in found})
    return stats.chi2_contingency([[found[a, b] for b in columns] for a in rows]).pvalue


def test_operations(drawn):
    """Two of the fifteen, with replacement, each carried out half of the time."""
    lengths = collections.Counter(map(len, drawn.steps))
    expected = [IMAGES / 4, IMAGES / 2, IMAGES / 4]
    assert stats.chisquare([lengths[n] for n in range(3)], expected).pvalue > LEAST
    names = [step.name for steps in drawn.steps for step in steps]
    assert sorted(set(names)) == sorted(FIFTEEN) and even(names) > LEAST
    pairs = [tuple(step.name for step in steps) for steps in drawn.steps if len(steps) == 2]
    assert len(set(pairs)) == 225 and even(pairs) > LEAST


def test_magnitudes_and_signs(drawn):
    """N(9, 0.5) up to 10, and signs and filters of either kind half of the time, whatever the operation."""
    steps = [step for image in drawn.steps for step in image]
    magnitudes = np.array([step.magnitude for step in steps])
    inside = magnitudes[magnitudes < 10]
    assert magnitudes.max() == 10
    assert stats.kstest(inside, stats.truncnorm(-np.inf, 2, 9, 0.5).cdf).pvalue > LEAST
    top = len(magnitudes) - len(inside)
    assert stats.binomtest(top, len(magnitudes), stats.norm.sf(2)).pvalue > LEAST
    two = [image for image in drawn.steps if len(image) == 2]
    assert stats.spearmanr([[step.magnitude for step in image] for image in two]).pvalue > LEAST
    for quality in ("sign", "interpolation"):
        values = [getattr(step, quality) for step in steps]
        assert len(set(values)) == 2 and even(values) > LEAST
        assert unrelated(zip((step.name for step in steps), values, strict=True)) > LEAST
        assert stats.mannwhitneyu(*_split(magnitudes, values)).pvalue > LEAST


def _split(numbers: np.ndarray, values: list) -> tuple[np.ndarray, np.ndarray]:
    first = np.array([value == values[0] for value in values])
    return numbers[first], numbers[~first]


def test_crops(drawn):
    """Area U(0.08, 1) and aspect log-uniform in 3/4 to 4/3, drawn again where they don't fit."""
    top, left, h, w = np.array(drawn.crops, float).T
    area, aspect = h * w / SIDE**2, np.log(w / h) / math.log(4 / 3)
    fits = area < 0.75  # up to here every aspect fits into a square, so that none has been drawn again
    assert stats.kstest(area[fits], stats.uniform(0.08, 0.67).cdf).pvalue > LEAST
    assert stats.kstest(aspect[fits], stats.uniform(-1, 2).cdf).pvalue > LEAST
    assert stats.spearmanr(area[fits], aspect[fits]).pvalue > LEAST
    # Larger ones fit with the probability -ln(area) / ln(4/3).
    larger = (0.25 + 0.75 * math.log(0.75)) / math.log(4 / 3)
    assert stats.binomtest(int(fits.sum()), IMAGES, 0.67 / (0.67 + larger)).pvalue > LEAST
    movable = (h < SIDE) & (w < SIDE)
    down, right = top[movable] / (SIDE - h[movable]), left[movable] / (SIDE - w[movable])
    for place in (down, right):
        assert stats.kstest(place, stats.uniform().cdf).pvalue > LEAST
    assert stats.spearmanr(down, right).pvalue > LEAST
    assert set(drawn.filters) == {"bilinear", "bicubic"} and even(drawn.filters) > LEAST
    assert even(drawn.flipped) > LEAST
    assert unrelated(zip(drawn.filters, drawn.flipped, strict=True)) > LEAST


def test_erasing(drawn):
    """A quarter of the images; area U(0.02, 1/3), aspect log-uniform in 0.3 to 1/0.3."""
    assert stats.binomtest(sum(drawn.erased), IMAGES, 0.25).pvalue > LEAST
    top, left, h, w = np.array(drawn.regions, float).T
    area, aspect = h * w / SIDE**2, np.log(h / w) / math.log(1 / 0.3)
    fits = area < 0.3
    assert stats.kstest(area[fits], stats.uniform(0.02, 0.28).cdf).pvalue > LEAST
    assert stats.kstest(aspect[fits], stats.uniform(-1, 2).cdf).pvalue > LEAST
    assert area.max() < 1 / 3 + 1e-4
    for place in (top / (SIDE - h), left / (SIDE - w)):
        assert stats.kstest(place, stats.uniform().cdf).pvalue > LEAST
    assert unrelated(zip(drawn.erased, drawn.flipped, strict=True)) > LEAST


def test_mixing(recipe):
    """Half Mixup with λ ~ Beta(0.8, 0.8), half CutMix with λ uniform; of batches this time."""
    mixup = recipe["Mixup"]
    drawn = [mixup.draw(1000, 1000, batch_rng(SEED, [divmod(n, 1000)])) for n in range(IMAGES)]
    assert even(box is None for _, box in drawn) > LEAST
    mixed = [share for share, box in drawn if box is None]
    assert stats.kstest(mixed, stats.beta(0.8, 0.8).cdf).pvalue > LEAST
    boxes = np.array([box for _, box in drawn if box is not None], float)
    shares = np.array([share for share, box in drawn if box is not None])
    top, bottom, left, right = boxes.T
    np.testing.assert_allclose(shares, 1 - (bottom - top) * (right - left) / 1e6, atol=1e-9)
    # Beta(1, 1) is uniform, and small boxes away from the border have the area drawn.
    centres = np.stack([(top + bottom) / 2, (left + right) / 2])
    inside = (bottom - top <= 300) & ((centres > 150) & (centres < 850)).all(axis=0)
    # Sides are even numbers of pixels; spread over the two that round to each.
    sides = (bottom - top)[inside] + np.random.default_rng(0).uniform(0, 2, inside.sum())
    assert stats.kstest(sides[sides < 300] ** 2, stats.uniform(0, 9e4).cdf).pvalue > LEAST
    for centre in centres:
        assert stats.kstest(centre[inside] + 0.5, stats.uniform(150, 701).cdf).pvalue > LEAST
