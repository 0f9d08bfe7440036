"""Batches of small images are made at once, with the numbers that single images would have."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl_sot.data import build_dataloader
from passl_sot.data.datasets.folders import ImageFolder
from passl_sot.data.datasets.packed import PackedImages
from passl_sot.data.loader.worker import BatchReader
from passl_sot.data.packed.record import Recipe
from passl_sot.data.packed.sources import open_source
from passl_sot.data.packed.writer import make_job, pack
from passl_sot.data.rng import Streams, image_rng
from passl_sot.data.transforms.compose import Compose
from passl_sot.data.transforms.image import Normalize, RandomCrop, RandomHorizontalFlip

pytest.importorskip("numba")

AUGMENTED = [
    {"name": "RandomCrop", "size": [12, 10], "padding": 2},
    {"name": "RandomHorizontalFlip"},
    {"name": "Normalize"},
]
PLAIN = [{"name": "Normalize", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}]
MIXED = [{"name": "Mixup", "num_classes": 2}, {"name": "Normalize"}, {"name": "RandomErasing"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """300 images of 12x10 in two classes, and one turned image in a folder of its own."""
    root = tmp_path_factory.mktemp("small")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 12, 10, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        file = root / "all" / "ab"[number % 2] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return root / "all"


def as_pixels(data: Path, out: Path) -> Path:
    job = make_job(open_source(str(data)), str(out), Recipe(kind="pixels", short_side=288))
    pack(job, processes=1, command="", say=lambda text: None)
    return out


@pytest.fixture(scope="module")
def copied(folder, tmp_path_factory) -> Path:
    out = as_pixels(folder, tmp_path_factory.mktemp("packed") / "pixels")
    assert len(list(out.glob("shard-*.bin"))) == 2
    return out


def section(name: str, root: Path, transforms: list, workers: int = 0, **more) -> dict:
    return {
        "loader": {"num_workers": workers},
        "sampler": {"batch_size": 32, **more.pop("sampler", {})},
        "dataset": {"name": name, "dataroot": str(root), "transforms": transforms, **more},
    }


def epoch_of(section: dict, mode="train") -> list[dict[str, np.ndarray]]:
    loader = build_dataloader(section, mode=mode, seed=5)
    if mode == "train":
        loader.sampler.set_epoch(3)
    return [{name: value.numpy() for name, value in batch.items()} for batch in loader]


def assert_equal(ones: list[dict], others: list[dict]) -> None:
    assert len(ones) == len(others) > 0
    for one, other in zip(ones, others, strict=True):
        for name in ("image", "label", "index"):
            np.testing.assert_array_equal(one[name], other[name])
            assert one[name].dtype == other[name].dtype


# -- draws ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("copies", [False, True])
def test_draws_are_those_of_single_images(copies):
    rng = np.random.default_rng(1)
    keys = np.stack([rng.integers(400, size=500), rng.integers(2_000_000, size=500)], axis=1)
    if copies:
        keys = np.column_stack([keys, rng.integers(3, size=500)])
    for seed in (0, 42, 2**32, 2**70 + 3):
        streams = Streams(seed, keys)
        singles = [image_rng(seed, tuple(key)) for key in keys.tolist()]
        for _ in range(9):  # three blocks of a counter
            np.testing.assert_array_equal(streams.random(), [rng.random() for rng in singles])


# -- transforms -------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "transforms",
    [
        [RandomCrop(size=8), RandomHorizontalFlip()],
        [RandomCrop(size=[14, 9], padding=3), RandomHorizontalFlip(prob=0.3)],
        [RandomCrop(size=[18, 16], padding=3), Normalize(mean=(0.5,), std=(0.2,))],
        [RandomHorizontalFlip(), RandomCrop(size=[30, 5], padding=10), Normalize(mean=(0.5,), std=(0.2,))],
    ],
)
def test_each_image_is_as_by_itself(transforms, channels):
    compose = Compose(copy.deepcopy(transforms), channels=channels, gray=channels == 1)
    images = np.random.default_rng(0).integers(0, 256, (200, 12, 10, channels), dtype=np.uint8)
    keys = np.stack([np.full(200, 7), np.arange(200)], axis=1)
    assert compose.batched
    joined = compose.of_batch(images, Streams(3, keys), np.empty)
    for image, key, result in zip(images, keys.tolist(), joined, strict=True):
        np.testing.assert_array_equal(compose(image, image_rng(3, tuple(key))), result)


# -- batches ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampler", [{}, {"repeats": 3}, {"balanced": True}], ids=str)
def test_batches_are_those_of_the_files(folder, copied, workers, sampler):
    files = epoch_of(section("ImageFolder", folder, AUGMENTED, sampler=sampler))
    assert_equal(epoch_of(section("PackedImages", copied, AUGMENTED, workers, sampler=sampler)), files)


def test_other_orders_of_transforms(folder, copied):
    for transforms, more in ((PLAIN, {}), (AUGMENTED[:2], {"batch_transforms": MIXED})):
        files = epoch_of(section("ImageFolder", folder, transforms, **more))
        assert_equal(epoch_of(section("PackedImages", copied, transforms, 1, **more)), files)
    files = epoch_of(section("ImageFolder", folder, PLAIN, part="val"), mode="val")
    assert_equal(epoch_of(section("PackedImages", copied, PLAIN, part="val"), mode="val"), files)


def test_they_are_made_at_once(copied, monkeypatch):
    dataset = PackedImages(dataroot=str(copied), transforms=AUGMENTED)
    monkeypatch.setattr(dataset, "sample", None)
    batch = BatchReader(dataset, replace=True)([(0, i) for i in range(40)])
    assert batch["image"].shape == (40, 3, 12, 10) and batch["bad"] == []


class _Dark(PackedImages):
    def open(self, index):
        return super().open(index) // 2


def test_what_is_not_made_at_once(folder, copied, tmp_path):
    keys = [(0, 1), (0, 2)]
    assert ImageFolder(dataroot=str(folder), transforms=AUGMENTED).samples(keys, np.empty) is None
    assert _Dark(dataroot=str(copied), transforms=AUGMENTED).samples(keys, np.empty) is None
    resized = [{"name": "Resize", "size": 9}, *AUGMENTED]
    assert PackedImages(dataroot=str(copied), transforms=resized).samples(keys, np.empty) is None
    assert (
        PackedImages(dataroot=str(copied), transforms=AUGMENTED, channels=1).samples(keys, np.empty) is None
    )
    for label in "ab":
        os.makedirs(tmp_path / "turned" / label)
        turned = Image.Exif()
        turned[0x0112] = 2
        Image.new("RGB", (10, 12)).save(tmp_path / "turned" / label / "1.jpg", exif=turned)
        Image.new("RGB", (10, 12)).save(tmp_path / "turned" / label / "2.jpg")
    root = as_pixels(tmp_path / "turned", tmp_path / "copy")
    assert PackedImages(dataroot=str(root), transforms=AUGMENTED).samples(keys, np.empty) is None
    as_stored = PackedImages(dataroot=str(root), transforms=AUGMENTED, apply_exif=False)
    assert as_stored.samples(keys, np.empty)["image"].shape == (2, 3, 12, 10)
    Image.new("RGB", (11, 12)).save(tmp_path / "turned" / "a" / "3.jpg")
    root = as_pixels(tmp_path / "turned", tmp_path / "another")
    assert (
        PackedImages(dataroot=str(root), transforms=AUGMENTED, apply_exif=False).samples(keys, np.empty)
        is None
    )


def test_an_image_that_is_too_small_is_named(copied):
    transforms = [{"name": "RandomCrop", "size": 20}, {"name": "Normalize"}]
    dataset = PackedImages(dataroot=str(copied), transforms=transforms)
    batch = BatchReader(dataset, replace=True)([(0, 7), (0, 8)])
    assert str(batch["error"]).startswith(f"while reading image 7 ({copied}/shard-00000.bin[7] (a/014.png)):")
    assert "RandomCrop.size is 20x20 and an image 12x10, 0 pixels of padding" in str(batch["error"])
