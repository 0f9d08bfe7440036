"""The schema of an experiment file. Keys that neither it nor a registered class declares are errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from passl_sot import config
from passl_sot.config import ConfigError, Count, Document, Fault, NotEmpty, Range, Share
from passl_sot.data.schema import DataSection
from passl_sot.engine.amp import AmpSection
from passl_sot.engine.train_state import TrainingMode
from passl_sot.modeling.losses import LOSSES
from passl_sot.modeling.schema import MetaSection, ModelSection
from passl_sot.optim import OPTIMIZERS, SCHEDULERS
from passl_sot.optim.groups import ParametersSection
from passl_sot.tasks.base import TASKS, task_class


@dataclass(kw_only=True)
class EMASection:
    """`ema:` an exponential moving average of the weights, evaluated beside the raw ones."""

    decay: Share


@dataclass(kw_only=True)
class CheckpointSection:
    """`checkpoint:` the files that are kept beside `last` and `best`.

    Attributes:
        interval: Also keep every N-th epoch's checkpoint; null keeps none.
        update_interval: Also write `last` after every N-th update, for long epochs; null: after epochs.
        best_by: Which weights' score chooses `best` and is used for prediction; "ema" needs `ema:`.
    """

    interval: Count | None = None
    update_interval: Count | None = None
    best_by: Literal["raw", "ema"] = "raw"


@dataclass(kw_only=True)
class DistributedSection:
    """`distributed:` how several processes work together; without effect in one.

    Attributes:
        sync_batch_norm: BatchNorm takes its statistics from the batches of all processes.
        sharding: 1 divides the optimizer's state over the processes. 2 (gradients too) and 3 (weights too)
            are Paddle's for GPUs alone, and have never been run here.
    """

    sync_batch_norm: bool = False
    sharding: Literal[0, 1, 2, 3] = 0


@dataclass(kw_only=True)
class LogSection:
    """`log:` a line every `interval` updates, and whether VisualDL records are written."""

    interval: Count = 50
    visualdl: bool = True


@dataclass(kw_only=True)
class Experiment(Document):
    """A whole file, read and checked once per command and handed on whole or in parts.

    Attributes:
        epochs: Epochs to run, cool-down included.
        task: The meaning of the run; null takes ClassificationTask.
        training_mode: "train"; "eval" trains in evaluation mode (BatchNorm's statistics frozen, no dropout,
            no drop-path), "frozen_batch_norm" with BatchNorm alone in it; for fine-tuning.
        parameters: Frozen parameters, and factors of the learning rate.
        device: "auto" takes the GPU where Paddle has one, else the CPU.
        output_dir: A run writes into `output_dir/<name of the config file>`.
        eval_interval: Evaluate after every N-th epoch and after the last.
        nonfinite_limit: Updates in a row with a non-finite loss or gradient that stop the run.
    """

    epochs: Annotated[int, Range(min=1, max=10**6)]
    model: ModelSection
    dataloader: DataSection
    optimizer: Annotated[dict, OPTIMIZERS]
    lr_scheduler: Annotated[dict, SCHEDULERS]
    loss: Annotated[dict, LOSSES]
    task: Annotated[dict, TASKS] | None = None
    training_mode: TrainingMode = "train"
    parameters: ParametersSection = field(default_factory=ParametersSection)
    ema: EMASection | None = None
    amp: AmpSection | None = None
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    distributed: DistributedSection = field(default_factory=DistributedSection)
    log: LogSection = field(default_factory=LogSection)
    seed: Annotated[int, Range(min=0, max=2**31 - 1)] = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    output_dir: Annotated[str, NotEmpty()] = "output"
    eval_interval: Count = 1
    nonfinite_limit: Count = 10
    meta: MetaSection | None = None

    def __post_init__(self):
        if self.checkpoint.best_by == "ema" and self.ema is None:
            raise ValueError(
                "checkpoint.best_by is 'ema' but there is no ema section: add `ema: {decay: 0.9999}`"
            )
        SCHEDULERS.build(self.lr_scheduler)  # for its own checks
        complaint = task_class(self.task).complaint(self.training_mode)
        if complaint:
            raise ValueError(complaint)

    def check_new_run(self) -> None:
        """Checks what may differ in a run that goes on: it may be cut short, or get more epochs later.

        Raises:
            ConfigError: The learning rate would never reach its peak.
        """
        warmup = SCHEDULERS.build(self.lr_scheduler).warmup_epochs
        if warmup > self.epochs:
            message = (
                f"the warm-up of {warmup:g} epochs is longer than the run of {self.epochs}, whose rate would "
                f"never reach learning_rate: lower it, to lr_scheduler.warmup_epochs=0 for a short trial"
            )
            place = "lr_scheduler.warmup_epochs"
            raise ConfigError([Fault(place, message, self.origin(place), "value")])


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, stored: Mapping[str, Any] | None = None
) -> Experiment:
    """Reads an experiment file with overrides and checks every section of it; `stored` as of `get_config`.

    Raises:
        ConfigError: Lists all faults at once, before any device or data is touched.
    """
    return config.load_config(Experiment, path, overrides, stored=stored)
