"""A made-up data set of segmentation, and a config of PaddleSeg that trains on it in seconds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CONFIG = """
batch_size: 2
iters: 4
train: {{save_interval: 2, log_iters: 1}}
train_dataset:
  type: Dataset
  mode: train
  dataset_root: {folder}
  train_path: {folder}/train.txt
  num_classes: 3
  transforms:
    - {{type: RandomPaddingCrop, crop_size: [64, 48], category_max_ratio: 0.9}}
    - {{type: RandomHorizontalFlip}}
    - {{type: Normalize}}
val_dataset:
  type: Dataset
  mode: val
  dataset_root: {folder}
  val_path: {folder}/val.txt
  num_classes: 3
  transforms:
    - {{type: Normalize}}
optimizer:
  type: AdamW
  weight_decay: 0.01
  custom_cfg:
    - {{name: norm, weight_decay_mult: 0.0}}
    - {{name: bias, weight_decay_mult: 0.0}}
lr_scheduler: {{type: PolynomialDecay, learning_rate: 0.002, end_lr: 0.0, power: 1.0}}
loss:
  types:
    - {{type: CrossEntropyLoss}}
  coef: [1.0]
model:
  type: PasslSotSemanticFPN
  num_classes: 3
  fpn_channels: 16
  channels: 8
  backbone:
    type: PasslSotPyramid
    model: stvit_small
    settings: {{embed_dim: [8, 16, 16, 32], depths: [1, 1, 1, 1], num_heads: [1, 2, 2, 4]}}
"""


@pytest.fixture(scope="session")
def write_segmentation():
    """Writes eight images to train on and three to evaluate, with colored boxes as classes, and a config."""

    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for split, count in (("train", 8), ("val", 3)):
            random = np.random.default_rng(count)
            lines = []
            for number in range(count):
                labels = np.zeros((48, 64), np.uint8)
                image = random.integers(0, 80, (48, 64, 3), np.uint8)
                for kind in (1, 2):
                    y, x = random.integers(0, 28), random.integers(0, 40)
                    labels[y : y + 18, x : x + 20] = kind
                    image[y : y + 18, x : x + 20] = 40
                    image[y : y + 18, x : x + 20, kind] = 230
                names = (f"{split}{number}.png", f"{split}{number}_labels.png")
                Image.fromarray(image).save(folder / names[0])
                Image.fromarray(labels).save(folder / names[1])
                lines.append(" ".join(names))
            # The first has no object at all.
            Image.fromarray(np.zeros((48, 64), np.uint8)).save(folder / f"{split}0_labels.png")
            (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
        config = folder / "small.yaml"
        config.write_text(CONFIG.format(folder=folder))
        return config

    return write
