"""RandAugment against Pillow calls and formulas that are written out here from the published description."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from passl_sot.config import ConfigError
from passl_sot.data import build_transforms
from passl_sot.data.transforms.policies import OPERATIONS, RandAugment, parse_policy
from tests.data.drawn_steps import Step, steps_of

_MEAN = (124, 116, 104)
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_POINT = ("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd")
_ENHANCE = ("Color", "Contrast", "Brightness", "Sharpness")
_WARP = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _per_channel(image: np.ndarray, operation) -> np.ndarray:
    return np.stack([np.asarray(operation(Image.fromarray(image[..., c]))) for c in range(3)], axis=2)


def _point(name: str, image: np.ndarray, m: float) -> np.ndarray:
    wide = image.astype(int)
    if name == "AutoContrast":
        return _per_channel(image, ImageOps.autocontrast)
    if name == "Equalize":
        return _per_channel(image, ImageOps.equalize)
    if name == "Invert":
        return 255 - image
    if name == "Posterize":
        kept = 4 - math.floor(m / 10 * 4)
        return image & np.uint8((0xFF << (8 - kept)) & 0xFF)
    if name == "Solarize":
        return np.where(wide < 256 - math.floor(m / 10 * 256), image, 255 - image)
    added = np.minimum(wide + math.floor(m / 10 * 110), 255)
    return np.where(wide < 128, added, wide).astype(np.uint8)


def _enhance(name: str, image: np.ndarray, m: float, sign: int) -> np.ndarray:
    picture = Image.fromarray(image)
    grey = picture.convert("L")
    if name == "Color":
        base = Image.merge("RGB", (grey, grey, grey))
    elif name == "Contrast":
        mean = int(np.asarray(grey).mean() + 0.5)
        base = Image.new("RGB", picture.size, (mean, mean, mean))
    elif name == "Brightness":
        base = Image.new("RGB", picture.size, (0, 0, 0))
    else:
        base = picture.filter(ImageFilter.Kernel((3, 3), (1, 1, 1, 1, 5, 1, 1, 1, 1)))
    return np.asarray(Image.blend(base, picture, 1 + sign * 0.9 * (m / 10)))


def _warp(name: str, image: np.ndarray, m: float, sign: int, interpolation: str) -> np.ndarray:
    height, width = image.shape[:2]
    s = sign * (m / 10)
    if name == "Rotate":
        angle = math.radians(30 * s)
        cos, sin, x, y = math.cos(angle), math.sin(angle), width / 2, height / 2
        matrix = (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    else:
        matrix = {
            "ShearX": (1, 0.3 * s, 0, 0, 1, 0),
            "ShearY": (1, 0, 0, 0.3 * s, 1, 0),
            "TranslateX": (1, 0, 0.45 * s * width, 0, 1, 0),
            "TranslateY": (1, 0, 0, 0, 1, 0.45 * s * height),
        }[name]
    return np.asarray(
        Image.fromarray(image).transform(
            (width, height), Image.Transform.AFFINE, matrix, _FILTERS[interpolation], fillcolor=_MEAN
        )
    )


def _run(name: str, image: np.ndarray, m: float, sign: int = 1, interpolation: str = "bicubic") -> np.ndarray:
    job = Step(name, m, sign, interpolation, _MEAN).op(OPERATIONS)
    return np.asarray(job.by_pillow(Image.fromarray(image)))


# -- pixels -----------------------------------------------------------------------------------------
def test_the_fifteen():
    assert sorted(OPERATIONS) == sorted(_POINT + _ENHANCE + _WARP)


@pytest.mark.parametrize("name", _POINT)
def test_point_operations(name, photos):
    for image in photos:
        for m in (0, 0.5, 2.4, 2.5, 4.99, 5, 7.3, 9, 9.99, 10):
            for sign in (1, -1):
                np.testing.assert_array_equal(_run(name, image, m, sign), _point(name, image, m))


@pytest.mark.parametrize("name", _ENHANCE)
def test_enhancements(name, photos):
    for image in photos:
        for m in (0, 1.7, 5, 8.4, 9, 10):
            for sign in (1, -1):
                result, expected = _run(name, image, m, sign), _enhance(name, image, m, sign)
                if name == "Sharpness":  # the border is Pillow's own matter
                    result, expected = result[1:-1, 1:-1], expected[1:-1, 1:-1]
                np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", _WARP)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_warps(name, interpolation, photos):
    for image in photos:
        for m in (0.3, 4.1, 8.6, 9, 10):
            for sign in (1, -1):
                result = _run(name, image, m, sign, interpolation)
                expected = _warp(name, image, m, sign, interpolation)
                if name == "Rotate":  # the matrix is rounded in another place
                    assert (result != expected).mean() < 1e-3
                else:
                    np.testing.assert_array_equal(result, expected)


def test_rotation_is_pillows_own(photos):
    for sign, filter_name in ((1, "bilinear"), (-1, "bicubic")):
        expected = Image.fromarray(photos[1]).rotate(sign * 27, _FILTERS[filter_name], fillcolor=_MEAN)
        np.testing.assert_array_equal(_run("Rotate", photos[1], 9, sign, filter_name), np.asarray(expected))


def test_warps_show_the_fill(photos):
    for name in _WARP:
        result = _run(name, photos[0], 9)
        corners = [tuple(result[y, x]) for y in (0, -1) for x in (0, -1)]
        assert _MEAN in corners, name


def test_magnitude_nine_is_what_the_papers_used(photos):
    image = photos[0]
    assert set(np.unique(_run("Posterize", image, 9))) == {0, 128}  # 1 bit
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    assert _run("Solarize", ramp, 9)[..., 0].ravel().tolist() == [*range(26), *range(229, -1, -1)]
    added = [min(255, v + 99) if v < 128 else v for v in range(256)]
    assert _run("SolarizeAdd", ramp, 9)[..., 0].ravel().tolist() == added
    grey = np.full((4, 4, 3), 100, np.uint8)
    assert (_run("Brightness", grey, 9, -1) == 19).all() and (_run("Brightness", grey, 9, 1) == 181).all()


def test_no_bits_are_black(photos):
    assert not _run("Posterize", photos[0], 10).any()
    assert _run("Posterize", photos[0], 9.999).any()
    strongest = RandAugment(policy="rand-m10-inc1")  # Pillow itself would raise in every 30th image
    for seed in range(100):
        strongest(photos[3], _rng(seed))


def test_the_call_is_its_steps_in_order(photos):
    augment = RandAugment()
    changed = 0
    for seed in range(150):
        image = photos[2 + seed % 2]
        if seed % 3:
            image = image[:, ::-1]  # as RandomHorizontalFlip hands it over
        before = image.copy()
        result = augment(image, _rng(seed))
        expected = image
        for step in steps_of(augment, _rng(seed)):
            expected = _run(step.name, expected, step.magnitude, step.sign, step.interpolation)
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(image, before)
        assert result.dtype == np.uint8 and result.shape == image.shape
        np.testing.assert_array_equal(augment(image, _rng(seed)), result)
        changed += not np.array_equal(result, image)
    assert 90 < changed < 125


def test_options(photos):
    blue = RandAugment(interpolation="bilinear", fill=(0, 0, 255))
    for seed in range(200):
        for step in steps_of(blue, _rng(seed)):
            assert step.interpolation == "bilinear" and step.fill == (0, 0, 255)
    job = Step("TranslateX", 9.0, 1, "bilinear", (0, 0, 255)).op(OPERATIONS)
    assert tuple(np.asarray(job.by_pillow(Image.fromarray(photos[0])))[5, -5]) == (0, 0, 255)
    built = build_transforms([{"name": "RandAugment", "interpolation": "bicubic", "fill": [1, 2, 3]}])
    assert built.transforms[0].fill == (1, 2, 3) and not built.normalizes


# -- draws ------------------------------------------------------------------------------------------
def test_ten_thousand_draws():
    rng, augment = _rng(0), RandAugment()
    drawn = [steps_of(augment, rng) for _ in range(10_000)]
    steps = [step for image in drawn for step in image]
    # Two draws, each carried out half of the time.
    assert abs(len(steps) / 20_000 - 0.5) < 0.015
    lengths = collections.Counter(map(len, drawn))
    np.testing.assert_allclose([lengths[k] / 10_000 for k in (0, 1, 2)], [0.25, 0.5, 0.25], atol=0.02)
    # Uniform over the 15, with replacement.
    names = collections.Counter(step.name for step in steps)
    assert set(names) == set(OPERATIONS)
    np.testing.assert_allclose([n / len(steps) for n in names.values()], 1 / 15, atol=0.011)
    pairs = [image for image in drawn if len(image) == 2]
    assert abs(np.mean([a.name == b.name for a, b in pairs]) - 1 / 15) < 0.02
    # N(9, 0.5), a new one for each application.
    magnitudes = np.array([step.magnitude for step in steps])
    assert magnitudes.max() == 10 and magnitudes.min() > 6.5
    inside = magnitudes < 10
    assert abs((~inside).mean() - 0.02275) < 0.007  # beyond two deviations
    assert abs(np.median(magnitudes) - 9) < 0.02
    np.testing.assert_allclose(
        [(magnitudes < edge).mean() for edge in (8, 8.5, 9, 9.5)], [0.0228, 0.1587, 0.5, 0.8413], atol=0.017
    )
    assert len(np.unique(magnitudes[inside])) == inside.sum()
    # Signs and filters, independent of each other.
    signs = np.array([step.sign for step in steps])
    filters = np.array([step.interpolation == "bicubic" for step in steps])
    assert set(signs) == {1, -1}
    for share in ((signs > 0).mean(), filters.mean(), (filters == (signs > 0)).mean()):
        assert abs(share - 0.5) < 0.02


def test_magnitudes_are_clipped_on_both_sides():
    for policy, edge in (("rand-m10-mstd3-inc1", 10), ("rand-m0-mstd3-inc1", 0)):
        augment, rng = RandAugment(policy=policy), _rng(0)
        magnitudes = np.array([step.magnitude for _ in range(2000) for step in steps_of(augment, rng)])
        assert magnitudes.min() >= 0 and magnitudes.max() <= 10
        assert abs((magnitudes == edge).mean() - 0.5) < 0.05


def test_number_of_operations():
    rng = _rng(0)
    for n in (1, 3):
        augment = RandAugment(policy=f"rand-m5-n{n}-inc1")
        drawn = [steps_of(augment, rng) for _ in range(2000)]
        assert max(map(len, drawn)) == n and abs(np.mean([len(steps) for steps in drawn]) - n / 2) < 0.07
        assert {step.magnitude for steps in drawn for step in steps} == {5.0}


# -- the policy string ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("rand-m9-mstd0.5-inc1", (9, 0.5, 2)),
        ("rand-m9-mstd0.5-inc0", (9, 0.5, 2)),  # as in timm, what follows "inc" doesn't matter
        ("rand-inc1-n3-m7.5", (7.5, 0, 3)),
        ("rand-m10-inc1", (10, 0, 2)),
    ],
)
def test_policies(text, policy):
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rand-m9-mstd0.5-inc", "'inc' isn't understood"),
        ("rand-m9-mstd0.5", "'inc' is missing"),
        ("rand-mstd0.5-inc1", "'m' is missing"),
        ("rand-m9-w0-inc1", "'w0' isn't understood"),
        ("rand-m9-m8-inc1", "'m8' stands twice"),
        ("rand-m9--inc1", "'' isn't understood"),
        ("rand-m-1-inc1", "'m' isn't understood"),
        ("rand-m11-inc1", "m must be at most 10"),
        ("rand-m9-mstd101-inc1", "mstd must be at most 10"),
        ("rand-m9-n0-inc1", "n must be 1, 2, ..."),
        ("rand-m9-n1.5-inc1", "n must be 1, 2, ..."),
        ("augmix-m3-w3", "'w3' isn't understood"),
        ("original", "must begin with 'rand'"),
        ("", "must begin with 'rand'"),
    ],
)
def test_other_policies_are_refused(text, words):
    with pytest.raises(ValueError) as caught:
        RandAugment(policy=text)
    assert f"RandAugment.policy is '{text}'" in str(caught.value) and words in str(caught.value)
    assert "rand-m9-mstd0.5-inc1" in str(caught.value)


def test_fill_out_of_range():
    with pytest.raises(ValueError, match=r"RandAugment.fill is \[0, 0, 256\]"):
        RandAugment(fill=(0, 0, 256))
    with pytest.raises(ConfigError, match="fill"):
        build_transforms([{"name": "RandAugment", "fill": [0.485, 0.456, 0.406]}])
