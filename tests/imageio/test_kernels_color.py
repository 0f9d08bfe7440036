"""The compiled colour operations and blur against Pillow's, and whole policies both ways, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from passl_sot.data.transforms import policies
from passl_sot.data.transforms.image import ColorJitter, Normalize, RandomHorizontalFlip
from passl_sot.data.transforms.policies import AutoAugment, Op, RandAugment, ThreeAugment, apply_ops

pytest.importorskip("numba")

_FACTORS = (0, 0.1, 0.19, 0.55, 0.999, 1, 1.0001, 1.45, 1.81, 1.9, 5, 1e9)
_STRENGTHS = {
    "AutoContrast": (0,),
    "Equalize": (0,),
    "Invert": (0,),
    "Grey": (0,),
    "Posterize": range(9),
    "Solarize": (0, 1, 26, 128, 254, 255, 256),
    "SolarizeAdd": (0, 1, 55, 99, 110, 127, 128, 255),
    "Brightness": _FACTORS,
    "Color": _FACTORS,
    "Contrast": _FACTORS,
    "Sharpness": _FACTORS,
    "Blur": (0, 0.1, 0.49, 0.7, 1, 1.3, 1.77, 2, 5.5),
}


def _images() -> list[np.ndarray]:
    """Noise of every small size, noise of few values, and plain colours."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h in range(1, 6) for w in range(1, 6)]
    for low, high in ((0, 2), (17, 18), (100, 104), (250, 256), (5, 252)):
        for height, width in ((1, 300), (23, 31), (64, 48)):
            images.append(rng.integers(low, high, (height, width, 3), dtype=np.uint8))
    images += [np.full((9, 8, 3), value, np.uint8) for value in (0, 128, 255)]
    # Channels unlike each other: one of a single value, one of two, one of all.
    odd = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    odd[..., 0], odd[..., 1] = 77, np.where(odd[..., 1] > 20, 9, 200)
    return [*images, odd]


@pytest.mark.parametrize("kind", list(_STRENGTHS))
def test_every_strength(kind, photos):
    for image in [*photos, *_images()]:
        before = image.copy()
        for strength in _STRENGTHS[kind]:
            job = Op(kind, strength)
            result = job.by_kernel(image)
            expected = np.asarray(job.by_pillow(Image.fromarray(image)))
            np.testing.assert_array_equal(result, expected, err_msg=f"{strength} {image.shape}")
            assert result.dtype == np.uint8
        np.testing.assert_array_equal(image, before)


def test_factors_in_hundreds(photos):
    rng = np.random.default_rng(1)
    for number in range(400):
        kind = ("Brightness", "Color", "Contrast", "Sharpness", "Blur")[number % 5]
        job = Op(kind, float(rng.uniform(0, 2)))
        image = photos[3][number % 17 :, : 64 - number % 23]
        result = job.by_kernel(np.ascontiguousarray(image))
        np.testing.assert_array_equal(result, np.asarray(job.by_pillow(Image.fromarray(image))))


def test_zero_bits_are_black(photos):
    assert not Op("Posterize", 0).by_kernel(photos[0]).any()


@pytest.mark.parametrize(
    "transform",
    [
        RandAugment(),
        RandAugment(policy="rand-m10-mstd3-n4-inc1"),
        AutoAugment(),
        ThreeAugment(),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    ],
    ids=["rand", "rand-strong", "auto", "three", "jitter"],
)
def test_policies_have_the_same_pixels_and_draws_without_numba(transform, photos, monkeypatch):
    flip = RandomHorizontalFlip()
    for seed in range(100):
        image = photos[seed % 4] if seed % 7 == 0 else photos[2 + seed % 2]
        results, left_over = [], []
        for installed in (True, False):
            monkeypatch.setattr(policies, "available", lambda installed=installed: installed)
            rng = np.random.default_rng(seed)
            results.append(transform(flip(image, rng), rng))
            left_over.append(rng.random())
        np.testing.assert_array_equal(*results)
        assert left_over[0] == left_over[1]


def test_images_that_are_not_contiguous(photos):
    jobs = [Op("Invert"), Op("ShearX", 0.2, "bicubic"), Op("Sharpness", 1.7), Op("Hue", 0.1)]
    for image in (photos[2][:, ::-1], photos[2][::2, 5:90], photos[2].transpose(1, 0, 2)):
        expected = apply_ops(np.ascontiguousarray(image), jobs)
        np.testing.assert_array_equal(apply_ops(image, jobs), expected)
    assert apply_ops(image, []) is image


def test_nothing_is_compiled_twice(photos):
    """For arrays that may not be written to, as Pillow hands them out, numba would."""
    from passl_sot.imageio.kernels import color
    from passl_sot.imageio.kernels import layout as planes

    for image in (photos[3], np.asarray(Image.fromarray(photos[3])), photos[3][:, ::-1]):
        apply_ops(image, [Op("Hue", 0.1), Op("Color", 1.5)])
        apply_ops(image, [Op("Color", 1.5)])
        Normalize()(RandomHorizontalFlip(prob=1)(image, np.random.default_rng(0)), None)
        Normalize()(image, None)
    loops = (color._blend, planes.mirror, planes.normalize)
    assert [len(loop.signatures) for loop in loops] == [1, 1, 1]


_PROGRAM = """
import sys
import numpy as np
from passl_sot.data.transforms.mixup import Mixup
from passl_sot.data.transforms.policies import RandAugment
from passl_sot.data.transforms.image import Normalize
from passl_sot.imageio.kernels import jit
assert "numba" not in sys.modules  # nothing has asked for it yet

def run():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    total = Normalize()(image, None).sum(dtype=np.float64)
    for seed in range(40):
        total += RandAugment()(image, np.random.default_rng(seed)).sum(dtype=np.float64) * (seed + 1)
    pair, labels = np.stack([image, image[::-1]]), np.array([0, 1])
    return total, sum(
        int(mixed.sum()) for mixed in Mixup(num_classes=2)(pair, labels, np.random.default_rng(0))[0])

sys.modules["numba"] = None
absent = run()
del sys.modules["numba"]
jit.available.cache_clear()
assert run() == absent
assert "numba" in sys.modules
print("the same")
"""


def test_with_and_without_numba():
    assert _run(_PROGRAM) == "the same\n"


def test_where_no_code_can_be_kept_it_is_compiled_anew():
    program = """
import numpy as np
from passl_sot.data.transforms.policies import Op
print(Op("Invert").by_kernel(np.full((1, 1, 3), 55, np.uint8)).tolist())
from passl_sot.imageio.kernels import color
print(type(color._pointwise._cache).__name__)
"""
    nowhere = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": "/proc/nowhere"}
    assert _run(program, **nowhere) == "[[[200, 200, 200]]]\nNullCache\n"


def _run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
