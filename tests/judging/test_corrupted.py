"""ImageNet-C made here: how each corruption changes an image, that it is always the same, and its rows."""

import copy
import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from passl_sot.data import build_dataloader
from passl_sot.engine.distributed import World
from passl_sot.engine.schema import load_config
from passl_sot.judging.corrupted import _PACKAGE, CorruptedImages, corrupt
from passl_sot.judging.sets import CORRUPTIONS, find_set
from passl_sot.judging.suite import Entrant, _dataset, _key, run_suite
from tests.judging.conftest import IDS

ALL = [name for names in CORRUPTIONS.values() for name in names]
needed = pytest.mark.usefixtures("makers")


@pytest.fixture
def makers() -> None:
    """Skips a test where what makes corruptions isn't installed; docs/judging.md says how."""
    pytest.importorskip("skimage")
    pytest.importorskip("imagecorruptions")


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Spots of many colors and sizes, uint8 [300, 400, 3]."""
    rng = np.random.default_rng(0)
    layers = [cv2.resize(rng.uniform(0, 255, (n, n, 3)), (400, 300), interpolation=2) for n in (4, 12, 60)]
    return np.clip(np.mean(layers, axis=0), 0, 255).astype(np.uint8)


@pytest.fixture
def part(scene, tmp_path):
    """One part of the set, of two images in folders by class."""
    for label in (1, 2):
        (tmp_path / "val" / IDS[label]).mkdir(parents=True)
        Image.fromarray(scene).save(tmp_path / "val" / IDS[label] / f"{label}.png")
    parts = {(p.corruption, p.severity): p for p in find_set("c-val", str(tmp_path / "val"), partial=True)}
    assert list(parts) == [(name, severity) for name in ALL for severity in range(1, 6)]
    return parts


@pytest.fixture
def entrant(colors, own_home) -> Entrant:
    return Entrant.read("colors", colors.checkpoint, load_config(colors.config))


@needed
@pytest.mark.parametrize("corruption", ALL)
def test_each_corruption(scene, corruption):
    """The stronger, the further from the image; drawn anew for another image, and for this one never."""
    image = scene[:224, :224]
    np.random.seed(3)
    first = corrupt(image, corruption, 1, "a.JPEG")
    strong = corrupt(image, corruption, 5, "a.JPEG")
    drawn = np.random.random()
    np.random.seed(3)
    assert drawn == np.random.random()  # others' draws don't depend on those made here
    assert first.shape == strong.shape == image.shape and first.dtype == np.uint8
    far, near = (np.abs(other.astype(int) - image).mean() for other in (strong, first))
    assert far > 1.1 * near > 1
    np.testing.assert_array_equal(corrupt(image, corruption, 5, "a.JPEG"), strong)
    fixed = {"defocus_blur", "zoom_blur", "brightness", *CORRUPTIONS["digital"]} - {"elastic_transform"}
    assert np.array_equal(corrupt(image, corruption, 5, "b.JPEG"), strong) == (corruption in fixed)


@needed
def test_images_are_made_as_the_authors_made_theirs(scene, part, entrant):
    """Resized to 256 pixels by Pillow, cut to 224, of less contrast, and compressed with quality 85."""
    data = _dataset(entrant, part["contrast", 2])
    assert isinstance(data, CorruptedImages)
    small = Image.fromarray(scene).resize((341, 256), Image.Resampling.BILINEAR)
    pixels = np.asarray(small.crop((58, 16, 58 + 224, 16 + 224))) / 255
    mean = pixels.mean(axis=(0, 1))
    file = io.BytesIO()
    Image.fromarray(np.uint8(255 * (mean + 0.3 * (pixels - mean)))).save(file, "JPEG", quality=85)
    difference = np.abs(data.read(0).astype(int) - np.asarray(Image.open(file)))
    assert difference.max() <= 4 and np.mean(difference > 0) < 0.001  # a rounding here and there
    assert data[0]["image"].shape == (3, 32, 32)  # and then as the model takes them


@needed
def test_always_the_same(part, entrant, tmp_path):
    """In whatever batches, by whatever process, in whatever layout."""
    for corruption in ("glass_blur", "impulse_noise", "snow"):
        data = _dataset(entrant, part[corruption, 3])
        one, two = data[0]["image"], data[1]["image"]
        assert (one != two).any()
        # The numbers drawn don't depend on what was drawn before.
        np.testing.assert_array_equal(data[0]["image"], one)
    split = copy.deepcopy(entrant.split)
    split.loader.num_workers = 1
    for batch in build_dataloader(split, mode="val", seed=0, dataset=data):
        np.testing.assert_array_equal(batch["image"].numpy(), [one, two])
    flat = tmp_path / "flat"
    flat.mkdir()
    name = "ILSVRC2012_val_00000001.png"
    (flat / name).write_bytes((tmp_path / "val" / IDS[1] / "1.png").read_bytes())
    (flat / "val.txt").write_text(f"{name} 65\n")
    (other,) = [p for p in find_set("c-val", str(flat), partial=True) if p.title.endswith("snow 3")]
    folder = tmp_path / "again" / IDS[65]
    folder.mkdir(parents=True)
    (folder / name).write_bytes((flat / name).read_bytes())
    (again,) = [p for p in find_set("c-val", str(tmp_path / "again"), partial=True) if p.title == other.title]
    np.testing.assert_array_equal(_dataset(entrant, other)[0]["image"], _dataset(entrant, again)[0]["image"])


@needed
def test_rows(pictures, entrant, tmp_path):
    """They say that the images were made here; they are no rows of ImageNet-C, and aren't kept as such."""
    for label in (3, 505):
        pictures(tmp_path / "val" / IDS[label] / "x.JPEG", label)
    raw = Entrant(**{**vars(entrant), "weights": {"raw": entrant.weights["raw"]}})
    shown = ("contrast", "pixelate", "brightness")
    group = [p for p in find_set("c-val", str(tmp_path / "val"), partial=True) if p.corruption in shown]
    (row,) = run_suite([lambda: raw], [group], World(), lambda rows: None)
    assert (row["name"], row["set"], row["images"]) == ("c-val", "ImageNet-C made here", 30)
    assert row["partial"] == "2 of 50,000 images; 3 of 15 corruptions" and "published" not in row
    # What leaves an image of one color alone changes nothing; from 25 values on brightness makes another.
    errors = {name: entry["errors"] for name, entry in row["corruptions"].items()}
    assert errors["contrast"] == errors["pixelate"] == [0] * 5 and min(errors["brightness"]) > 0
    assert row["mce"] == pytest.approx(row["corruptions"]["brightness"]["ce"] / 3)
    other = find_set("c-val", str(tmp_path / "val"), partial=True)[0]
    data = _dataset(raw, other)
    as_theirs = type(other)(**{**vars(other), "name": "c"})
    assert _key(raw, "raw", other, data, ()) != _key(raw, "raw", as_theirs, data, ())


def test_what_is_missing_is_named(colors, invoke, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    pictures(tmp_path / "val" / IDS[3] / "x.JPEG", 3)
    words = ["--weights", colors.checkpoint, "--partial", "--suite", f"c-val={tmp_path}/val"]
    done = invoke("eval", *words)
    assert done.returncode == 2
    for command in ("pip install 'passl_sot[judging]'", f"pip install --no-deps {_PACKAGE}"):
        assert f"`{command}`" in done.stderr, done.stderr
    root = Path(__file__).parents[2]
    assert all(_PACKAGE in (root / name).read_text() for name in (".ci/run", "docs/judging.md"))
