"""`--data DIR`: a config's recipe on a user's own folder, as overrides that go before the user's."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from passl_sot.config.chinese import zh
from passl_sot.config.loader import Config, ConfigError, Fault
from passl_sot.data.datasets.folders import VAL_SHARE
from passl_sot.data.datasets.splits import OwnFolder, find_splits
from passl_sot.engine.schema import load_config

_BATCH = "dataloader.train.sampler.batch_size"


def overrides_for(config: Path, root: str, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """What `--data` changes in a config: folders, number of classes, and the batch of a small set.

    Args:
        config: The config file.
        root: The user's folder; see `own_folder`.
        overrides: The user's overrides.

    Returns:
        Overrides, and lines that say so.

    Raises:
        DataError: The folder isn't laid out as it should be.
        ConfigError: The config reads its images from something else than folders.
    """
    found = find_splits(root)
    cfg = load_config(config, overrides)
    faults, added = [], []
    for split, folder in (("train", found.train), ("val", found.val)):
        path = f"dataloader.{split}.dataset"
        kind = cfg.dataloader[split].dataset.name
        if found.packed is not None:
            # Another name begins a node anew, so what the node says is said again.
            node = {**cfg.dataloader[split].dataset, "name": "PackedImages"}
            node.pop("extensions", None)
            added.append(f"{path}={json.dumps(node, ensure_ascii=False)}")
        elif kind != "ImageFolder":
            message = f"--data is for configs that read folders (ImageFolder), and {config} has {kind}"
            faults.append(Fault(f"{path}.name", message))
        added += [f"{path}.dataroot={json.dumps(folder, ensure_ascii=False)}", f"{path}.apply_exif=true"]
        if found.held_out:
            added.append(f"{path}.part={split}")
    if faults:
        raise ConfigError(faults)
    added.append(f"model.head.num_classes={len(found.class_names)}")
    said = [
        f"data: {len(found.class_names)} classes in {found.train}: {', '.join(found.class_names[:10])}"
        + (" ..." if len(found.class_names) > 10 else ""),
        "data: no validation folder: some of each class are held out (dataset.val_share)" + zh("held_out")
        if found.held_out
        else f"data: validation in {found.val}",
    ]
    if not any(text.startswith(f"{_BATCH}=") for text in overrides):
        most, batch = _largest_batch(found, cfg.dataloader.train), cfg.dataloader.train.sampler.batch_size
        if most < batch:
            added.append(f"{_BATCH}={most}")
            said.append(
                f"data: few images to train on, so batch_size is {most} instead of {batch}"
                + zh("batch_reduced")
            )
    return added, said


def _largest_batch(found: OwnFolder, split: Config) -> int:
    """A batch per process that the images suffice for, at most the config's."""
    processes = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    images = found.count_images(
        split.sampler.batch_size * processes, split.dataset.get("val_share", VAL_SHARE)
    )
    return max(1, images // processes)
