"""Going on with a run: its settings must be as they were, and everything that has state is restored."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from paddle.nn import Layer

from passl_sot.config import Document, did_you_mean, differences, leaves, nearest, zh
from passl_sot.engine.build import Parts
from passl_sot.engine.schema import EMASection
from passl_sot.engine.train_state import Progress
from passl_sot.optim.ema import ModelEMA
from passl_sot.weights import state
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


def accept_changes(saved: Checkpoint, experiment: Document, named: Sequence[str]) -> str:
    """Compares a run's settings with those that its checkpoint was written with.

    The output folder, logs and the number of data workers may always differ, and so may the keys `named`; a
    section stands for all below it.

    Returns:
        The accepted differences, a line each; "" where there are none.

    Raises:
        CheckpointError: Others differ (it shows them), or a key is named that neither side has.
    """
    before = saved.meta["config"]
    now = experiment.to_dict()
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


def _below(place: str, keys: Iterable[str]) -> bool:
    return any(fnmatchcase(place, key) or fnmatchcase(place, f"{key}.*") for key in keys)


def restore(saved: Checkpoint, parts: Parts, say: Callable[..., None]) -> Progress:
    """Gives the parts of a run the state that they had when a checkpoint was written; the run's position.

    Raises:
        CheckpointError: It does not fit the model or the data.
    """
    parts.task.check_resume(saved.path, saved.meta)
    state.load_model(parts.model, saved.part("model"), str(saved.path))
    state.load_optimizer(parts.optimizer, parts.model, saved.part("optimizer"))
    progress = Progress(**saved.meta["progress"])
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


def start_average(
    section: EMASection | None, model: Layer, saved: Checkpoint | None, say: Callable[..., None]
) -> ModelEMA | None:
    """The average of a run: it begins at the weights of the model, or goes on as in a checkpoint."""
    ema = ModelEMA(model, section.decay) if section else None
    average = saved.part("ema") if saved else {}
    if ema and average:
        ema.load(average, saved.meta["ema_updates"])
    elif ema and saved:
        say("the checkpoint has no average: it begins anew from the weights resumed")
    elif average:
        say("the checkpoint's averaged weights are dropped: there is no ema section any more")
    return ema
