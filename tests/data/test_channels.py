"""Grey images and files of several bands, from decoding to batches."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from passl_sot.data import ImageError, ImageFolder, ListFile, build_dataloader, build_transforms
from passl_sot.imageio.decode import decode_multichannel, resize

CROP = {"name": "RandomResizedCrop", "size": 16}
PLAIN = [{"name": "Resize", "size": [16, 16]}, {"name": "Normalize", "mean": [0], "std": [1]}]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- grey -------------------------------------------------------------------------------------------
def test_grey_comes_after_colours_and_before_normalising(photos):
    nodes = [CROP, {"name": "RandAugment"}, {"name": "Normalize"}, {"name": "RandomErasing"}]
    grey = build_transforms(nodes, channels=1)
    colours = build_transforms(nodes[:2])
    for seed in range(20):
        result = grey(photos[0], _rng(seed))
        assert result.shape == (1, 16, 16) and result.dtype == np.float32
        rng = _rng(seed)
        picture = np.asarray(Image.fromarray(colours(photos[0], rng)).convert("L"))
        # Three values of a recipe serve as their average.
        expected = (picture / 255 - 0.449) / 0.226
        if rng.random() >= 0.25:  # not erased
            np.testing.assert_allclose(result[0], expected, atol=1e-6)


def test_a_grey_file_keeps_its_values(folder, split, tmp_path):
    root = folder({"a": 1, "b": 1})
    pixels = _rng().integers(0, 256, (16, 16), dtype=np.uint8)
    for name in ("a", "b"):
        Image.fromarray(pixels).save(tmp_path / "train" / name / "train_000.png")
    loader = build_dataloader(split(root, batch_size=2, transforms=PLAIN), mode="train", seed=0)
    assert next(iter(loader))["image"].shape == [2, 3, 16, 16]
    section = split(root, batch_size=2, transforms=PLAIN)
    section["dataset"]["channels"] = 1
    images = next(iter(build_dataloader(section, mode="train", seed=0)))["image"].numpy()
    np.testing.assert_array_equal(np.rint(images[0, 0] * 255), pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_mixed_grey_batches(folder, split, workers):
    """Grey before the batch stage, whose Mixup and Normalize then see one channel."""
    section = split(folder({"a": 4, "b": 4}), batch_size=8, workers=workers, transforms=[CROP])
    section["dataset"] |= {
        "channels": 1,
        "batch_transforms": [
            {"name": "Mixup", "num_classes": 2},
            {"name": "Normalize"},
            {"name": "RandomErasing"},
        ],
    }
    (batch,) = list(build_dataloader(section, mode="train", seed=0))
    assert batch["image"].shape == [8, 1, 16, 16] and batch["label"].shape == [8, 2]


# -- bands ------------------------------------------------------------------------------------------
def test_files_of_several_bands(tmp_path):
    five = _rng().integers(0, 256, (20, 30, 5), dtype=np.uint8)
    np.save(tmp_path / "five.npy", five)
    np.testing.assert_array_equal(decode_multichannel(tmp_path / "five.npy"), five)
    pages = [Image.fromarray(five[..., c]) for c in range(5)]
    pages[0].save(tmp_path / "five.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(decode_multichannel(tmp_path / "five.tif"), five)
    for mode, bands in (("RGBA", 4), ("CMYK", 4), ("LA", 2)):
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        Image.fromarray(five[..., :bands], mode=mode).save(path) if mode != "LA" else Image.merge(
            "LA", pages[:2]
        ).save(path)
        np.testing.assert_array_equal(decode_multichannel(path), five[..., :bands])


def test_files_that_do_not_fit(tmp_path):
    def reason(name: str) -> str:
        (tmp_path / "list.txt").write_text(f"{name} 0\n")
        options = {"dataroot": str(tmp_path), "list_file": str(tmp_path / "list.txt"), "channels": 4}
        with pytest.raises(ImageError) as caught:
            ListFile(transforms=PLAIN, **options).read(0)
        assert str(tmp_path / name) in str(caught.value)
        return caught.value.reason

    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    assert "has 3 channel(s), and dataset.channels is 4" in reason("rgb.png")
    np.save(tmp_path / "float.npy", np.zeros((4, 4, 4)))
    assert "expected uint8 [H, W, C], got float64 [4, 4, 4]" in reason("float.npy")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    assert "damaged" in reason("objects.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "float.npy").read_bytes()[:150])
    assert "damaged or truncated" in reason("cut.npy")
    Image.new("I;16", (4, 4)).save(tmp_path / "deep.png")
    assert "save it as .npy" in reason("deep.png")
    (tmp_path / "text.png").write_text("hello")
    assert "text file" in reason("text.png")
    assert "no such file" in reason("gone.npy")


def test_resizing_treats_bands_alike():
    """RGBA too: Pillow by itself would multiply colours by alpha."""
    image = _rng().integers(0, 256, (40, 50, 4), dtype=np.uint8)
    result = resize(image, (17, 23))
    for c in range(4):
        plane = Image.fromarray(np.ascontiguousarray(image[..., c])).resize(
            (23, 17), Image.Resampling.BICUBIC
        )
        np.testing.assert_array_equal(result[..., c], np.asarray(plane))


def test_a_folder_of_arrays(tmp_path, split):
    rng = _rng()
    arrays = {}
    for name in ("field", "forest"):
        (tmp_path / name).mkdir()
        for i in range(3):
            arrays[f"{name}/{i}.npy"] = rng.integers(0, 256, (24, 24, 5), dtype=np.uint8)
            np.save(tmp_path / name / f"{i}.npy", arrays[f"{name}/{i}.npy"])
    transforms = [CROP, {"name": "RandomHorizontalFlip"}, {"name": "Normalize", "mean": [0.5], "std": [0.25]}]
    section = split(str(tmp_path), batch_size=6, transforms=transforms)
    section["dataset"]["channels"] = 5
    loader = build_dataloader(section, mode="train", seed=0)
    (batch,) = list(loader)
    assert batch["image"].shape == [6, 5, 16, 16]
    whole = ImageFolder(dataroot=str(tmp_path), transforms=PLAIN, channels=5)
    np.testing.assert_array_equal(whole.read(4), arrays["forest/1.npy"])
    # Without `channels` arrays are no images.
    with pytest.raises(Exception, match="but no images"):
        ImageFolder(dataroot=str(tmp_path), transforms=PLAIN)


@pytest.mark.parametrize("name", ["RandAugment", "AutoAugment", "ThreeAugment", "ColorJitter", "ByEpoch"])
def test_colours_are_for_rgb(name, tmp_path):
    steps = {"steps": {"0": [], "1": [{"name": "RandAugment"}]}} if name == "ByEpoch" else {}
    with pytest.raises(ValueError, match=f"{name} works on RGB images, and dataset.channels is 4"):
        build_transforms([{"name": name, **steps}], channels=4)


def test_values_for_another_number_of_channels():
    with pytest.raises(
        ValueError, match=r"mean has 3 values and dataset.channels is 4: write 4 values, or one"
    ):
        build_transforms([{"name": "Normalize"}], channels=4)
    with pytest.raises(ValueError, match=r"mean has 1 values and Normalize.std 2"):
        build_transforms([{"name": "Normalize", "mean": [0.5], "std": [0.5, 0.5]}])
