"""Estimates of the time and memory that a run will need, from a small piece of it (`--dry-run`)."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import paddle

from passl_sot.engine.run_dir import memory_gb
from passl_sot.engine.schema import Experiment
from passl_sot.engine.train_state import set_training_mode
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.stats import model_stats
from passl_sot.optim import build_optimizer
from passl_sot.optim.ema import ModelEMA
from passl_sot.optim.groups import describe_groups, freeze, group_parameters
from passl_sot.tasks.base import Task

_PROBE = 4  # items of a training step that is measured


@dataclass
class _Cost:
    """Costs of a training step: seconds per item, GB whatever the batch, and GB per item."""

    seconds: float
    fixed_gb: float
    item_gb: float


def describe_run(
    experiment: Experiment, model: Classifier, task: Task, train_items: int, world_size: int
) -> list[str]:
    """Takes two small training steps and extrapolates.

    Args:
        experiment: The experiment.
        model: Its model, which is changed.
        task: Its task, prepared.
        train_items: Items of the training set.
        world_size: Processes the run will have.

    Returns:
        Lines to print: parameters and their groups, multiply-adds, and estimates of memory and time.
    """
    frozen = freeze(model, experiment.parameters.freeze)
    table = describe_groups(
        group_parameters(model, experiment.parameters),
        build_optimizer(experiment.optimizer).weight_decay,
        {name: p for name, p in model.named_parameters() if name in frozen},
    )
    batch_size = experiment.dataloader.train.sampler.batch_size
    probe = task.probe(model, min(batch_size, _PROBE))
    item = task.inputs(probe)[0][:1]
    stats = model_stats(model, item.shape)
    cost = _measure(model, task, experiment, probe, min(batch_size, _PROBE))
    per_epoch = math.ceil(train_items / world_size) * cost.seconds
    total = per_epoch * experiment.epochs / 3600
    memory = cost.fixed_gb + cost.item_gb * batch_size
    words = task.words
    return [
        *table,
        f"parameters   {stats.parameters / 1e6:.3f} M trainable",
        f"compute      {stats.macs / 1e9:.3f} GMACs ({2 * stats.macs / 1e9:.2f} GFLOPs) forward, "
        f"one {words.item}",
        f"memory       about {memory:.1f} GB per process at batch {batch_size} "
        f"({cost.fixed_gb:.2f} GB + {1000 * cost.item_gb:.0f} MB {words.an_item})",
        f"time         about {1 / cost.seconds:.1f} {words.items}/s per process on this device, input not "
        f"counted: {per_epoch / 60:.1f} min an epoch, {total:.1f} h for {experiment.epochs} epochs",
    ]


def _measure(
    model: Classifier, task: Task, experiment: Experiment, batch: Mapping[str, paddle.Tensor], items: int
) -> _Cost:
    optimizer = build_optimizer(experiment.optimizer)(model)
    ema = ModelEMA(model, experiment.ema.decay) if experiment.ema else None
    set_training_mode(model, experiment.training_mode)

    def step() -> None:
        task.step(model, batch)["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        if ema:
            ema.update()

    before = memory_gb()
    step()  # the first step also allocates the optimizer's state
    began = time.perf_counter()
    step()
    seconds = (time.perf_counter() - began) / items
    # Gradients, the optimizer's state, and the average.
    kept = sum(int(p.size) for p in model.parameters() if not p.stop_gradient)
    kept += sum(int(v.size) for v in optimizer.state_dict().values() if isinstance(v, paddle.Tensor))
    if ema:
        kept += sum(int(v.size) for v in ema.average.values())
    states = kept * 4 / 1e9
    activations = max(memory_gb() - before - states, 0.0)
    return _Cost(seconds, before + states, activations / items)
