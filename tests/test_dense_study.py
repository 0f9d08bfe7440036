"""The study of dense prediction in docs/results: its data are as its page says; it is run at a tiny size."""

import gzip
import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
SMALL = {"embed_dim": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]}


@pytest.fixture(scope="module")
def scripts(load_file):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(RESULTS)
        names = ("dense_data", "dense_study", "dense_pictures", "dense_sizes")
        yield {name: load_file(RESULTS / f"{name}.py") for name in names}


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """A ball in a ball, discs and a bear, in the forms of the packages."""
    root = tmp_path_factory.mktemp("packages")
    folder = root / "nilearn" / "datasets" / "data"
    folder.mkdir(parents=True)
    sides = (197, 233, 189)
    x, y, z = np.ogrid[-98:99, -116:117, -94:95]
    distance = np.sqrt(x**2 + y**2 + z**2)
    parts = {"wm": distance < 50, "gm": (distance >= 50) & (distance < 80)}
    parts["t1"] = 0.5 * parts["gm"] + parts["wm"]
    for kind, values in parts.items():
        header = bytearray(352)
        header[40:56] = struct.pack("<8h", 3, *sides, 1, 1, 1, 1)
        numbers = np.asfortranarray(np.round(200 * values).astype(np.uint8)).tobytes(order="F")
        path = folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
        path.write_bytes(gzip.compress(bytes(header) + numbers, 1))
    folder = root / "stardist" / "data" / "images"
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[:512, :512]
    masks = np.zeros([512, 512], np.uint16)
    for number in range(64):
        middle = 32 + 64 * (number // 8), 32 + 64 * (number % 8)
        masks[(rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < 144] = number + 1
    Image.fromarray(masks).save(folder / "mask2d.tif")
    Image.fromarray((200 * (masks > 0)).astype(np.uint16)).save(folder / "img2d.tif")
    folder = root / "paddlelabel" / "sample" / "bear"
    (folder / "img").mkdir(parents=True)
    (folder / "instanceSegmentation" / "coco").mkdir(parents=True)
    for number, part in enumerate(("train", "val", "test"), 1):
        Image.fromarray(np.full([60, 40, 3], 90, np.uint8)).save(folder / "img" / f"{number}.jpeg")
        image = {"id": number, "file_name": f"JPEGImages/{number}.jpeg", "height": 60, "width": 40}
        outline = [4.0, 4.0, 30.0, 4.0, 30.0, 40.0, 4.0, 40.0]
        bear = {"id": 1, "image_id": number, "category_id": 1, "bbox": [4, 4, 26, 36], "area": 936.0}
        whole = {"images": [image], "annotations": [{**bear, "segmentation": [outline], "iscrowd": 0}]}
        path = folder / "instanceSegmentation" / "coco" / f"{part}.json"
        path.write_text(json.dumps(whole | {"categories": [{"id": 1, "name": "toy"}]}))
    return root


@pytest.fixture(scope="module")
def data(scripts, packages, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "data" / "dense"
    made = {
        name: getattr(scripts["dense_data"], name)(packages, folder / name)
        for name in ("brain", "cells", "bears")
    }
    assert made == {
        "brain": {"train": 82, "val": 20},
        "cells": {"train": 35, "val": 4},
        "bears": {"train": 2, "val": 1},
    }
    return folder


def test_slices_of_the_two_parts_lie_apart(data):
    parts = {}
    for part in ("train", "val"):
        lines = (data / "brain" / f"{part}.txt").read_text().splitlines()
        parts[part] = {int(Path(line.split()[0]).stem) for line in lines}
    assert min(abs(a - b) for a in parts["train"] for b in parts["val"]) == 3
    image = np.asarray(Image.open(data / "brain" / "images" / "094.png"))
    labels = np.asarray(Image.open(data / "brain" / "labels" / "094.png"))
    assert image.shape == (224, 192, 3) and labels.shape == (224, 192)
    assert [image[labels == number].max() for number in range(3)] == [0, 128, 255]


def test_objects_of_tiles_are_those_of_the_image(data):
    for part in ("train", "val"):
        whole = json.loads((data / "cells" / f"{part}.json").read_text())
        for annotation in whole["annotations"]:
            (image,) = (x for x in whole["images"] if x["id"] == annotation["image_id"])
            top, left = map(int, Path(image["file_name"]).stem.split("_"))
            assert left + 128 <= 384 if part == "train" else left == 384
            x, y, width, height = annotation["bbox"]
            assert ((top + y + height / 2) % 64, (left + x + width / 2) % 64) == pytest.approx(
                (32, 32), abs=0.6
            )
            assert annotation["area"] == pytest.approx(np.pi * 144, rel=0.05)
    bears = json.loads((data / "bears" / "train.json").read_text())
    assert [image["file_name"] for image in bears["images"]] == ["1.jpeg", "3.jpeg"]


@pytest.mark.slow
def test_study_and_its_pictures(scripts, data, tmp_path, monkeypatch):
    pytest.importorskip("paddleseg", reason="no PaddleSeg")
    pytest.importorskip("ppdet", reason="no PaddleDetection")
    study, pictures = scripts["dense_study"], scripts["dense_pictures"]
    folder = tmp_path / "data" / "dense"
    shutil.copytree(data, folder)
    for part, count in (("train", 4), ("val", 2)):
        path = folder / "brain" / f"{part}.txt"
        path.write_text("\n".join(path.read_text().splitlines()[:count]) + "\n")
        path = folder / "cells" / f"{part}.json"
        whole = json.loads(path.read_text())
        whole["images"] = whole["images"][:count]
        path.write_text(json.dumps(whole))
    monkeypatch.chdir(tmp_path)
    runs = {
        "brain/STViT": ("brain", study._segmenter("stvit_small", SMALL), "iters"),
        "brain/SINet": ("brain_sinet", [], "iters"),
        "cells/STViT": ("cells", study._detector("stvit_small", SMALL), "epoch"),
        "bears/STViT": ("bears", study._detector("stvit_small", SMALL), "epoch"),
    }
    monkeypatch.setattr(study, "RUNS", runs)
    monkeypatch.setattr(pictures, "RUNS", runs)
    monkeypatch.setattr(pictures, "_SLICES", ("070", "071"))
    for name, length in (("brain/STViT", 2), ("brain/SINet", 2), ("cells/STViT", 1), ("bears/STViT", 1)):
        result = study.train(name, length, 1, tmp_path / "output" / "dense" / name / "1")
        metric = "miou" if name.startswith("brain") else "mask_ap"
        assert result["parameters"] > 1000 and result["seconds"] > 0 and -1 <= result[metric] <= 1
    pictures.save(pictures.brain(folder / "brain", Path("output/dense")), tmp_path / "brain.png")
    pictures.save(pictures.objects(folder / "cells", Path("output/dense")), tmp_path / "cells.jpg")
    for name in ("brain.png", "cells.jpg"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "length", "metric", "least"),
    # Of slices, what the most frequent class everywhere would get is 0.20.
    [("brain/STViT", 45, "miou", 0.4), ("brain/Swin", 30, "miou", 0.4), ("cells/STViT", 2, "mask_ap50", 0.1)],
)
def test_small_models_learn_from_real_images(name, length, metric, least, scripts, tmp_path, monkeypatch):
    packages = ROOT / ".dense_data"
    if not packages.is_dir():
        pytest.skip("the packages with images are not installed")
    pytest.importorskip("paddleseg", reason="no PaddleSeg")
    pytest.importorskip("ppdet", reason="no PaddleDetection")
    kind = name.partition("/")[0]
    getattr(scripts["dense_data"], kind)(packages, tmp_path / "data" / "dense" / kind)
    monkeypatch.chdir(tmp_path)
    assert scripts["dense_study"].train(name, length, 1, tmp_path / "output")[metric] > least


def test_the_page_has_the_numbers_of_the_study(scripts):
    page = (RESULTS / "dense.md").read_text(encoding="utf-8")
    table = json.loads((RESULTS / "dense" / "study.json").read_text(encoding="utf-8"))
    assert set(table["runs"]) == set(scripts["dense_study"].RUNS)
    assert all(len(run["seeds"]) == 3 for run in table["runs"].values())
    for line in scripts["dense_study"].summary(table):
        assert line in page
    sizes = json.loads((RESULTS / "dense" / "sizes.json").read_text(encoding="utf-8"))["rows"]
    guide = (ROOT / "docs" / "dense.md").read_text(encoding="utf-8")
    figures = {(row["case"], row["size"]): row["gb"] for row in sizes}
    said = re.search(r"takes (\S+) GB an image, (\S+) GB recomputed; at 1024 it is (\S+) GB, (\S+)\s", guide)
    cases = [("STViT-S", 512), ("STViT-S, recomputed", 512), ("STViT-S", 1024)]
    cases.append(("STViT-S, windows 16, 8, 2, 1", 1024))
    wanted = [figures[case] for case in cases]
    assert [float(number) for number in said.groups()] == pytest.approx(wanted, abs=0.05)
