"""What a run will need, measured on a small piece of it (`--dry-run`)."""

import math
import time

import paddle

from passl_sot.engine.compatibility import check_fit
from passl_sot.engine.modes import set_training_mode
from passl_sot.engine.run_dir import memory_gb
from passl_sot.engine.schema import Experiment
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.stats import model_stats
from passl_sot.optim import build_optimizer
from passl_sot.optim.ema import ModelEMA
from passl_sot.optim.groups import describe_groups, freeze, group_parameters
from passl_sot.tasks.base import Task, build_task


def describe_run(experiment: Experiment, cfg, train, val, world_size: int) -> list[str]:
    """Builds the model, takes two small training steps, and extrapolates.

    Args:
        experiment: The checked experiment.
        cfg: Its config.
        train: Training dataset.
        val: Validation dataset.
        world_size: Processes the run will have.

    Returns:
        Lines to print: parameters and their groups, multiply-adds, and estimates of memory and time.
    """
    model = Classifier(architecture=cfg.model.architecture, head=cfg.model.head)
    check_fit(model, train, val, cfg.loss.name)
    frozen = freeze(model, experiment.parameters.freeze)
    groups = group_parameters(model, experiment.parameters)
    table = describe_groups(
        groups,
        build_optimizer(cfg.optimizer).weight_decay,
        {name: p for name, p in model.named_parameters() if name in frozen},
    )
    stats = model_stats(model)
    batch_size = experiment.dataloader.train.sampler.batch_size
    task = build_task(cfg, model, train.class_names, class_counts=train.class_counts(), trial=True)
    seconds, fixed, per_image = _probe(model, task, experiment, cfg, min(batch_size, 4))
    per_epoch = math.ceil(len(train) / world_size) * seconds
    total = per_epoch * experiment.epochs / 3600
    return [
        *table,
        f"parameters   {stats.parameters / 1e6:.3f} M trainable",
        f"compute      {stats.macs / 1e9:.3f} GMACs ({2 * stats.macs / 1e9:.2f} GFLOPs) forward, one image",
        f"memory       about {fixed + per_image * batch_size:.1f} GB per process at batch {batch_size} "
        f"({fixed:.2f} GB + {1000 * per_image:.0f} MB an image)",
        f"time         about {1 / seconds:.1f} images/s per process on this device, input not counted: "
        f"{per_epoch / 60:.1f} min an epoch, {total:.1f} h for {experiment.epochs} epochs",
    ]


def _probe(model, task: Task, experiment: Experiment, cfg, batch: int) -> tuple[float, float, float]:
    """Seconds per image, fixed GB, and GB per image of a training step at a small batch."""
    optimizer = build_optimizer(cfg.optimizer)(model)
    ema = ModelEMA(model, experiment.ema.decay) if experiment.ema else None
    images = {
        "image": paddle.randn([batch, model.backbone.in_chans, *model.backbone.img_size]),
        "label": paddle.zeros([batch], "int64"),
    }
    set_training_mode(model, experiment.training_mode)

    def step() -> None:
        task(model, images)["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        if ema:
            ema.update()

    before = memory_gb()
    step()  # the first step also allocates the optimiser's state
    began = time.perf_counter()
    step()
    seconds = (time.perf_counter() - began) / batch
    # Gradients, what the optimiser keeps, and the average.
    kept = sum(int(p.size) for p in model.parameters() if not p.stop_gradient)
    kept += sum(int(v.size) for v in optimizer.state_dict().values() if isinstance(v, paddle.Tensor))
    kept += sum(int(v.size) for v in ema.average.values()) if ema else 0
    states = kept * 4 / 1e9
    activations = max(memory_gb() - before - states, 0.0)
    return seconds, before + states, activations / batch
