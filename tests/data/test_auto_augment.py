"""AutoAugment and 3-Augment on real photographs: what is drawn, and each pixel against Pillow."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from passl_sot.config import ConfigError
from passl_sot.data import build_transforms
from passl_sot.data.transforms import image as transforms
from passl_sot.data.transforms import policies
from passl_sot.data.transforms.policies import (
    POLICY_OPERATIONS,
    AutoAugment,
    ThreeAugment,
    policy_table,
)
from tests.data.drawn_steps import Step, steps_of

MEAN = (124, 116, 104)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _by_pillow(picture: Image.Image, name: str, m: float, sign: int, interpolation: str) -> Image.Image:
    """The operation by its definition, with Pillow's functions alone."""
    how = {"resample": FILTERS[interpolation], "fillcolor": MEAN}
    shear = (1, sign * 0.3 * (m / 10), 0, 0, 1, 0)
    factor = 0.1 + 1.8 * (m / 10)
    return {
        "AutoContrast": lambda: ImageOps.autocontrast(picture),
        "Equalize": lambda: ImageOps.equalize(picture),
        "Invert": lambda: ImageOps.invert(picture),
        "Rotate": lambda: picture.rotate(30 * (sign * (m / 10)), **how),
        "ShearX": lambda: picture.transform(picture.size, Image.Transform.AFFINE, shear, **how),
        "Posterize": lambda: ImageOps.posterize(picture, 4 + math.floor(4 * m / 10)),
        "Solarize": lambda: ImageOps.solarize(picture, math.floor(256 * m / 10)),
        "Color": lambda: ImageEnhance.Color(picture).enhance(factor),
        "Contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "Sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
    }[name]()


# -- AutoAugment ------------------------------------------------------------------------------------
def test_the_table():
    rows = policy_table()
    assert len(rows) == 25 and len(set(rows)) == 20
    assert rows[0] == (("Posterize", 0.4, 8.0), ("Rotate", 0.6, 9.0))
    assert rows[18] == (("ShearX", 0.6, 5.0), ("Equalize", 1.0, 9.0))
    assert {name for row in rows for name, *_ in row} == set(POLICY_OPERATIONS)


@pytest.mark.parametrize("name", sorted(POLICY_OPERATIONS))
def test_every_operation_at_every_magnitude_of_the_table(name, photos):
    magnitudes = {m for row in policy_table() for operation, _, m in row if operation == name}
    for image in photos:
        picture = Image.fromarray(image)
        for m in magnitudes:
            for sign in (1, -1):
                for interpolation in FILTERS:
                    step = Step(name, m, sign, interpolation, MEAN)
                    result = step.op(POLICY_OPERATIONS).by_pillow(picture)
                    expected = _by_pillow(picture, name, m, sign, interpolation)
                    np.testing.assert_array_equal(np.asarray(result), np.asarray(expected))


def test_the_call_is_its_steps_in_order(photos):
    augment, changed = AutoAugment(), 0
    for seed in range(200):
        image = photos[seed % 4][:, :: 1 - 2 * (seed % 2)]
        before = image.copy()
        result = augment(image, _rng(seed))
        picture = Image.fromarray(image)
        for step in steps_of(augment, _rng(seed)):
            picture = _by_pillow(picture, step.name, step.magnitude, step.sign, step.interpolation)
        np.testing.assert_array_equal(result, np.asarray(picture))
        np.testing.assert_array_equal(image, before)
        changed += not np.array_equal(result, image)
    assert 150 < changed < 200


def test_ten_thousand_draws():
    """Rows are equally likely, each operation comes with its own probability, signs and filters by halves."""
    rng, augment = _rng(0), AutoAugment()
    drawn = [steps_of(augment, rng) for _ in range(10_000)]
    expected, total = collections.Counter(), 0.0
    for row in policy_table():
        for name, probability, magnitude in row:
            expected[name, magnitude] += probability / 25
            total += probability / 25
    steps = [step for image in drawn for step in image]
    assert abs(len(steps) / 10_000 - total) < 0.02
    found = collections.Counter((step.name, step.magnitude) for step in steps)
    assert set(found) == {key for key, share in expected.items() if share}
    for key, share in expected.items():
        assert abs(found[key] / 10_000 - share) < 0.012, key
    for share in (
        np.mean([step.sign > 0 for step in steps]),
        np.mean([step.interpolation == "bicubic" for step in steps]),
    ):
        assert abs(share - 0.5) < 0.02
    bilinear = AutoAugment(interpolation="bilinear", fill=(1, 2, 3))
    assert {(s.interpolation, s.fill) for _ in range(99) for s in steps_of(bilinear, rng)} == {
        ("bilinear", (1, 2, 3))
    }


def test_faulty_settings():
    with pytest.raises(ConfigError, match="policy"):
        build_transforms([{"name": "AutoAugment", "policy": "v0"}])
    with pytest.raises(ValueError, match=r"AutoAugment.fill is \[0, 0, 256\]"):
        AutoAugment(fill=(0, 0, 256))
    with pytest.raises(ConfigError, match=r"ThreeAugment.radius is \[2.0, 1.0\]"):
        build_transforms([{"name": "ThreeAugment", "radius": [2.0, 1.0]}])


# -- 3-Augment --------------------------------------------------------------------------------------
def test_three_augment_is_one_of_three_by_pillow(photos):
    augment, seen = ThreeAugment(), collections.Counter()
    for seed in range(300):
        image = photos[seed % 4]
        picture, draws = Image.fromarray(image), _rng(seed)
        which = int(draws.integers(3))
        expected = (
            lambda picture=picture: Image.merge("RGB", [picture.convert("L")] * 3),
            lambda picture=picture: ImageOps.solarize(picture),  # from 128 up, Pillow's default
            lambda picture=picture, draws=draws: picture.filter(
                ImageFilter.GaussianBlur(draws.uniform(0.1, 2.0))
            ),
        )[which]()
        np.testing.assert_array_equal(augment(image, _rng(seed)), np.asarray(expected))
        seen[which] += 1
    assert min(seen.values()) > 80


def test_ten_thousand_choices_and_radii(monkeypatch):
    radii = []

    def record(image, jobs):
        radii.extend(job.strength for job in jobs if job.kind == "Blur")
        return image

    monkeypatch.setattr(policies, "apply_ops", record)
    image, augment, rng = np.zeros((8, 8, 3), np.uint8), ThreeAugment(), _rng(0)
    for _ in range(10_000):
        augment(image, rng)
    assert abs(len(radii) / 10_000 - 1 / 3) < 0.015
    assert 0.1 <= min(radii) < 0.11 and 1.99 < max(radii) <= 2.0 and abs(np.mean(radii) - 1.05) < 0.03


# -- colour jitter ----------------------------------------------------------------------------------
def test_ten_thousand_jitters(photos, monkeypatch):
    """Factors uniform in 1 - j to 1 + j, the three in any order."""
    calls = []

    def record(image, jobs):
        calls.extend((job.kind, job.strength) for job in jobs)
        return image

    monkeypatch.setattr(transforms, "apply_ops", record)
    names = ("Brightness", "Contrast", "Color")
    jitter = build_transforms(
        [{"name": "ColorJitter", "brightness": 0.3, "contrast": 0.3, "saturation": 0.3}]
    )
    rng = _rng(0)
    for _ in range(10_000):
        jitter(photos[3], rng)
    assert len(calls) == 30_000
    for name in names:
        factors = np.array([factor for called, factor in calls if called == name])
        assert len(factors) == 10_000 and factors.min() >= 0.7 and factors.max() <= 1.3
        assert abs(factors.mean() - 1) < 0.01 and abs(factors.std() - 0.6 / math.sqrt(12)) < 0.005
    orders = collections.Counter(tuple(n for n, _ in calls[i : i + 3]) for i in range(0, 30_000, 3))
    assert len(orders) == 6 and all(abs(count / 10_000 - 1 / 6) < 0.015 for count in orders.values())
