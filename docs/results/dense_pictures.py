"""Pictures of what the models of dense_study.py predict, beside the truth.

    python docs/results/dense_pictures.py [--output output/dense]

Run it where the study ran. Of each model the first seed predicts the same held-out images; results:
docs/results/dense/brain.png, cells.jpg and bears.jpg.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from dense_study import FOLDER, RUNS
from PIL import Image

_COLORS = np.array([[0, 0, 0], [230, 120, 40], [90, 170, 230]], np.uint8)  # none, grey matter, white matter
_SLICES = ("072", "078", "112", "118")
_SHOWN = 0.5  # least score of an object that is drawn
_CELL = 384  # pixels of the longer side of an image of objects


def run_of(name: str, output: Path) -> tuple[Any, str]:
    """The driver of a model of the study, and its weights of the first seed."""
    from passl_sot.dense.run import open_run

    config, overrides, _ = RUNS[name]
    folder = min(output.joinpath(name).glob("[0-9]*"))
    (weights,) = [*folder.glob("best_model/model.pdparams"), *folder.glob("best_model.pdparams")]
    return open_run(FOLDER / f"{config}.yaml", overrides), str(weights)


def models_of(data: str) -> list[str]:
    """Names of the models that were trained on it."""
    return [name for name in RUNS if name.startswith(f"{data}/")]


def brain(data: Path, output: Path) -> dict[str, list[np.ndarray]]:
    """Slices, their labels and each model's, by column."""
    images = [data / "images" / f"{z}.png" for z in _SLICES]
    columns = {"image": [np.asarray(Image.open(path)) for path in images]}
    columns["truth"] = [_COLORS[np.asarray(Image.open(data / "labels" / path.name))] for path in images]
    for name in models_of("brain"):
        run, weights = run_of(name, output)
        folder = output / "pictures" / name
        run.predict(weights, images, folder)
        columns[name] = [_COLORS[np.asarray(Image.open(folder / path.name))] for path in images]
    return columns


def outlined(image: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """An image, made larger, with the outlines of objects."""
    factor = _CELL / max(image.shape[:2])
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    for mask in masks:
        mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, (255, 200, 0), 2)
    return picture


def objects(data: Path, output: Path) -> dict[str, list[np.ndarray]]:
    """Held-out images with the outlines of their objects and of those that each model finds, by column."""
    from pycocotools import mask as coding
    from pycocotools.coco import COCO

    truth = COCO(str(data / "val.json"))
    images = {
        x["file_name"]: np.asarray(Image.open(data / "images" / x["file_name"])) for x in truth.imgs.values()
    }
    columns: dict[str, list[np.ndarray]] = {"truth": []}
    for number in truth.imgs:
        masks = [truth.annToMask(x) for x in truth.imgToAnns[number]]
        columns["truth"].append(outlined(images[truth.imgs[number]["file_name"]], masks))
    for name in models_of(data.name):
        run, weights = run_of(name, output)
        folder = output / "pictures" / name
        run.predict(weights, [data / "images" / file for file in images], folder)
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        columns[name] = []
        for file, image in images.items():
            kept = [x for x in found if x["file_name"] == file and x["score"] >= _SHOWN]
            columns[name].append(outlined(image, [coding.decode(x["segmentation"]) for x in kept]))
    return columns


def save(columns: Mapping[str, Sequence[np.ndarray]], path: Path) -> None:
    """Writes columns of pictures below their names."""
    from passl_sot.utils.figure import new_figure

    rows = len(columns["truth"])
    height, width = columns["truth"][0].shape[:2]
    figure = new_figure(2.0 * len(columns), 0.3 + 2.0 * rows * height / width)
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for column, (name, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            grid[row][column].imshow(picture)
            grid[row][column].set_axis_off()
        grid[0][column].set_title(name.rpartition("/")[2], fontsize=9)
    figure.subplots_adjust(
        left=0, right=1, bottom=0, top=1 - 0.3 / figure.get_figheight(), wspace=0.03, hspace=0.03
    )
    figure.savefig(path, pil_kwargs={"quality": 88} if path.suffix == ".jpg" else None)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/dense"))
    parser.add_argument("--output", type=Path, default=Path("output/dense"))
    parser.add_argument("--pictures", type=Path, default=FOLDER)
    options = parser.parse_args()
    save(brain(options.data / "brain", options.output), options.pictures / "brain.png")
    for name in ("cells", "bears"):
        save(objects(options.data / name, options.output), options.pictures / f"{name}.jpg")


if __name__ == "__main__":
    main()
