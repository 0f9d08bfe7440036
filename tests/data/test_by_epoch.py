"""What changes with the epochs: augmentation, and mixing that ends."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from passl_sot.config import ConfigError
from passl_sot.data import build_dataloader, build_transforms
from passl_sot.data.transforms.compose import build_batch_transforms
from passl_sot.data.transforms.mixup import Mixup

STRONGER = {
    "name": "ByEpoch",
    "steps": {"0": [], "2": [{"name": "RandAugment"}], "5": [{"name": "RandomHorizontalFlip", "prob": 1.0}]},
}


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_steps(photos):
    stage = build_transforms([STRONGER])
    augment = build_transforms([{"name": "RandAugment"}])
    image = photos[3]
    for epoch in (0, 1):
        np.testing.assert_array_equal(stage(image, _rng(3), epoch), image)
    for seed in range(20):
        for epoch in (2, 4):
            expected = augment(image, _rng(seed))
            np.testing.assert_array_equal(stage(image, _rng(seed), epoch), expected)
    for epoch in (5, 300):
        np.testing.assert_array_equal(stage(image, _rng(3), epoch), image[:, ::-1])


def test_normalised_images_and_sizes():
    erase = {"name": "ByEpoch", "steps": {"0": [], "3": [{"name": "RandomErasing", "prob": 1.0}]}}
    built = build_transforms([{"name": "CenterCrop", "size": 32}, {"name": "Normalize"}, erase])
    assert built.normalizes and built.output_hw == (32, 32)
    image = np.zeros((40, 40, 3), np.uint8)
    early, late = (built(image, _rng(1), epoch) for epoch in (2, 3))
    assert len(np.unique(early)) == 3 and len(np.unique(late)) > 3
    crops = {"0": [{"name": "CenterCrop", "size": 8}], "1": [{"name": "RandomResizedCrop", "size": 8}]}
    assert build_transforms([{"name": "ByEpoch", "steps": crops}]).output_hw == (8, 8)
    crops["1"][0]["size"] = 9
    with pytest.raises(ConfigError, match="images of different sizes"):
        build_transforms([{"name": "ByEpoch", "steps": crops}])


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({"1": []}, "a schedule starts at epoch 0"),
        ({"first": []}, "keys of a schedule are epochs"),
        ({}, "a schedule starts at epoch 0"),
        ({"0": [{"name": "Normalize"}]}, "Normalize stands outside"),
        ({"0": [{"name": "Mixup", "num_classes": 3}]}, "Mixup has off_epoch"),
        ({"0": [{"name": "RandomErasing"}], "1": [{"name": "RandAugment"}]}, "of normalised ones alone"),
        ({"0": [{"name": "RandAugmen"}]}, "did you mean 'RandAugment'"),
        ({"0": [{"name": "RandAugment", "policy": "x"}]}, "RandAugment.policy is 'x'"),
    ],
)
def test_what_is_refused(steps, words):
    with pytest.raises(ConfigError, match=words):
        build_transforms([{"name": "ByEpoch", "steps": steps}])


def test_mixing_ends_and_labels_stay_smooth(photos):
    images = np.stack([photos[0][i : i + 32, :32] for i in range(4)])
    labels = np.array([0, 1, 2, 1])
    mixup = Mixup(num_classes=3, off_epoch=7, label_smoothing=0.3)
    for seed in range(5):
        mixed = np.stack([*mixup(images, labels, _rng(seed), 6)[0]])
        assert not np.array_equal(mixed, images)
        for epoch in (7, 8):
            same, targets = mixup(images, labels, _rng(seed), epoch)
            np.testing.assert_array_equal(same, images)
            np.testing.assert_allclose(targets, 0.7 * np.eye(3)[labels] + 0.1, rtol=1e-6)
    assert not np.array_equal(np.stack([*Mixup(num_classes=3)(images, labels, _rng(0), 999)[0]]), images)
    with pytest.raises(ConfigError, match="off_epoch: must be at least 0"):
        build_batch_transforms([{"name": "Mixup", "num_classes": 3, "off_epoch": -1}], normalized=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_reach_the_workers(folder, split, workers):
    """Through the loader: the same pixels in early epochs, mirrored ones from epoch 2, mixed ones until 1."""
    root = folder({"a": 4, "b": 4})
    flip = {"0": [], "2": [{"name": "RandomHorizontalFlip", "prob": 1.0}]}
    transforms = [{"name": "Resize", "size": [16, 16]}, {"name": "ByEpoch", "steps": flip}]
    section = split(root, batch_size=8, workers=workers, transforms=transforms)
    section["dataset"]["batch_transforms"] = [
        {"name": "Mixup", "num_classes": 2, "off_epoch": 1, "mixup_alpha": 1.0, "cutmix_alpha": 0.0},
        {"name": "Normalize", "mean": [0, 0, 0], "std": [1, 1, 1]},
    ]
    loader = build_dataloader(section, mode="train", seed=0)
    by_epoch = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        (batch,) = list(loader)
        order = np.argsort(batch["index"].numpy())
        by_epoch.append(np.rint(batch["image"].numpy()[order] * 255).astype(np.uint8))
    plain = [
        np.asarray(Image.open(loader.dataset.path(i)).resize((16, 16), Image.Resampling.BICUBIC))
        for i in range(8)
    ]
    plain = np.stack(plain).transpose(0, 3, 1, 2)
    assert not np.array_equal(by_epoch[0], plain)
    np.testing.assert_array_equal(by_epoch[1], plain)
    np.testing.assert_array_equal(by_epoch[2], plain[..., ::-1])


def test_steps_that_hold_steps_and_sizes_that_depend_on_the_image(photos):
    inner = {"name": "ByEpoch", "steps": {"0": [], "2": [{"name": "CenterCrop", "size": 8}]}}
    with pytest.raises(ConfigError, match="images of different sizes"):
        build_transforms([inner])
    inner["steps"] = {"0": [], "2": [{"name": "RandomHorizontalFlip", "prob": 1.0}]}
    built = build_transforms([{"name": "ByEpoch", "steps": {"0": [inner]}}])
    np.testing.assert_array_equal(built(photos[0], _rng(0), 1), photos[0])
    np.testing.assert_array_equal(built(photos[0], _rng(0), 2), photos[0][:, ::-1])
    by_side = {"name": "Resize", "size": 48}
    with pytest.raises(ConfigError, match="images of different sizes"):
        build_transforms([{"name": "ByEpoch", "steps": {"0": [], "1": [by_side]}}])
    resize = {"name": "Resize", "size": [32, 32]}
    assert build_transforms([resize, {"name": "ByEpoch", "steps": {"0": [by_side]}}]).output_hw is None
