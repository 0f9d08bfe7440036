"""An experiment of several labels per image."""

from pathlib import Path

import numpy as np
from PIL import Image

LISTS = """
_base_: run.yaml
epochs: 12
model: {{head: {{num_classes: 3}}}}
loss: {{name: BinaryCrossEntropyLoss}}
lr_scheduler: {{learning_rate: 0.01}}
dataloader:
  train:
    dataset: &data
      name: ListFile
      dataroot: {folder}/images
      list_file: {folder}/train.txt
      multi_label: true
      transforms: [{{name: Resize, size: [32, 32]}}, {{name: Normalize}}]
  val:
    dataset: {{<<: *data, list_file: {folder}/val.txt}}
"""


def write_several_labels(folder: Path) -> Path:
    """Beside `run.yaml`: `several.yaml`, pictures of which each colour that is bright is a label."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for split, count in (("train", 48), ("val", 16)):
        lines = []
        for i in range(count):
            labels = np.flatnonzero([i & 1, i & 2, i & 4])
            image = rng.integers(0, 60, (32, 32, 3))
            image[..., labels] += 150
            Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{split} {i}.png")
            lines.append(f"{split} {i}.png\t{','.join(map(str, labels)) or '-'}")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    path = folder / "several.yaml"
    path.write_text(LISTS.format(folder=folder))
    return path
