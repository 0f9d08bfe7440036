"""Going on with a run: what must be as it was when its checkpoint was written."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from passl_sot.config import did_you_mean, nearest
from passl_sot.config.chinese import zh
from passl_sot.config.display import differences, leaves
from passl_sot.config.loader import Config
from passl_sot.weights.checkpoint import Checkpoint, CheckpointError

# Settings without an influence on any result.
_FREE = (
    "output_dir",
    "log",
    "meta",
    "checkpoint.interval",
    "checkpoint.update_interval",
    "dataloader.*.loader.num_workers",
    "dataloader.*.loader.use_shared_memory",
    "dataloader.*.loader.max_bad",
    "dataloader.*.loader.timeout",
)


def accept_changes(saved: Checkpoint, cfg: Config, named: Sequence[str]) -> str:
    """Compares the settings of a run with those that its checkpoint was written with.

    Where a run writes, what it logs and how many workers read for it may differ always.

    Args:
        saved: The checkpoint.
        cfg: The settings to go on with.
        named: Keys whose change is wanted; a section stands for all below it.

    Returns:
        The accepted differences, a line each; "" where there are none.

    Raises:
        CheckpointError: Others differ (it shows them), or a key is named that neither side has.
    """
    before = Config(saved.meta["config"])
    known = {*leaves(before), *leaves(cfg)}
    for key in named:
        if not any(_below(place, (key,)) for place in known):
            parts = {".".join(place.split(".")[:n]) for place in known for n in range(1, 9)}
            hint = did_you_mean(nearest(key, sorted(parts)))
            raise CheckpointError(
                f"--resume-override: there is no setting '{key}'{hint}" + zh("no_such_setting")
            )
    changed = differences(before, cfg)
    refused = [place for place in changed if not _below(place, (*_FREE, *named))]
    if refused:
        raise CheckpointError(
            f"{saved.path} was written with other settings:\n  "
            + "\n  ".join(changed[place] for place in refused)
            + "\nleave them as they were, begin a new run (-o output_dir=DIR), or say that the change is "
            f"wanted: --resume-override {' '.join(refused)}" + zh("settings_changed")
        )
    return "\n".join(line for place, line in changed.items() if not _below(place, _FREE))


def same_classes(saved: Checkpoint, names: list[str]) -> None:
    """Sees that the data have the classes that a checkpoint was trained on.

    Raises:
        CheckpointError: They haven't.
    """
    if saved.meta["class_names"] != names:
        raise CheckpointError(
            f"{saved.path} was trained on the classes {saved.meta['class_names'][:8]}, the data have "
            f"{names[:8]}: resume with the same class folders, or begin anew by --init-from"
            + zh("checkpoint_classes")
        )


def _below(place: str, keys: Iterable[str]) -> bool:
    return any(fnmatchcase(place, key) or fnmatchcase(place, f"{key}.*") for key in keys)
