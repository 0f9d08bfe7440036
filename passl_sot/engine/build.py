"""From an experiment to the objects that it names, in the order in which they need each other."""

from dataclasses import dataclass
from typing import Any

import paddle

from passl_sot.data import build_dataloader
from passl_sot.engine.amp import Precision
from passl_sot.engine.distributed import World
from passl_sot.engine.schema import Experiment
from passl_sot.engine.train_state import seed_all
from passl_sot.modeling.classifier import Classifier
from passl_sot.optim import OPTIMIZERS, SCHEDULERS
from passl_sot.optim.groups import ParameterGroup, describe_groups, freeze, group_parameters
from passl_sot.optim.schedules import Schedule
from passl_sot.tasks.base import Task, build_task


@dataclass
class Parts:
    """The objects of a run, before any distributed wrapper.

    Attributes:
        frozen: Names of parameters frozen by pattern.
        groups: The other parameters.
        clip_grad: Largest norm of the gradient, or None.
    """

    train_loader: Any
    val_loader: Any
    model: Classifier
    task: Task
    frozen: set[str]
    groups: list[ParameterGroup]
    optimizer: paddle.optimizer.Optimizer
    clip_grad: float | None
    weight_decay: float
    schedule: Schedule
    precision: Precision

    def describe(self) -> list[str]:
        """Lines about precision and parameter groups."""
        frozen = {name: p for name, p in self.model.named_parameters() if name in self.frozen}
        table = describe_groups(self.groups, self.weight_decay, frozen)
        return [self.precision.note, *table] if self.precision.note else table


def build_parts(
    experiment: Experiment, world: World, *, every_item: bool = False, trial: bool = False
) -> Parts:
    """Builds and checks everything that training needs; weights are new.

    Args:
        every_item: Read every item of the data in the check, not a sample.
        trial: For an estimate: see `build_task`.

    Raises:
        ConfigError: Parts do not fit each other.
        DataError: The data are faulty.
        CheckpointError: Weights that the task needs can't be read or don't fit.
    """
    # Before anything that may draw: the model's start is a function of the seed alone.
    seed_all(experiment.seed)
    precision = Precision.of_this_device(experiment.amp)
    task = build_task(experiment, trial=trial)
    place = {"rank": world.rank, "world_size": world.size, "seed": experiment.seed}
    train_loader = build_dataloader(experiment.dataloader.train, mode="train", **place)
    val_loader = build_dataloader(experiment.dataloader.val, mode="val", **place)
    train_loader.bad_files.shared = world.size > 1
    train, val = train_loader.dataset, val_loader.dataset
    model = experiment.model.build()
    # It replaces layers, whose parameters the groups are to hold.
    if experiment.distributed.sync_batch_norm:
        world.synchronize_batch_norm(model)
    # Frozen parameters are in no group, so freezing comes first.
    frozen = freeze(model, experiment.parameters.freeze)
    groups = group_parameters(model, experiment.parameters)
    factory = OPTIMIZERS.build(experiment.optimizer)
    optimizer = factory(model, groups)
    schedule = SCHEDULERS.build(experiment.lr_scheduler)
    precision.prepare(model, optimizer)
    # One process reads the files; the others wait for its verdict without a time limit.
    if world.is_main:
        task.check(model, train, val, experiment, every_item=every_item)
    world.wait_for_main()
    # A teacher, say, is built by every process.
    task.prepare(model, train, experiment)
    return Parts(
        train_loader=train_loader,
        val_loader=val_loader,
        model=model,
        task=task,
        frozen=frozen,
        groups=groups,
        optimizer=optimizer,
        clip_grad=factory.clip_grad,
        weight_decay=factory.weight_decay,
        schedule=schedule,
        precision=precision,
    )
