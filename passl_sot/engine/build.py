"""From an experiment to the objects that it names, in the order in which they need each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from passl_sot.config import ConfigError, Document
from passl_sot.data import build_dataloader
from passl_sot.engine.amp import Precision
from passl_sot.engine.distributed import World
from passl_sot.engine.schema import Experiment
from passl_sot.engine.train_state import seed_all
from passl_sot.optim import OPTIMIZERS, SCHEDULERS
from passl_sot.optim.groups import describe_groups, freeze, group_parameters
from passl_sot.optim.schedules import Schedule, plan_batch
from passl_sot.tasks.base import build_task


class Parts:
    """The objects of a run, checked against each other, before any distributed wrapper; weights are new.

    Args:
        every_item: Read every item of the data in the check, not a sample.
        trial: For an estimate: see `build_task`.

    Attributes:
        frozen: Names of parameters frozen by pattern.
        groups: The other parameters.
        factory: The registered optimizer, which made `optimizer`.

    Raises:
        ConfigError: Parts do not fit each other.
        DataError: The data are faulty.
        CheckpointError: Weights that the task needs can't be read or don't fit.
    """

    def __init__(
        self, experiment: Experiment, world: World, *, every_item: bool = False, trial: bool = False
    ):
        # Before anything that may draw: the model's start is a function of the seed alone.
        seed_all(experiment.seed)
        self.precision = Precision.of_this_device(experiment.amp)
        self.task = build_task(experiment.task, experiment.loss, trial=trial)
        data = experiment.dataloader
        place = {"rank": world.rank, "world_size": world.size, "seed": experiment.seed}
        with placing(experiment):
            self.train_loader = build_dataloader(data.train, mode="train", **place)
            self.val_loader = build_dataloader(data.val, mode="val", **place)
        self.train_loader.bad_files.shared = world.size > 1
        train, val = self.train_loader.dataset, self.val_loader.dataset
        self.factory = OPTIMIZERS.build(experiment.optimizer)
        with placing(experiment):
            model = experiment.model.build(copies=2 + self.factory.moments + bool(experiment.ema))
        if experiment.distributed.sync_batch_norm:
            world.synchronize_batch_norm(model)
        self.model = model
        # Frozen parameters are in no group, so freezing comes first.
        self.frozen = freeze(model, experiment.parameters.freeze)
        self.groups = group_parameters(model, experiment.parameters)
        self.optimizer = self.factory(model, self.groups)
        self.schedule: Schedule = SCHEDULERS.build(experiment.lr_scheduler)
        self.batch_size = data.train.sampler.batch_size
        self.devices = world.size
        self.plan = plan_batch(self.schedule, self.batch_size, world.size, len(self.train_loader))
        self.precision.prepare(model, self.optimizer)
        with placing(experiment):
            # One process reads the files; the others wait for its verdict without a time limit.
            if world.is_main:
                self.task.check(model, train, val, data, every_item=every_item)
            world.wait_for_all()
            # A teacher, say, is built by every process.
            self.task.prepare(model, train, data)

    def describe(self, folder: Path | None = None) -> list[str]:
        """Lines about precision and parameter groups; for a run in `folder`, also about batch and data."""
        frozen = {name: p for name, p in self.model.named_parameters() if name in self.frozen}
        lines = describe_groups(self.groups, self.factory.weight_decay, frozen)
        if self.precision.note:
            lines.insert(0, self.precision.note)
        if folder is None:
            return lines
        plan = self.plan
        # The learning rate follows from the items per update.
        peak = f"{self.schedule.learning_rate * plan.lr_factor:.4g}"
        if plan.lr_factor != 1:
            peak += f" (recipe's {self.schedule.learning_rate:.4g} x {plan.lr_factor:.4g})"
        batch = self.schedule.reference_batch
        reference = f" (lr_scheduler.reference_batch: {batch})" if batch else ""
        train, val = self.train_loader.dataset, self.val_loader.dataset
        return [
            *lines,
            f"batch: {self.batch_size} per device x {self.devices} device(s) x {plan.accumulate} accumulated "
            f"= {plan.effective} {self.task.words.items} per update{reference}; peak learning rate {peak}",
            f"{len(train)} training and {len(val)} validation {self.task.describe_items(train)}; "
            f"run folder {folder}",
        ]


@contextmanager
def placing(document: Document) -> Iterator[None]:
    """A block whose ConfigErrors get the places where their settings were written."""
    try:
        yield
    except ConfigError as error:
        # Faults of another file, such as a teacher's, know their place already.
        faults = [replace(f, origin=f.origin or document.origin(f.path)) for f in error.faults]
        raise ConfigError(faults) from error
