"""Makes a small data set in COCO's format: ellipses and rectangles of plain colours on noise, with masks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BASES = Path(__file__).parents[2] / "configs" / "dense"
CATEGORIES = ({"id": 3, "name": "ellipse"}, {"id": 7, "name": "rectangle"})
Sizes = Sequence[tuple[int, int]]


def _outline(kind: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Corners, [n, 2], of a shape that fills a box of left, top, width, height."""
    left, top, width, height = box
    if kind:
        return np.array(
            [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
        )
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.array([left, top]) + (around + 1) / 2 * np.array([width, height])


def write_coco(
    folder: Path, sizes: Sizes = ((64, 80),) * 4, *, empty: Sequence[int] = (), seed: int = 0
) -> Path:
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
            place = [
                int(rng.integers(0, max(1, length - s)))
                for length, s in zip((width, height), side, strict=True)
            ]
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


TINY = """
_BASE_: [{bases}/_coco_instance.yaml, {bases}/_{head}.yaml, {bases}/_schedule_1x.yaml]
num_classes: 2
worker_num: 0
use_gpu: false
epoch: 2
log_iter: 1
TrainDataset: {{dataset_dir: {data}, image_dir: images, anno_path: instances.json}}
EvalDataset: {{dataset_dir: {data}, image_dir: images, anno_path: instances.json}}
TestDataset: {{dataset_dir: {data}, anno_path: instances.json}}
TrainReader:
  sample_transforms:
    - Decode: {{}}
    - RandomResize: {{target_size: [[64, 96]], interp: 2, keep_ratio: true}}
    - RandomFlip: {{prob: 0.5}}
    - NormalizeImage: {{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], is_scale: true}}
    - Permute: {{}}
EvalReader:
  sample_transforms: &look
    - Decode: {{}}
    - Resize: {{target_size: [64, 96], interp: 2, keep_ratio: true}}
    - NormalizeImage: {{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], is_scale: true}}
    - Permute: {{}}
TestReader: {{sample_transforms: *look}}
PasslSotPyramid:
  model: swin_tiny
  settings: {{embed_dim: 16, depths: [1, 1, 1, 1], num_heads: [1, 2, 4, 8]}}
FPN: {{out_channel: 16}}
TwoFCHead: {{out_channel: 32}}
CascadeTwoFCHead: {{out_channel: 32}}
MaskFeat: {{out_channel: 16, num_convs: 1}}
LearningRate:
  base_lr: 0.002
  schedulers:
    - {{name: PiecewiseDecay, gamma: 0.1, milestones: [100]}}
    - {{name: LinearWarmup, start_factor: 0.1, steps: 2}}
"""


def write_config(folder: Path, data: Path, head: str = "mask_rcnn") -> Path:
    """Writes a detector of tiny widths, on the shipped bases, for a data set of `write_coco`."""
    path = folder / f"{head}.yaml"
    path.write_text(TINY.format(bases=BASES, head=head, data=data), encoding="utf-8")
    return path
