"""Real image files, made with Pillow, for the tests of the data layer."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

TRAIN = [{"name": "RandomResizedCrop", "size": 16}, {"name": "RandomHorizontalFlip"}, {"name": "Normalize"}]
EVAL = [{"name": "Resize", "size": 18}, {"name": "CenterCrop", "size": 16}, {"name": "Normalize"}]


def picture(seed: int = 0, height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth colourful image, which JPEG keeps nearly as it is."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path) -> Callable[..., str]:
    """Makes an ImageNet-layout folder: `folder({"cat": 5, "dog": 3})` gives its path."""

    def make(classes: dict[str, int], name: str = "train", suffix: str = ".png") -> str:
        root = tmp_path / name
        for number, (label, count) in enumerate(classes.items()):
            (root / label).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(picture(1000 * number + i))
                image.save(root / label / f"{name}_{i:03d}{suffix}")
        return os.fspath(root)

    return make


@pytest.fixture
def split() -> Callable[..., dict]:
    """Makes a `dataloader.train` or `.val` section for a folder."""

    def make(root: str, *, batch_size: int = 4, workers: int = 0, transforms: list | None = None, **sampler):
        return {
            "loader": {"num_workers": workers, "use_shared_memory": True},
            "sampler": {"batch_size": batch_size, **sampler},
            "dataset": {"name": "ImageFolder", "dataroot": root, "transforms": transforms or TRAIN},
        }

    return make
