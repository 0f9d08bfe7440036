"""`--data DIR`: a config's recipe on a user's own folder, as overrides that go before the user's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from passl_sot.config import ConfigError, Fault, get_config, zh
from passl_sot.data.datasets.folders import VAL_SHARE, find_splits
from passl_sot.utils.environment import launcher_number

_BATCH = "dataloader.train.sampler.batch_size"


def overrides_for(config: Path, root: str, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The changes of `--data` to a config: folders, number of classes, and the batch of a small set.

    The config is only read, for its check comes with these overrides; for `root` see `find_splits`.

    Returns:
        Overrides, and lines that say so; none where the config lacks a dataset, which its check will tell.

    Raises:
        DataError: The folder isn't laid out as it should be.
        ConfigError: The config reads its images from something else than folders.
    """
    found = find_splits(root)
    tree = get_config(config, overrides, free=True)
    faults: list[Fault] = []
    added: list[str] = []
    for split, folder in (("train", found.train), ("val", found.val)):
        path = f"dataloader.{split}.dataset"
        dataset = _value(tree, path)
        if not isinstance(dataset, Mapping):
            return [], []
        kind = dataset.get("name")
        if found.packed is not None:
            # Another name begins a node anew, so the settings of the node are repeated.
            node = {**dataset, "name": "PackedImages"}
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
    names = ", ".join(found.class_names[:10])
    if len(found.class_names) > 10:
        names += " ..."
    said = [f"data: {len(found.class_names)} classes in {found.train}: {names}"]
    if found.held_out:
        held_out = "data: no validation folder: some of each class are held out (dataset.val_share)"
        said.append(held_out + zh("held_out"))
    else:
        said.append(f"data: validation in {found.val}")
    batch = _value(tree, _BATCH)
    if isinstance(batch, int) and not any(text.startswith(f"{_BATCH}=") for text in overrides):
        # 0 is no valid share: the check of the whole config will tell.
        share = _value(tree, "dataloader.train.dataset.val_share") or VAL_SHARE
        processes = launcher_number("PADDLE_TRAINERS_NUM", 1)
        most = max(1, found.count_images(batch * processes, share) // processes)
        if most < batch:
            added.append(f"{_BATCH}={most}")
            said.append(
                f"data: few images to train on, so batch_size is {most} instead of {batch}"
                + zh("batch_reduced")
            )
    return added, said


def _value(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of the unchecked file; None where there is none."""
    value: Any = tree
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
