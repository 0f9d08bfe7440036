"""The compiled resampling is Pillow's in every bit."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from passl_sot.imageio.decode import resize

pytest.importorskip("numba")

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@pytest.fixture(autouse=True)
def _only_compiled(monkeypatch):
    """Nothing here may be Pillow's own work."""
    monkeypatch.delattr(sys.modules["passl_sot.imageio.decode"], "_resize_by_pillow")


def _pillow(image: np.ndarray, size_hw: tuple[int, int], interpolation: str) -> np.ndarray:
    planes = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])]
    sized = [p.resize(size_hw[::-1], FILTERS[interpolation]) for p in planes]
    return np.stack([np.asarray(p) for p in sized], axis=2)


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


sides = st.one_of(st.integers(1, 12), st.integers(1, 130))
shares = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(sides, sides, st.sampled_from([3, 3, 1, 5])),
    size=st.tuples(sides, sides),
    interpolation=st.sampled_from(sorted(FILTERS)),
    part=st.tuples(shares, shares),
)
def test_any_size_and_window(shape, size, interpolation, part):
    image = _noise(*shape)
    expected = _pillow(image, size, interpolation)
    result = resize(image, size, interpolation=interpolation)
    np.testing.assert_array_equal(result, expected)
    (top, bottom), (left, right) = (
        (int(low * side), int(high * side) + 1) for (low, high), side in zip(part, size, strict=True)
    )
    bottom, right = min(max(bottom, top + 1), size[0]), min(max(right, left + 1), size[1])
    top, left = min(top, bottom - 1), min(left, right - 1)
    window = (top, left, bottom - top, right - left)
    cut = resize(image, size, interpolation=interpolation, window=window)
    np.testing.assert_array_equal(cut, expected[top:bottom, left:right])


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 1), (1, 1)),
        ((1, 1), (300, 7)),
        ((1, 5000), (224, 224)),
        ((5000, 1), (224, 224)),
        ((5000, 3), (3, 5000)),
        ((40, 60), (40, 60)),
        ((40, 60), (40, 7)),
        ((40, 60), (7, 60)),
        ((700, 520), (4, 3)),
        ((9, 11), (600, 700)),
    ],
)
def test_extreme_sizes(shape, size, interpolation):
    image = _noise(*shape, 3)
    result = resize(image, size, interpolation=interpolation)
    np.testing.assert_array_equal(result, _pillow(image, size, interpolation))


def test_both_orders_of_the_passes():
    """At (100, 60) to (40, 30) Pillow 13 turns from one to the other: 60 is not more than twice 30."""
    differences = 0
    for height in (99, 100, 101, 102):
        image = _noise(height, 60, 3)
        across = _pillow(_pillow(image, (height, 30), "bicubic"), (40, 30), "bicubic")
        result = resize(image, (40, 30))
        np.testing.assert_array_equal(result, _pillow(image, (40, 30), "bicubic"))
        differences += int((result != across).any())
    assert differences == (2 if int(Image.__version__.split(".")[0]) >= 13 else 0)


@pytest.mark.parametrize("interpolation", FILTERS)
def test_photographs(photos, interpolation):
    for photo in photos:
        for size in ((224, 224), (160, 192), (37, 32), (300, 260)):
            result = resize(photo, size, interpolation=interpolation)
            assert result.shape == (*size, 3)
            np.testing.assert_array_equal(result, _pillow(photo, size, interpolation))


def test_views(photos):
    """Slices are read where they lie; other views, and arrays that can't be written, do as well."""
    photo = photos[0]
    kept = photo.copy()
    frozen = photo.copy()
    frozen.flags.writeable = False
    views = [
        photo[10:150, 20:201],
        photo[:, ::-1],
        photo[::-1],
        photo[::2, 1:],
        photo[:, ::3],
        photo.transpose(1, 0, 2),
        photo[:, :, :2],
        np.broadcast_to(photo[:1], photo.shape),
        frozen[3:70, 5:90],
    ]
    for view in views:
        np.testing.assert_array_equal(resize(view, (48, 56)), _pillow(view, (48, 56), "bicubic"))
    np.testing.assert_array_equal(photo, kept)


def test_an_image_without_a_change_is_copied(photos):
    result = resize(photos[0], photos[0].shape[:2])
    np.testing.assert_array_equal(result, photos[0])
    assert not np.shares_memory(result, photos[0])
