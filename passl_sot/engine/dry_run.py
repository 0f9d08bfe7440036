"""Estimates of the time and memory that a run will need, from a small piece of it (`--dry-run`)."""

import math
import time
from datetime import timedelta

import paddle

from passl_sot.engine.build import Parts
from passl_sot.engine.run_dir import memory_gb
from passl_sot.engine.schema import Experiment
from passl_sot.engine.training_mode import set_training_mode
from passl_sot.modeling.stats import model_stats
from passl_sot.optim.ema import ModelEMA
from passl_sot.tasks.base import Batch

_PROBE = 4  # items of a training step that is measured


def describe_run(experiment: Experiment, parts: Parts, world_size: int) -> list[str]:
    """Lines on groups, size, memory and time, by two small training steps, which change the model."""
    task = parts.task
    batch_size = experiment.dataloader.train.sampler.batch_size
    items = min(batch_size, _PROBE)
    probe = task.probe(parts.model, items)
    stats = model_stats(parts.model, [value[:1] for value in task.inputs(probe)])
    seconds, fixed_gb, item_gb = _measure(experiment, parts, probe, items)
    per_epoch = math.ceil(len(parts.train_loader.dataset) / world_size) * seconds
    epoch, total = (timedelta(seconds=math.ceil(count * per_epoch)) for count in (1, experiment.epochs))
    memory = fixed_gb + item_gb * batch_size
    words = task.words
    article = "an" if words.item[0] in "aeiou" else "a"
    return [
        *parts.describe(),
        f"parameters   {stats.parameters / 1e6:.3f} M trainable",
        f"compute      {stats.macs / 1e9:.3f} GMACs ({2 * stats.macs / 1e9:.2f} GFLOPs) forward, "
        f"one {words.item}",
        f"memory       about {memory:.1f} GB per process at batch {batch_size} "
        f"({fixed_gb:.2f} GB + {1000 * item_gb:.0f} MB {article} {words.item})",
        f"time         about {1 / seconds:.1f} {words.items}/s per process on this device, input not "
        f"counted: {epoch} an epoch, {total} for {experiment.epochs} epochs",
    ]


def _measure(experiment: Experiment, parts: Parts, batch: Batch, items: int) -> tuple[float, float, float]:
    """Costs of a training step: seconds per item, GB whatever the batch, and GB per item."""
    model = parts.model
    optimizer = parts.optimizer
    ema = ModelEMA(model, experiment.ema.decay) if experiment.ema else None
    set_training_mode(model, experiment.training_mode)

    def step() -> None:
        parts.task.step(model, batch)["loss"].backward()
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
    # The rest of the peak's rise are activations, which grow with the batch.
    activations = max(memory_gb() - before - states, 0.0)
    return seconds, before + states, activations / items
