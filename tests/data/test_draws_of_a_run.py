"""Ten thousand images as a run draws for them: generators by (seed, epoch, index), against the definitions.

The tests of the single transforms draw from one stream; here every image has a stream of its own, whose first
numbers must be as random as later ones. Chi-square and Kolmogorov-Smirnov tests at a fixed seed: where
nothing is wrong, each would fall below `LEAST` for one seed in a thousand.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from passl_sot.data.rng import batch_rng, image_rng, order_rng
from passl_sot.data.samplers import ShardedBatchSampler
from passl_sot.data.transforms.image import ColorJitter, RandomCrop, RandomHorizontalFlip, RandomResizedCrop
from passl_sot.data.transforms.mixup import Mixup, RandomErasing
from passl_sot.data.transforms.policies import (
    OPERATIONS,
    AutoAugment,
    RandAugment,
    ThreeAugment,
    policy_table,
)
from tests.data.drawn_steps import steps_of

SEED, LEAST = 42, 1e-3
late_image_rng = functools.partial(image_rng, late=True)
KEYS = [(epoch, index) for epoch in range(10) for index in range(1000)]


def streams(source=image_rng, every: int = 1):
    return (source(SEED, key) for key in KEYS[::every])


def even(counts) -> float:
    """How likely counts as uneven as these are, where all should be equal."""
    return stats.chisquare(list(counts)).pvalue


def unrelated(pairs) -> float:
    """How likely counts of pairs are as far from independent as these."""
    found = collections.Counter(pairs)
    rows, columns = sorted({a for a, _ in found}), sorted({b for _, b in found})
    return stats.chi2_contingency([[found[a, b] for b in columns] for a in rows]).pvalue


def test_generators_are_philox_at_a_place():
    key = np.random.SeedSequence(2**70 + 3).generate_state(2, np.uint64)
    expected = np.random.Philox(key=key, counter=[0, 7, 7, 3]).random_raw(9)
    np.testing.assert_array_equal(late_image_rng(2**70 + 3, (3, 7, 2)).bit_generator.random_raw(9), expected)


def test_no_two_places_share_their_draws():
    """Seeds, epochs, images, copies and purposes each make another stream; a first copy is no other image."""
    keys = [(0, 0), (0, 1), (1, 0), (0, 0, 1), (0, 0, 2), (1, 1)]
    drawn = []
    for seed in (0, 1, 42, 2**32, 2**40 + 5):
        drawn += [source(seed, key).random() for source in (image_rng, late_image_rng) for key in keys]
        drawn += [order_rng(seed, epoch).random() for epoch in (0, 1)]
        drawn += [batch_rng(seed, [(0, i), (0, i + 1)]).random() for i in (0, 1)]
        drawn += [batch_rng(seed, [(0, 0, copy), (0, 1, copy)]).random() for copy in (1, 2)]
        assert image_rng(seed, (0, 1)).random() == image_rng(seed, (0, 1, 0)).random()
    assert len(set(drawn)) == len(drawn) == 5 * 18


def test_rand_augment():
    drawn = [steps_of(RandAugment(), rng) for rng in streams()]
    steps = [step for image in drawn for step in image]
    assert (
        stats.chisquare(
            [sum(len(image) == n for image in drawn) for n in range(3)], [2500, 5000, 2500]
        ).pvalue
        > LEAST
    )
    names = collections.Counter(step.name for step in steps)
    assert set(names) == set(OPERATIONS) and even(names.values()) > LEAST
    pairs = [(a.name, b.name) for a, b in (image for image in drawn if len(image) == 2)]
    assert unrelated(pairs) > LEAST  # with replacement: the second doesn't depend on the first
    inside = np.array([step.magnitude for step in steps if step.magnitude < 10])
    assert stats.kstest(inside, stats.truncnorm(-np.inf, 2, 9, 0.5).cdf).pvalue > LEAST
    top = len(steps) - len(inside)
    assert stats.binomtest(top, len(steps), stats.norm.sf(2)).pvalue > LEAST
    for quality in ("sign", "interpolation"):
        assert even(collections.Counter(getattr(step, quality) for step in steps).values()) > LEAST
        assert unrelated((step.name, getattr(step, quality)) for step in steps) > LEAST
    assert unrelated((step.sign, step.interpolation) for step in steps) > LEAST


def test_auto_augment():
    """The number of times that each operation of the table comes, at its magnitude."""
    steps = [step for rng in streams() for step in steps_of(AutoAugment(), rng)]
    expected: dict = collections.Counter()
    for row in policy_table():
        for name, probability, magnitude in row:
            expected[name, magnitude] += 10_000 * probability / 25
    found = collections.Counter((step.name, step.magnitude) for step in steps)
    for key, mean in expected.items():
        # One row holds an operation at a magnitude at most once but for a few: binomial, or a little wider.
        assert abs(found[key] - mean) < 4.5 * math.sqrt(mean) + 1e-9, key
    assert even(collections.Counter(step.sign for step in steps).values()) > LEAST
    assert even(collections.Counter(step.interpolation for step in steps).values()) > LEAST


def test_three_augment():
    """Which of the three it was, told from the pixels: grey, inverted from 128 up, or else blurred."""
    image, three = np.full((8, 8, 3), (200, 10, 90), np.uint8), ThreeAugment()
    image[:, 4:] = (10, 220, 60)
    inverted = np.where(image < 128, image, 255 - image)
    kinds: dict = collections.Counter()
    for rng in streams(every=4):
        result = three(image, rng)
        grey = bool((result[..., :1] == result).all())
        kinds["grey" if grey else "inverted" if np.array_equal(result, inverted) else "blurred"] += 1
    assert len(kinds) == 3 and even(kinds.values()) > LEAST


def test_brightness():
    """Told from pixels of one grey: 180 times a factor from 0.7 to 1.3, in 12 equal steps."""
    jitter, grey = ColorJitter(brightness=0.3), np.full((1, 1, 3), 180, np.uint8)
    found = np.array([jitter(grey, rng)[0, 0, 0] for rng in streams()], float)
    assert 126 <= found.min() < 128 and 232 < found.max() <= 234
    counts, _ = np.histogram(found, np.arange(126, 235, 9) - 0.001)
    assert even(counts) > LEAST


def test_crops_and_flips():
    crop, size = RandomResizedCrop(size=8), 100_000
    top, left, h, w = np.array([crop.region(size, size, rng) for rng in streams()], float).T
    area, aspect = h * w / size**2, np.log(w / h) / math.log(4 / 3)
    fits = area < 0.75  # up to here every aspect fits into a square, so that none has been drawn again
    assert stats.kstest(area[fits], stats.uniform(0.08, 0.67).cdf).pvalue > LEAST
    assert stats.kstest(aspect[fits], stats.uniform(-1, 2).cdf).pvalue > LEAST
    assert stats.spearmanr(area[fits], aspect[fits]).pvalue > LEAST
    # Areas are drawn from [0.08, 1]; the larger ones fit with the probability -ln(area) / ln(4/3).
    larger = (0.25 + 0.75 * math.log(0.75)) / math.log(4 / 3)
    assert stats.binomtest(int(fits.sum()), 10_000, 0.67 / (0.67 + larger)).pvalue > LEAST
    down, right = top / (size - h), left / (size - w)
    for place in (down, right):
        assert stats.kstest(place, stats.uniform().cdf).pvalue > LEAST
    assert stats.spearmanr(down, right).pvalue > LEAST
    image = np.arange(9 * 9 * 3, dtype=np.uint8).reshape(9, 9, 3)
    flipped = [np.array_equal(RandomHorizontalFlip()(image, rng), image[:, ::-1]) for rng in streams()]
    assert even(collections.Counter(flipped).values()) > LEAST
    padded, cut = RandomCrop(size=9, padding=2), collections.Counter()
    whole = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    places = {whole[i : i + 9, j : j + 9].tobytes(): (i, j) for i in range(5) for j in range(5)}
    for rng in streams():
        cut[places[padded(image, rng).tobytes()]] += 1
    assert len(cut) == 25 and even(cut.values()) > LEAST


def test_random_interpolation(photos):
    """Each image is resized by one of two filters, and which one has nothing to do with its neighbours'."""
    crop, drawn = RandomResizedCrop(size=4, interpolation="random"), []
    image = photos[3]
    for key in KEYS[::4]:
        top, left, h, w = crop.region(*image.shape[:2], image_rng(SEED, key))
        part = Image.fromarray(image).crop((left, top, left + w, top + h))
        results = [
            np.asarray(part.resize((4, 4), f)) for f in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
        ]
        result = crop(image, image_rng(SEED, key))
        drawn.append([np.array_equal(result, other) for other in results].index(True))
    assert even(collections.Counter(drawn).values()) > LEAST
    assert unrelated(itertools.pairwise(drawn)) > LEAST


@pytest.mark.parametrize("source", [image_rng, late_image_rng])
def test_erasing(source):
    """As part of an image's transforms, and after mixing, whose draws are others."""
    blank, erased, noise = np.full((3, 10, 10), 9, np.float32), [], []
    for rng in streams(source):
        result = RandomErasing()(blank, rng)
        erased.append(result is not blank)
        noise.append(result[result != 9])
    assert stats.binomtest(sum(erased), 10_000, 0.25).pvalue > LEAST
    assert stats.kstest(np.concatenate(noise), stats.norm.cdf).pvalue > LEAST
    size = 100_000
    top, left, h, w = np.array([RandomErasing().region(size, size, rng) for rng in streams(source)], float).T
    area, aspect = h * w / size**2, np.log(h / w) / math.log(1 / 0.3)
    fits = area < 0.3
    assert stats.kstest(area[fits], stats.uniform(0.02, 0.28).cdf).pvalue > LEAST
    assert stats.kstest(aspect[fits], stats.uniform(-1, 2).cdf).pvalue > LEAST
    for place in (top / (size - h), left / (size - w)):
        assert stats.kstest(place, stats.uniform().cdf).pvalue > LEAST


def test_mixing_of_batches():
    """Ten thousand batches of two images; one of Mixup and CutMix for each, at the recipes' α."""
    mixup, drawn = Mixup(num_classes=10), []
    for epoch, index in KEYS:
        drawn.append(mixup.draw(1000, 1000, batch_rng(SEED, [(epoch, index), (epoch, index + 1)])))
    assert even(collections.Counter(box is None for _, box in drawn).values()) > LEAST
    mixed = [share for share, box in drawn if box is None]
    assert stats.kstest(mixed, stats.beta(0.8, 0.8).cdf).pvalue > LEAST
    # λ ~ Beta(1, 1) is uniform, and small boxes away from the border have the area drawn.
    top, bottom, left, right = np.array([box for _, box in drawn if box is not None], float).T
    centres = np.stack([(top + bottom) / 2, (left + right) / 2])
    inside = (bottom - top <= 300) & ((centres > 150) & (centres < 850)).all(axis=0)
    share = ((bottom - top) * (right - left))[inside] / 1e6
    assert stats.kstest(share, stats.uniform(0, 0.09).cdf).pvalue > LEAST
    for centre in centres:
        assert stats.kstest(centre[inside], stats.uniform(150, 700).cdf).pvalue > LEAST
    assert stats.binomtest(int(inside.sum()), len(top), 0.09 * 0.7**2).pvalue > LEAST


def test_copies_of_repeated_augmentation():
    """Three copies of an image are cropped as three images would be, each by draws of its own."""
    sampler = ShardedBatchSampler(
        num_samples=2560, batch_size=256, shuffle=True, drop_last=True, seed=SEED, repeats=3
    )
    keys = [key for batch in sampler for key in batch]
    counts = collections.Counter(index for _, index, _ in keys)
    assert len(keys) == 2560 and set(counts.values()) <= {1, 3} and len(counts) == 854
    crop = RandomResizedCrop(size=8)
    regions = {key[1:]: crop.region(1000, 1000, image_rng(SEED, key)) for key in keys}
    whole = [index for index, count in counts.items() if count == 3]
    area = np.array([[h * w for _, _, h, w in (regions[i, copy] for copy in range(3))] for i in whole], float)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert stats.spearmanr(area[:, a], area[:, b]).pvalue > LEAST
        assert (area[:, a] == area[:, b]).mean() < 0.01
