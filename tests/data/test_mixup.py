"""Mixup and CutMix by themselves: what is drawn, pixels, targets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from passl_sot.data.transforms import mixup
from passl_sot.data.transforms.image import Normalize
from passl_sot.data.transforms.mixup import Mixup


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _kinds(photos, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A batch of real content, as uint8 [B, H, W, 3] and as float32 [B, 3, H, W]."""
    source = np.concatenate([photos[0][:200, :200], photos[1][:, :200]])
    pixels = np.stack([source[31 * i : 31 * i + 60, 20 * i : 20 * i + 80] for i in range(count)])
    return pixels, np.stack([Normalize()(image, _rng()) for image in pixels])


def _mix(mixup: Mixup, images: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mixed images and targets; bytes are mixed one by one as they are asked for, floats in place."""
    mixed, targets = mixup(images.copy(), labels, _rng(seed))
    return np.stack([*mixed]), targets


# -- draws ------------------------------------------------------------------------------------------
def test_ten_thousand_draws():
    rng, mixup = _rng(0), Mixup(num_classes=10)
    drawn = [mixup.draw(224, 160, rng) for _ in range(10_000)]
    mixed = np.array([share for share, box in drawn if box is None])
    assert abs(len(mixed) / 10_000 - 0.5) < 0.02
    assert stats.kstest(mixed, stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    cut = [(share, box) for share, box in drawn if box is not None]
    for share, (top, bottom, left, right) in cut:
        assert 0 <= top <= bottom <= 224 and 0 <= left <= right <= 160
        # λ is what the box, cut off at the border, leaves.
        assert share == pytest.approx(1 - (bottom - top) * (right - left) / (224 * 160), abs=1e-12)
    # The share of the area against the definition, worked out without pixels: λ ~ U(0, 1), sides √(1-λ), a
    # uniform centre, clipped.
    side, centre = np.sqrt(_rng(1).random(50_000)), _rng(2).random((2, 50_000))
    begin, end = np.maximum(centre - side / 2, 0), np.minimum(centre + side / 2, 1)
    expected = 1 - np.prod(end - begin, axis=0)
    found = np.array([share for share, _ in cut])
    assert stats.ks_2samp(found, expected).statistic < 0.025
    assert abs(found.mean() - expected.mean()) < 0.01


def test_boxes_that_touch_no_border_have_the_drawn_share():
    """Where nothing is cut off, both sides are √(1-λ), so the box has the image's aspect."""
    rng, mixup = _rng(0), Mixup(num_classes=10, mixup_alpha=0)
    inside = 0
    for _ in range(2000):
        _, (top, bottom, left, right) = mixup.draw(1000, 600, rng)
        if top > 0 and bottom < 1000 and left > 0 and right < 600:
            inside += 1
            assert abs((bottom - top) / 1000 - (right - left) / 600) < 0.006
    assert inside > 200


def test_switches():
    rng = _rng(0)

    def share_of(condition, **options):
        mixup = Mixup(num_classes=10, **options)
        return np.mean([condition(*mixup.draw(64, 64, rng)) for _ in range(4000)])

    assert abs(share_of(lambda share, box: box is not None, switch_prob=0.2) - 0.2) < 0.03
    assert share_of(lambda share, box: box is not None, cutmix_alpha=0) == 0
    assert share_of(lambda share, box: box is not None, mixup_alpha=0) == 1
    assert abs(share_of(lambda share, box: (share, box) == (1.0, None), prob=0.3) - 0.7) < 0.03
    assert share_of(lambda share, box: (share, box) == (1.0, None), prob=0) == 1


def test_other_alphas():
    rng, mixup = _rng(0), Mixup(num_classes=10, mixup_alpha=0.2, cutmix_alpha=0)
    shares = [mixup.draw(8, 8, rng)[0] for _ in range(3000)]
    assert stats.kstest(shares, stats.beta(0.2, 0.2).cdf).pvalue > 1e-3


# -- pixels and targets -----------------------------------------------------------------------------
def test_mixup_of_uint8_rounds_to_nearest(photos):
    images, _ = _kinds(photos)
    mixup = Mixup(num_classes=6, cutmix_alpha=0)
    labels = np.arange(6)
    for seed in range(30):
        share, _ = mixup.draw(60, 80, _rng(seed))
        before = images.copy()
        mixed, targets = mixup(images, labels, _rng(seed))
        result = np.stack([*mixed])
        np.testing.assert_array_equal(images, before)
        assert result.dtype == np.uint8 and result.shape == images.shape
        for i in range(6):
            a, b = images[i].astype(np.float64), images[5 - i].astype(np.float64)
            exact = share * a + (1 - share) * b
            assert np.abs(result[i] - exact).max() <= 0.5 + 1e-4
            np.testing.assert_array_equal(result[i], np.round(exact).astype(np.uint8))
            assert targets[i, i] == pytest.approx(0.9 * share + 0.1 / 6, abs=1e-6)
            assert targets[i, 5 - i] == pytest.approx(0.9 * (1 - share) + 0.1 / 6, abs=1e-6)


def test_mixup_of_floats(photos):
    _, images = _kinds(photos)
    mixup = Mixup(num_classes=6, cutmix_alpha=0)
    for seed in range(20):
        share, _ = mixup.draw(60, 80, _rng(seed))
        result, _ = mixup(images.copy(), np.arange(6), _rng(seed))
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, share * images + (1 - share) * images[::-1], atol=1e-6)


def test_cutmix_of_both_kinds(photos):
    pixels, floats = _kinds(photos)
    mixup = Mixup(num_classes=6, mixup_alpha=0)
    for seed in range(30):
        share, (top, bottom, left, right) = mixup.draw(60, 80, _rng(seed))
        inside = np.zeros((60, 80), bool)
        inside[top:bottom, left:right] = True
        assert share == pytest.approx(1 - inside.mean())
        result, targets = _mix(mixup, pixels, np.arange(6), seed)
        np.testing.assert_array_equal(result, np.where(inside[..., None], pixels[::-1], pixels))
        result, same = mixup(floats.copy(), np.arange(6), _rng(seed))
        np.testing.assert_array_equal(result, np.where(inside, floats[::-1], floats))
        np.testing.assert_array_equal(same, targets)
        assert targets[0, 0] == pytest.approx(0.9 * share + 0.1 / 6, abs=1e-6)


def test_targets():
    mixup = Mixup(num_classes=5, label_smoothing=0.2)
    labels = np.array([0, 3, 3, 4])
    targets = mixup.targets(labels, 0.7)
    assert targets.dtype == np.float32 and targets.shape == (4, 5)
    smoothed = np.full((4, 5), 0.04)
    smoothed[range(4), labels] = 0.84
    np.testing.assert_allclose(targets, 0.7 * smoothed + 0.3 * smoothed[::-1], atol=1e-7)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    large = Mixup(num_classes=1000)
    rng = _rng(0)
    for share in rng.random(50):
        rows = large.targets(rng.integers(0, 1000, 16), float(share))
        np.testing.assert_allclose(rows.sum(1, dtype=np.float64), 1, atol=1e-6)
        assert rows.min() >= np.float32(0.1 / 1000)
    np.testing.assert_array_equal(
        Mixup(num_classes=2, label_smoothing=0).targets(np.array([1]), 0.3), [[0, 1]]
    )


def test_a_batch_that_is_not_mixed_is_smoothed_all_the_same(photos):
    images, _ = _kinds(photos)
    result, targets = Mixup(num_classes=6, prob=0)(images, np.arange(6), _rng())
    np.testing.assert_array_equal(result, images)
    np.testing.assert_allclose(targets, np.eye(6) * 0.9 + 0.1 / 6, atol=1e-7)


@pytest.mark.parametrize("count", [1, 5])
def test_the_middle_of_an_odd_batch_stays_as_it_is(photos, count):
    middle = count // 2
    for images in _kinds(photos, count):
        for seed in range(20):
            result, targets = _mix(Mixup(num_classes=6), images, np.arange(count), seed)
            np.testing.assert_array_equal(result[middle], images[middle])
            expected = np.full(6, 0.1 / 6)
            expected[middle] += 0.9
            np.testing.assert_allclose(targets[middle], expected, atol=1e-6)
            np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_the_same_bits_without_numba_and_in_place(photos, monkeypatch, count):
    pytest.importorskip("numba")
    labels = np.arange(count)
    for images in _kinds(photos, count):
        for seed in range(10):
            results = []
            for installed in (True, False):
                monkeypatch.setattr(mixup, "available", lambda installed=installed: installed)
                batch = images.copy()
                result, _ = Mixup(num_classes=6)(batch, labels, _rng(seed))
                if images.dtype == np.uint8:
                    np.testing.assert_array_equal(batch, images)
                else:
                    assert result is batch
                results.append(np.stack([*result]))
            np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mixup_alpha": -1}, "Mixup.mixup_alpha is -1"),
        ({"cutmix_alpha": math.inf}, "Mixup.cutmix_alpha is inf"),
        ({"mixup_alpha": 0, "cutmix_alpha": 0}, "both 0, so nothing is mixed: take Mixup out"),
        ({"prob": 1.5}, "Mixup.prob is 1.5"),
        ({"switch_prob": -0.5}, "Mixup.switch_prob is -0.5"),
        ({"label_smoothing": 1}, "Mixup.label_smoothing is 1"),
        ({"num_classes": 0}, "Mixup.num_classes is 0"),
    ],
)
def test_values_out_of_range(arguments, words):
    with pytest.raises(ValueError, match=words):
        Mixup(**{"num_classes": 10, **arguments})
