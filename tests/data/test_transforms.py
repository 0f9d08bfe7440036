from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from passl_sot.config import ConfigError
from passl_sot.data import DataError, build_transforms
from passl_sot.data.transforms import image as transforms
from passl_sot.data.transforms.base import BaseTransform
from passl_sot.data.transforms.compose import Compose
from passl_sot.data.transforms.image import (
    CenterCrop,
    ColorJitter,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from passl_sot.imageio.kernels.jit import available

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _image(height: int = 40, width: int = 60) -> np.ndarray:
    return _rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


class _Fixed:
    """Stands in for a generator: every draw is the middle of its range."""

    def uniform(self, low, high):
        return (low + high) / 2

    def integers(self, n):
        return n // 2

    def random(self):
        return 0.5

    def permutation(self, n):
        return np.arange(n)


# -- resize and centre crop -------------------------------------------------------------------------
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (256, 256), (97, 1000), (100, 101), (300, 257)])
def test_eval_transform_is_pillows_antialiased_resize_and_crop(shape, interpolation):
    """The rule of torchvision (short side, long side rounded down, crop rounded) written out with Pillow."""
    image = _image(*shape)
    h, w = shape
    size = (64, int(64 * h / w)) if w <= h else (int(64 * w / h), 64)
    resized = Image.fromarray(image).resize(size, _FILTERS[interpolation])
    left, top = round((size[0] - 56) / 2), round((size[1] - 56) / 2)
    expected = np.asarray(resized.crop((left, top, left + 56, top + 56)))
    transform = Compose([Resize(size=64, interpolation=interpolation), CenterCrop(size=56)])
    np.testing.assert_array_equal(transform(image, _rng()), expected)
    assert transform.output_hw == (56, 56)


@pytest.mark.parametrize(
    ("shape", "expected"), [((375, 500), (256, 341)), ((500, 375), (341, 256)), ((7, 9), (256, 329))]
)
def test_short_side_rounds_down(shape, expected):
    assert Resize(size=256)(_image(*shape), _rng()).shape[:2] == expected


def test_resize_to_height_and_width():
    assert Resize(size=[20, 33])(_image(), _rng()).shape == (20, 33, 3)


def test_resize_leaves_an_image_of_that_size_alone():
    image = _image(40, 60)
    assert Resize(size=40)(image, _rng()) is image


@pytest.mark.parametrize(
    ("length", "crop", "begin"), [(256, 224, 16), (10, 7, 2), (8, 7, 0), (12, 7, 2), (14, 7, 4)]
)
def test_centre_crop_rounds_half_to_even_as_torchvision(length, crop, begin):
    image = np.arange(length, dtype=np.uint8).reshape(1, -1, 1).repeat(3, 2).repeat(crop, 0)
    assert CenterCrop(size=crop)(image, _rng())[0, 0, 0] == begin


def test_centre_crop_pads_small_images_with_black():
    image = np.full((2, 3, 3), 7, np.uint8)
    result = CenterCrop(size=[5, 6])(image, _rng())
    assert result.shape == (5, 6, 3)
    # torchvision puts the odd pixel to the right and below.
    np.testing.assert_array_equal(result[1:3, 1:4], image)
    assert result.sum() == image.sum()


def test_centre_crop_pads_one_side_and_cuts_the_other():
    result = CenterCrop(size=8)(np.full((4, 20, 3), 9, np.uint8), _rng())
    assert result.shape == (8, 8, 3)
    assert (result[2:6] == 9).all()
    assert result[:2].sum() == result[6:].sum() == 0


# -- random resized crop ----------------------------------------------------------------------------
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_equals_pillows_crop_then_resize(interpolation):
    crop = RandomResizedCrop(size=[24, 20], interpolation=interpolation)
    image = _image()
    for seed in range(50):
        top, left, h, w = crop.region(40, 60, _rng(seed))
        expected = (
            Image.fromarray(image)
            .crop((left, top, left + w, top + h))
            .resize((20, 24), _FILTERS[interpolation])
        )
        np.testing.assert_array_equal(crop(image, _rng(seed)), np.asarray(expected))


def test_crop_interpolation_random_draws_both():
    image = _image()
    crops = {
        name: RandomResizedCrop(size=8, interpolation=name) for name in ("bilinear", "bicubic", "random")
    }
    drawn = {"bilinear": 0, "bicubic": 0}
    for seed in range(400):
        result = crops["random"](image, _rng(seed))
        for name in drawn:
            drawn[name] += np.array_equal(result, crops[name](image, _rng(seed)))
    assert sum(drawn.values()) == 400
    assert 150 < drawn["bilinear"] < 250


def test_crop_distribution():
    """On a square image every draw of area in [.08, 1] is kept unless a side sticks out."""
    rng = _rng(0)
    crop = RandomResizedCrop(size=8)
    regions = np.array([crop.region(1000, 1000, rng) for _ in range(20_000)], float)
    top, left, h, w = regions.T
    assert (top >= 0).all() and (top + h <= 1000).all() and (left >= 0).all() and (left + w <= 1000).all()
    area, aspect = h * w / 1e6, w / h
    assert 0.079 < area.min() < 0.085 and 0.97 < area.max() <= 1
    assert aspect.min() > 0.745 and aspect.max() < 1.345
    # Log-uniform: as often wide as tall. Areas up to 3/4 fit at any aspect, so they are uniform there.
    assert abs(np.log(aspect).mean()) < 0.005
    fitting = area[area < 0.74]
    histogram = np.histogram(fitting, bins=11, range=(0.08, 0.74))[0] / len(fitting)
    np.testing.assert_allclose(histogram, 1 / 11, atol=0.012)
    # The place is uniform within the room that is left.
    room = left[w < 900] / (1000 - w[w < 900])
    assert abs(room.mean() - 0.5) < 0.01 and abs(room.var() - 1 / 12) < 0.005


def test_crop_retries_as_the_reference_does():
    """Same as a plain transcription of torchvision's loop, draw for draw."""

    def reference(height, width, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
        for _ in range(10):
            area = height * width * rng.uniform(*scale)
            aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                i = rng.integers(0, height - h + 1)
                return i, rng.integers(0, width - w + 1), h, w
        return None

    crop = RandomResizedCrop(size=8)
    for seed in range(300):
        expected = reference(40, 60, _rng(seed))
        assert expected is None or crop.region(40, 60, _rng(seed)) == expected


@pytest.mark.parametrize(
    ("shape", "region"),
    [
        ((1000, 10), (493, 0, 13, 10)),
        ((10, 1000), (0, 493, 10, 13)),
        ((5000, 1), (2499, 0, 1, 1)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_crop_fallback_is_central(shape, region):
    assert RandomResizedCrop(size=8, scale=(0.9, 1.0)).region(*shape, _rng()) == region


def test_crop_fallback_whole_image():
    # The whole area only fits at the aspect 1.2 exactly, which is never drawn.
    assert RandomResizedCrop(size=8, scale=(1, 1), ratio=(0.5, 1.2)).region(50, 60, _rng()) == (0, 0, 50, 60)


# -- flip and colour --------------------------------------------------------------------------------
def test_flip():
    image = _image()
    np.testing.assert_array_equal(RandomHorizontalFlip(prob=1)(image, _rng()), image[:, ::-1])
    np.testing.assert_array_equal(RandomHorizontalFlip(prob=0)(image, _rng()), image)
    rng = _rng(0)
    flip = RandomHorizontalFlip(prob=0.3)
    share = np.mean([np.array_equal(flip(image, rng), image[:, ::-1]) for _ in range(2000)])
    assert 0.26 < share < 0.34


@pytest.mark.parametrize(
    ("argument", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_colour_jitter_is_pillows_enhance(argument, enhancer):
    image = _image()
    jitter = ColorJitter(**{argument: 0.4})
    for seed in range(20):
        rng = _rng(seed)
        rng.permutation(4)
        factor = rng.uniform(0.6, 1.4)
        expected = enhancer(Image.fromarray(image)).enhance(factor)
        np.testing.assert_array_equal(jitter(image, _rng(seed)), np.asarray(expected))


def test_colour_jitter_order_and_range():
    image = _image()
    fixed = _Fixed()
    np.testing.assert_array_equal(ColorJitter(brightness=0.4, contrast=0.4)(image, fixed), image)  # factors 1
    # Strengths above 1 start at 0, as in torchvision: the middle of [0, 3] is 1.5.
    expected = ImageEnhance.Brightness(Image.fromarray(image)).enhance(1.5)
    np.testing.assert_array_equal(ColorJitter(brightness=2)(image, fixed), np.asarray(expected))
    orders = {tuple(ColorJitter(brightness=0.4, contrast=0.4)(image, _rng(s))[0, 0]) for s in range(20)}
    assert len(orders) > 5
    assert ColorJitter()(image, _rng()) is not None


def test_hue():
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)

    class Third(_Fixed):
        def uniform(self, low, high):
            return 1 / 3

    green = ColorJitter(hue=0.5)(red, Third())
    assert green[0, 0].tolist() == [0, 255, 0] or (green[0, 0] - np.array([0, 255, 0])).max() < 8
    grey = np.full((4, 4, 3), 77, np.uint8)
    np.testing.assert_array_equal(ColorJitter(hue=0.5)(grey, _rng()), grey)


# -- normalise --------------------------------------------------------------------------------------
def test_normalize():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = _image()
    result = Normalize(mean=mean, std=std)(image, _rng())
    assert result.dtype == np.float32 and result.shape == (3, 40, 60) and result.flags.c_contiguous
    expected = (image.astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_allclose(Normalize()(image[:, ::-1], _rng()), result[:, :, ::-1])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_normalize_has_the_same_bits_without_numba(channels, monkeypatch):
    pytest.importorskip("numba")
    image = _rng(3).integers(0, 256, (31, 37, channels), dtype=np.uint8)
    normalize = Normalize(mean=(0.1, 0.45, 0.7, 0.3)[:channels], std=(0.2, 0.3, 0.25, 0.1)[:channels])
    for given in (image, image[:, ::-1], image[3:, 5:20]):
        results = []
        for installed in (True, False):
            monkeypatch.setattr(transforms, "available", lambda installed=installed: installed)
            results.append(normalize(given, _rng()))
        np.testing.assert_array_equal(*results)
        np.testing.assert_array_equal(
            results[0][-1], given[..., -1] * normalize.scale[-1] + normalize.bias[-1]
        )


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mirror_images_lie_in_memory_as_others_do(channels, installed, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(transforms, "available", lambda: installed)
    for height, width in ((1, 1), (1, 7), (9, 1), (5, 64), (40, 61)):
        image = _rng(height).integers(0, 256, (height, width, channels), dtype=np.uint8)
        for given in (image, image[:, 1:], image[::-1]):
            before = given.copy()
            result = RandomHorizontalFlip(prob=1.0)(given, _rng())
            np.testing.assert_array_equal(result, given[:, ::-1])
            np.testing.assert_array_equal(given, before)
            assert result.flags.c_contiguous and result.dtype == np.uint8


@pytest.mark.parametrize("installed", [True, False])
def test_mirrored_as_it_is_resized(installed, monkeypatch):
    """A flip after a resize takes part in it; pixels and draws are those of the two one after the other."""
    monkeypatch.setattr("passl_sot.imageio.kernels.jit.available", lambda: installed)
    flip, tall = RandomHorizontalFlip(prob=0.5), _image(150, 40)  # so tall that the vertical pass comes first
    for resized in (RandomResizedCrop(size=[24, 37]), RandomResizedCrop(size=16, interpolation="random")):
        for seed in range(20):
            image, rng, other = (_image(), tall)[seed % 2], _rng(seed), _rng(seed)
            result = Compose([resized, flip])(image, rng)
            np.testing.assert_array_equal(result, flip(resized(image, other), other))
            assert rng.random() == other.random() and result.flags.c_contiguous
    whole = Compose([Resize(size=31), RandomHorizontalFlip(prob=1), RandomHorizontalFlip(prob=1)])
    np.testing.assert_array_equal(whole(tall, _rng()), Resize(size=31)(tall, _rng()))
    cut = Compose([Resize(size=31), RandomHorizontalFlip(prob=1), CenterCrop(size=[14, 16])])
    mirrored = Resize(size=31)(_image(), _rng())[:, ::-1]
    np.testing.assert_array_equal(cut(_image(), _rng()), CenterCrop(size=[14, 16])(mirrored, _rng()))
    np.testing.assert_array_equal(Compose([flip, CenterCrop(size=9)])(tall, _rng(1)).shape, (9, 9, 3))


# -- building, and errors ---------------------------------------------------------------------------
def test_build():
    nodes = [{"name": "RandomResizedCrop", "size": 16}, {"name": "Normalize"}]
    pipeline = build_transforms(nodes)
    assert pipeline.normalizes and pipeline.output_hw == (16, 16)
    assert pipeline(_image(), _rng()).shape == (3, 16, 16)
    assert nodes == [{"name": "RandomResizedCrop", "size": 16}, {"name": "Normalize"}]
    assert build_transforms([{"name": "Resize", "size": 16}]).output_hw is None


def test_build_names_the_nearest():
    with pytest.raises(ConfigError, match="RandomResizedCrop"):
        build_transforms([{"name": "RandomResizeCrop", "size": 16}])
    with pytest.raises(ConfigError, match="interpolation"):
        build_transforms([{"name": "Resize", "size": 16, "interpolaton": "bicubic"}])
    with pytest.raises(ConfigError, match="bicubic"):
        build_transforms([{"name": "Resize", "size": 16, "interpolation": "cubic"}])


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"name": "RandomResizedCrop", "size": 0}, "RandomResizedCrop.size is 0; it must be 1 or more"),
        ({"name": "RandomResizedCrop", "size": [1, 2, 3]}, r"one number or \[height, width\]"),
        ({"name": "RandomResizedCrop", "size": 8, "scale": [0.5, 0.1]}, "lowest <= highest"),
        ({"name": "RandomResizedCrop", "size": 8, "scale": [0.5, 1.1]}, "highest <= 1"),
        ({"name": "RandomResizedCrop", "size": 8, "ratio": [0, 1]}, "RandomResizedCrop.ratio"),
        ({"name": "RandomHorizontalFlip", "prob": 1.5}, "RandomHorizontalFlip.prob is 1.5"),
        ({"name": "ColorJitter", "contrast": -0.1}, "ColorJitter.contrast is -0.1"),
        ({"name": "ColorJitter", "hue": 0.6}, "ColorJitter.hue is 0.6"),
        ({"name": "Resize", "size": -1}, "Resize.size"),
        ({"name": "CenterCrop", "size": [0, 3]}, "CenterCrop.size"),
        ({"name": "Normalize", "std": [1, 0, 1]}, "Normalize.std"),
        ({"name": "Normalize", "mean": [123.7, 116.3, 103.5]}, "values in 0 to 1, not 0 to 255"),
    ],
)
def test_values_out_of_range(node, words):
    with pytest.raises(ValueError, match=words):
        build_transforms([node])


def test_after_normalize_only_what_works_on_floats():
    assert build_transforms([{"name": "Normalize"}, {"name": "RandomErasing"}]).normalizes
    with pytest.raises(ValueError, match="CenterCrop works on uint8 images; put it before Normalize"):
        build_transforms([{"name": "Normalize"}, {"name": "CenterCrop", "size": 8}])
    with pytest.raises(ValueError, match="RandomErasing works on normalised images; put it after Normalize"):
        build_transforms([{"name": "RandomErasing"}, {"name": "Normalize"}])
    with pytest.raises(ValueError, match="normalised twice; keep one Normalize"):
        build_transforms([{"name": "Normalize"}, {"name": "Normalize"}])
    with pytest.raises(ValueError, match="transforms: Mixup works on whole batches; move it"):
        build_transforms([{"name": "Mixup", "num_classes": 2}, {"name": "Normalize"}])


# -- RandomCrop -------------------------------------------------------------------------------------
def test_random_crop_is_a_place_in_the_padded_image():
    image = np.arange(20 * 24 * 3, dtype=np.uint32).reshape(20, 24, 3).astype(np.uint8)
    crop = build_transforms([{"name": "RandomCrop", "size": [16, 22], "padding": 4}])
    assert crop.output_hw == (16, 22)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    places = set()
    for seed in range(1500):
        result = crop(image, np.random.default_rng(seed))
        draws = np.random.default_rng(seed)
        top, left = int(draws.random() * (28 - 16 + 1)), int(draws.random() * (32 - 22 + 1))
        np.testing.assert_array_equal(result, padded[top : top + 16, left : left + 22])
        places.add((top, left))
    assert places == {(top, left) for top in range(13) for left in range(11)}


def test_random_crop_of_too_small_an_image():
    crop = build_transforms([{"name": "RandomCrop", "size": 32, "padding": 2}])
    with pytest.raises(
        DataError, match=r"RandomCrop.size is 32x32 and an image 34x24, .* put Resize before it"
    ):
        crop(np.zeros((30, 20, 3), np.uint8), np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"RandomCrop.padding is -1"):
        build_transforms([{"name": "RandomCrop", "size": 32, "padding": -1}])


def test_a_class_of_ones_own_does_what_it_says(photos):
    """Ways that its parent has to be quicker don't get in the way."""

    class Black(transforms.RandomHorizontalFlip):
        def __call__(self, image, rng):
            return np.zeros_like(image)

    class Same(transforms.RandomHorizontalFlip):
        pass

    crop = transforms.RandomResizedCrop(size=32)
    for kind, batched in ((Black, False), (Same, True)):
        built = Compose([crop, kind(prob=1.0)])
        result = built(photos[0], np.random.default_rng(0))
        assert result.shape == (32, 32, 3) and (result.max() == 0) == (kind is Black)
        assert Compose([kind(prob=1.0)]).batched == (batched and available())


def test_a_transform_of_ones_own_with_apply(photos):
    """It gets the epoch and the memory for the result; methods are looked up once, when the list is made."""
    seen = []

    class Watch(BaseTransform):
        def apply(self, image, rng, epoch=0, out=None):
            seen.append((type(image).__name__, epoch, out is not None))
            return image

    built = Compose([Resize(size=[8, 8]), Watch(), Normalize()])
    out = np.empty((3, 8, 8), np.float32)
    assert built(photos[0], _rng(), 5, out) is out
    assert seen == [("_Resized", 5, True)]
    Watch.apply = None
    np.testing.assert_array_equal(built(photos[0], _rng()), out)
    assert len(seen) == 2 and Watch()
