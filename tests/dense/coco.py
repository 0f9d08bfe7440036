"""Makes a small data set in COCO's format: ellipses and rectangles of plain colours on noise, with masks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CATEGORIES = ({"id": 3, "name": "ellipse"}, {"id": 7, "name": "rectangle"})
Sizes = Sequence[tuple[int, int]]


def _outline(kind: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Corners, [n, 2], of a shape that fills a box of left, top, width, height."""
    left, top, width, height = box
    if kind:
        return np.array([(left, top), (left + width, top), (left + width, top + height), (left, top + height)])
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.array([left, top]) + (around + 1) / 2 * np.array([width, height])


def write_coco(folder: Path, sizes: Sizes = ((64, 80),) * 4, *, empty: Sequence[int] = (), seed: int = 0) -> Path:
    """Writes `images/` and `instances.json`.

    Args:
        folder: Is made.
        sizes: Height and width of each image.
        empty: Numbers of images that get no object.
        seed: Of the shapes and the noise.

    Returns:
        The annotation file.
    """
    import cv2

    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (height, width) in enumerate(sizes):
        picture = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
        for kind in range(2 * (number not in empty)):
            side = [max(1, int(length * rng.uniform(0.3, 0.5))) for length in (width, height)]
            place = [int(rng.integers(0, max(1, length - s))) for length, s in zip((width, height), side, strict=True)]
            outline = _outline(kind, (place[0], place[1], side[0], side[1]))
            colour = (40, 60, 230) if kind else (60, 220, 60)
            cv2.fillPoly(picture, [np.round(outline).astype(np.int32)], colour)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": CATEGORIES[kind]["id"],
                    "bbox": [*place, *side],
                    "area": float(side[0] * side[1]),
                    "iscrowd": 0,
                    "segmentation": [outline.astype(float).ravel().tolist()],
                }
            )
        name = f"{number}.png"
        (folder / "images" / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
    content = {"images": images, "annotations": annotations, "categories": list(CATEGORIES)}
    path = folder / "instances.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
