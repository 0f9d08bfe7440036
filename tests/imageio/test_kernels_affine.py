"""The compiled warps against Pillow's, bit for bit: photographs, every small size, awkward matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("numba")

from passl_sot.imageio.kernels import affine

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_FILL = (124, 116, 104)
_LEVELS = (0, 0.05, 0.31, 0.5, 0.8, 0.9, 1)


def _same(image: np.ndarray, matrix: tuple[float, ...], interpolation: str) -> None:
    expected = Image.fromarray(image).transform(
        image.shape[1::-1],
        Image.Transform.AFFINE,
        matrix,
        resample=_FILTERS[interpolation],
        fillcolor=_FILL,
    )
    result = affine.warp(image, matrix, interpolation, _FILL)
    np.testing.assert_array_equal(result, np.asarray(expected), err_msg=f"{matrix} {interpolation}")


def _noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", list(_FILTERS))
def test_shears_and_shifts_of_photographs(photos, interpolation):
    for image in photos:
        height, width = image.shape[:2]
        before = image.copy()
        for level in _LEVELS:
            for s in (level, -level):
                _same(image, (1, 0.3 * s, 0, 0, 1, 0), interpolation)
                _same(image, (1, 0, 0, 0.3 * s, 1, 0), interpolation)
                _same(image, (1, 0, 0.45 * s * width, 0, 1, 0), interpolation)
                _same(image, (1, 0, 0, 0, 1, 0.45 * s * height), interpolation)
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("interpolation", list(_FILTERS))
def test_rotations_of_photographs(photos, interpolation):
    for image in photos:
        for degrees in (*(30 * level for level in _LEVELS), -7.5, -27, 45, 90, 180, 270, 360, 1234.5, -1e-9):
            expected = Image.fromarray(image).rotate(degrees, _FILTERS[interpolation], fillcolor=_FILL)
            result = affine.rotate(image, degrees, interpolation, _FILL)
            np.testing.assert_array_equal(result, np.asarray(expected), err_msg=str(degrees))
            assert result is not image


@pytest.mark.parametrize("interpolation", list(_FILTERS))
def test_any_size_and_any_matrix(interpolation):
    """Down to a single pixel, with places inside, outside and at the very border."""
    rng = np.random.default_rng(0)
    for height in range(1, 8):
        for width in range(1, 8):
            image = _noise(rng, height, width)
            for _ in range(4):
                s = float(rng.uniform(-1.2, 1.2))
                _same(image, (1, s, 0, 0, 1, 0), interpolation)
                _same(image, (1, 0, 0, s, 1, 0), interpolation)
                _same(image, (1, 0, s * width, 0, 1, 0), interpolation)
                _same(image, (1, 0, 0, 0, 1, s * height), interpolation)
                _same(image, (1, s, s, 0, 1, 0), interpolation)
                _same(image, (1, 0, 0, s, 1, -s), interpolation)
                matrix = rng.normal(size=6) * [1, 1, width, 1, 1, height]
                _same(image, tuple(matrix.tolist()), interpolation)


@pytest.mark.parametrize("interpolation", list(_FILTERS))
def test_whole_pixels_but_for_rounding(interpolation):
    """Rounding decides there which neighbours a pixel has, and may decide otherwise further on in the row."""
    image = _noise(np.random.default_rng(1), 19, 157)
    for whole in (-157, -40, -3, -1, 0, 1, 2, 33, 156):
        for off in (0, 1e-16, -1e-16, 1e-15, -1e-15, 4e-15, -4e-15, 2e-14, -2e-14, 0.5, 1e-9):
            _same(image, (1, 0, whole + off, 0, 1, 0), interpolation)
            _same(image, (1, 0, 0, 0, 1, whole / 8 + off), interpolation)
            # Rows are whole numbers of pixels apart, or tenths.
            _same(image, (1, whole / 4 + off, 0, 0, 1, 0), interpolation)
            _same(image, (1, 0.1 * whole + off, whole, 0, 1, 0), interpolation)
            _same(image, (1, 0, 0, 0.1 * whole + off, 1, 0), interpolation)


def test_hundreds_of_draws(photos):
    rng = np.random.default_rng(2)
    for number in range(300):
        image = photos[2 + number % 2]
        interpolation = ("bilinear", "bicubic")[number // 2 % 2]
        s = float(rng.normal(0.9, 0.05)) * (1 if rng.random() < 0.5 else -1)
        if number % 3:
            shear = (1, 0.3 * s, 0, 0, 1, 0) if number % 3 == 1 else (1, 0, 0, 0.3 * s, 1, 0)
            _same(image, shear, interpolation)
            continue
        expected = Image.fromarray(image).rotate(30 * s, _FILTERS[interpolation], fillcolor=_FILL)
        result = affine.rotate(image, 30 * s, interpolation, _FILL)
        np.testing.assert_array_equal(result, np.asarray(expected))


def test_a_plain_transcription_of_the_formula(photos):
    """The cubic by its weights, in exact places: one off at most, where these round otherwise."""
    image, angle = photos[3], math.radians(20)
    height, width = image.shape[:2]
    matrix = (math.cos(angle), math.sin(angle), -9.0, -math.sin(angle), math.cos(angle), 14.0)
    result = affine.warp(image, matrix, "bicubic", _FILL)
    inside = 0
    for y in range(0, height, 3):
        for x in range(0, width, 3):
            u = matrix[0] * (x + 0.5) + matrix[1] * (y + 0.5) + matrix[2]
            v = matrix[3] * (x + 0.5) + matrix[4] * (y + 0.5) + matrix[5]
            if not (0 <= u < width and 0 <= v < height):
                assert tuple(result[y, x]) == _FILL
                continue
            inside += 1
            value = np.zeros(3)
            for row in range(math.floor(v - 0.5) - 1, math.floor(v - 0.5) + 3):
                for column in range(math.floor(u - 0.5) - 1, math.floor(u - 0.5) + 3):
                    weight = _weight(v - 0.5 - row) * _weight(u - 0.5 - column)
                    value += weight * image[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
            assert np.abs(np.clip(value, 0, 255) - 0.5 - result[y, x]).max() <= 0.5 + 1e-9
    assert inside > 200


def _weight(x: float) -> float:
    """Keys' cubic with a = -1."""
    x = abs(x)
    return (x - 2) * x * x + 1 if x < 1 else -(((x - 5) * x + 8) * x - 4) if x < 2 else 0.0
