"""Going on with a run: settings and data must be as they were, and everything that has state is restored."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from passl_sot.config import did_you_mean, differences, leaves, nearest, zh
from passl_sot.data.schema import DataSection
from passl_sot.engine.build import Parts
from passl_sot.engine.distributed import World
from passl_sot.engine.schema import EMASection, Experiment
from passl_sot.engine.train_state import Progress
from passl_sot.modeling.classifier import Classifier
from passl_sot.optim.ema import ModelEMA
from passl_sot.weights import reading, state
from passl_sot.weights.checkpoint import Checkpoint, CheckpointError, read_weights

# Gives a new model weights from elsewhere, and reports on them.
Fill = Callable[[Classifier], object]

# The part of a checkpoint that holds the identities of the data.
_DATA = "data"
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


def accept_changes(saved: Checkpoint, now: dict, named: Sequence[str]) -> str:
    """Compares a run's settings with those that its checkpoint was written with.

    Those of `_FREE` may always differ, and so may the keys `named`; a section stands for all below it.

    Returns:
        The accepted differences, a line each; "" where there are none.

    Raises:
        CheckpointError: Others differ (it shows them), or a key is named that neither side has.
    """
    before = saved.meta["config"]
    known = {*leaves(before), *leaves(now)}
    for key in named:
        if not any(_below(place, (key,)) for place in known):
            parts = {".".join(place.split(".")[:n]) for place in known for n in range(1, 9)}
            hint = did_you_mean(nearest(key, sorted(parts)))
            raise CheckpointError(
                f"--resume-override: there is no setting '{key}'{hint}" + zh("no_such_setting")
            )
    changed = differences(before, now)
    refused = [place for place in changed if not _below(place, (*_FREE, *named))]
    if refused:
        raise CheckpointError(
            f"{saved.path} was written with other settings:\n  "
            + "\n  ".join(changed[place] for place in refused)
            + "\nleave them as they were, begin a new run (-o output_dir=DIR), or say that the change is "
            f"wanted: --resume-override {' '.join(refused)}" + zh("settings_changed")
        )
    return "\n".join(line for place, line in changed.items() if not _below(place, _FREE))


def accept_data(
    parts: Parts,
    data: DataSection,
    world: World,
    saved: Checkpoint | None,
    named: Sequence[str],
    say: Callable[..., None],
) -> dict[str, np.ndarray]:
    """Compares the data of a run, of the section `data`, with those that its checkpoint was trained on.

    They may differ where the section of the split's dataset is `named`, as of `accept_changes`; that is said.
    Data without an identity (`Dataset.identity`), and those of a checkpoint without one, aren't compared.

    Returns:
        The identities of both splits, for checkpoints; only the main process reads them, others have none.

    Raises:
        CheckpointError: The data differ (it says in what), or are no data for this checkpoint at all.
    """
    if saved:
        parts.task.check_resume(saved.path, saved.meta)
    found: dict[str, dict[str, np.ndarray]] = {}
    if world.is_main:
        found["train"] = parts.train_loader.dataset.identity(timeout=data.train.loader.timeout)
        found["val"] = parts.val_loader.dataset.identity(timeout=data.val.loader.timeout)
    if saved:
        _compare_data(parts, saved, found, named, say)
    world.wait_for_all()
    return {f"{_DATA}.{split}.{name}": array for split, now in found.items() for name, array in now.items()}


def _compare_data(
    parts: Parts,
    saved: Checkpoint,
    found: Mapping[str, Mapping[str, np.ndarray]],
    named: Sequence[str],
    say: Callable[..., None],
) -> None:
    datasets = {"train": parts.train_loader.dataset, "val": parts.val_loader.dataset}
    accepted: list[str] = []
    refused: dict[str, list[str]] = {}
    for split, now in found.items():
        before = saved.part(f"{_DATA}.{split}")
        lines: list[str] = []
        if before and now:
            lines = [f"{split}: {line}" for line in datasets[split].differences(before, now)]
        place = f"dataloader.{split}.dataset"
        if _below(place, named):
            accepted += lines
        elif lines:
            refused[place] = lines
    if refused:
        listed = "\n  ".join(line for lines in refused.values() for line in lines)
        raise CheckpointError(
            f"{saved.path} was trained on other data:\n  {listed}\n"
            "restore them, begin a new run (-o output_dir=DIR), or say that the change is wanted: "
            f"--resume-override {' '.join(refused)}" + zh("data_changed")
        )
    if accepted:
        say("going on with other data than before:\n%s", "\n".join(accepted))


def _below(place: str, keys: Iterable[str]) -> bool:
    return any(fnmatchcase(place, key) or fnmatchcase(place, f"{key}.*") for key in keys)


def header_of(
    parts: Parts, experiment: Experiment, progress: Progress, ema: ModelEMA | None
) -> dict[str, Any]:
    """The part of a checkpoint's header that `begin` and the task take from it."""
    updates = 0
    if ema:
        updates = ema.updates
    return {
        "progress": asdict(progress),
        "sampler": parts.train_loader.sampler.state_dict(),
        "ema_updates": updates,
        "config": experiment.to_dict(),
        **parts.task.describe(),
    }


def other_keys(saved: Checkpoint, now: Mapping[str, Any]) -> str:
    """What a checkpoint's header has that this version doesn't write, and the reverse; "" for nothing."""
    before = saved.meta
    lines = []
    for one, other, words in ((before, now, "left aside"), (now, before, "not in it, begun anew")):
        found = [key for key in one if key not in other and key != "format"]
        for section in ("progress", "sampler"):
            found += [f"{section}.{key}" for key in one[section] if key not in other[section]]
        if found:
            lines.append(f"{words}: {', '.join(sorted(found))}")
    if lines:
        lines[0] = f"{saved.path} was written by version {before.get('version')} of passl_sot; {lines[0]}"
    return "; ".join(lines)


def begin(
    parts: Parts,
    section: EMASection | None,
    saved: Checkpoint | None,
    init_from: str | None,
    pretrained: Fill | None,
    say: Callable[..., None],
) -> tuple[Progress, ModelEMA | None]:
    """Gives a run the weights, and where it goes on the state, that it begins with; its position and average.

    Raises:
        CheckpointError: A file can't be read, or does not fit the model or the data.
    """
    progress = Progress()
    # A resumed run has its weights already, and the file that it began with may be gone.
    if saved:
        progress = _restore(saved, parts, say)
    elif init_from:
        weights, _ = read_weights(init_from)
        say("starting from %s", state.start_from(parts.model, weights, str(init_from)))
    elif pretrained:
        pretrained(parts.model)
    # After all that may fill the model: the average begins at the weights that training begins at.
    ema = None
    if section:
        ema = ModelEMA(parts.model, section.decay)
    if saved:
        _restore_average(saved, ema, say)
    return progress, ema


def _restore_average(saved: Checkpoint, ema: ModelEMA | None, say: Callable[..., None]) -> None:
    average = saved.part("ema")
    if ema and average:
        shapes = {name: tuple(tensor.shape) for name, tensor in ema.average.items()}
        if shapes != {name: array.shape for name, array in average.items()}:
            raise CheckpointError(f"{saved.path}: its averaged weights don't fit the model")
        ema.load(average, saved.meta["ema_updates"])
    elif ema:
        say("the checkpoint has no average: it begins anew from the weights resumed")
    elif average:
        say("the checkpoint's averaged weights are dropped: there is no ema section any more")


def _restore(saved: Checkpoint, parts: Parts, say: Callable[..., None]) -> Progress:
    state.load_model(parts.model, saved.part("model"), str(saved.path))
    with reading(saved.path):
        state.load_optimizer(parts.optimizer, parts.model, saved.part("optimizer"))
    progress = Progress.restored(saved.path, saved.meta)
    # Between epochs the sampler begins anew from (seed, epoch); inside one it goes on behind `consumed`.
    if progress.batches:
        sampler = parts.train_loader.sampler
        sampler.load_state_dict(saved.meta["sampler"])
        progress.batches = sampler.consumed
    say(
        "resuming from %s: epoch %d, batch %d, %d updates, best so far %.2f%s",
        saved.path,
        progress.epoch + 1,
        progress.batches,
        progress.step,
        progress.best,
        parts.task.words.unit,
    )
    return progress


def check_whole_updates(saved: Checkpoint, progress: Progress, accumulate: int) -> None:
    """Raises a CheckpointError inside an update: gradients of half of one are in no checkpoint."""
    if progress.batches % accumulate:
        raise CheckpointError(
            f"{saved.path} stands at batch {progress.batches} of an epoch, inside an update of {accumulate} "
            "batches: resume with the batch settings that it was written with"
        )
