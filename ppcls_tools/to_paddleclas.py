"""Configs of this project in PaddleClas's words: `to_paddleclas`."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passl_sot.config import ConfigError, Fault
from passl_sot.engine.schema import Experiment
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.optim import OPTIMIZERS, SCHEDULERS
from passl_sot.optim.schedules import FallingSchedule
from ppcls_tools.architectures import ARCHITECTURES, RATES, head_of, paddleclas_name
from ppcls_tools.our_transforms import batch_operations, operations
from ppcls_tools.schedules import SCHEDULES
from ppcls_tools.writing import Writing

# Our schedule: PaddleClas's, and its keys: theirs and ours.
_SCHEDULES = {ours: (name, [key[:2] for key in keys]) for name, (ours, keys) in SCHEDULES.items()}
_SCHEDULES["PolySchedule"] = ("Linear", [*_SCHEDULES["LinearSchedule"][1], ("power", "power")])
# PaddleClas lets biases and norms alone by their one dimension, and further tensors by parts of their names.
_NOT_DECAYED = {"DeiT": "pos_embed cls_token .bias", "Swin": "relative_position_bias_table .bias"}


def to_paddleclas(experiment: Experiment) -> tuple[dict[str, Any], list[str]]:
    """An experiment as a tree of PaddleClas's, and lines on what differs.

    Raises:
        ConfigError: Each setting that PaddleClas can't say, with its line and the reason.
    """
    writing = Writing(experiment)
    arch, image_shape = _arch(writing)
    _unsayable(writing)
    train, evaluation = (_loader(writing, split) for split in ("train", "val"))
    tree = {
        "Global": _global(writing, image_shape),
        "Arch": arch,
        "Loss": _loss(writing),
        "Optimizer": _optimizer(writing, arch) | {"lr": _lr(writing)},
        "DataLoader": {"Train": train, "Eval": evaluation},
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1, 5]}}]},
    }
    if experiment.amp is not None:
        tree["AMP"] = _amp(writing)
    if experiment.ema is not None:
        tree["EMA"] = {"decay": experiment.ema.decay}
    tree["Infer"] = _infer(experiment, evaluation)
    if writing.faults:
        raise ConfigError(writing.faults)
    return tree, writing.notes


def _arch(writing: Writing) -> tuple[dict[str, Any], list[int]]:
    model = writing.experiment.model
    backbone: Any = BACKBONES.find(model.architecture["name"])
    takes = inspect.signature(backbone).parameters.values()
    defaults = {each.name: each.default for each in takes if each.default is not each.empty}
    architecture: dict[str, Any] = {**defaults, **model.architecture}
    sides = architecture["img_size"]
    shape = [3, sides, sides] if isinstance(sides, int) else [3, *sides]
    place = "model.architecture"
    found = None
    if architecture["name"] in _NOT_DECAYED:
        found = paddleclas_name(architecture)
    if found is None:
        raise ConfigError(
            [Fault(place, "PaddleClas has no architecture of these sizes", writing.experiment.origin(place))]
        )
    name, more = found
    arch = {"name": name, **more}
    head = model.head
    arch["class_num"] = head["num_classes"]
    theirs = head_of(architecture, head["num_classes"])
    given = {"pool": "token", "num_prefix_tokens": theirs.get("num_prefix_tokens", 1)} | head
    for key in ("name", "in_channels", "pool", "num_prefix_tokens"):
        if key in theirs:
            writing.need(f"model.head.{key}", given.get(key), theirs[key], f"its head for {name} is fixed")
    writing.need("model.head.dropout", head.get("dropout", 0.0), 0.0, "its head has no dropout")
    for key in RATES:
        rate = architecture[key]
        if isinstance(rate, Mapping):
            writing.refuse(f"{place}.{key}", "PaddleClas's rates don't change from epoch to epoch")
        elif rate != ARCHITECTURES[name].get(key, 0.0):
            arch[key] = rate
    if architecture["name"] == "Swin":
        writing.note(place, "PaddleClas also shifts stages of one window")
    elif architecture["distilled"]:
        writing.note("model.head", "PaddleClas trains the mean of both heads")
    return arch, shape


def _unsayable(writing: Writing) -> None:
    e = writing.experiment
    if e.task is not None and e.task["name"] != "ClassificationTask":
        writing.refuse("task", f"{e.task['name']} has no counterpart that a config names")
    elif e.task is not None and e.task.get("weights") is not None:
        writing.refuse("task.weights", "PaddleClas doesn't weight outputs")
    writing.need("training_mode", e.training_mode, "train", "it trains in no other mode")
    for key in ("freeze", "lr_factors"):
        writing.need(f"parameters.{key}", getattr(e.parameters, key), [], "its optimizers treat all alike")
    writing.need("parameters.layer_decay", e.parameters.layer_decay, None, "AdamW there has none")
    writing.need("distributed.sharding", e.distributed.sharding, 0, "its configs have no sharding")
    writing.need("distributed.sync_batch_norm", e.distributed.sync_batch_norm, False, "not in its configs")
    writing.need("checkpoint.update_interval", e.checkpoint.update_interval, None, "it saves by epochs")


def _global(writing: Writing, image_shape: list[int]) -> dict[str, Any]:
    e = writing.experiment
    device = e.device
    if device == "auto":
        device = "gpu"
        writing.note("device", "auto became gpu")
    return {
        "checkpoints": None,
        "pretrained_model": None,
        "output_dir": e.output_dir,
        "device": device,
        "save_interval": e.checkpoint.interval or e.epochs,
        "eval_during_train": True,
        "eval_interval": e.eval_interval,
        "epochs": e.epochs,
        "print_batch_step": e.log.interval,
        "use_visualdl": e.log.visualdl,
        "image_shape": image_shape,
        "save_inference_dir": "./inference",
        "seed": e.seed,
    }


def _loss(writing: Writing) -> dict[str, Any]:
    loss = writing.experiment.loss
    writing.need("loss.name", loss["name"], "CrossEntropyLoss", "of its losses only CELoss can be said here")
    writing.need("loss.class_weights", loss.get("class_weights"), None, "CELoss has no weights of classes")
    cross_entropy: dict[str, Any] = {"weight": 1.0}
    if loss.get("label_smoothing"):
        cross_entropy["epsilon"] = loss["label_smoothing"]
    return {"Train": [{"CELoss": cross_entropy}], "Eval": [{"CELoss": {"weight": 1.0}}]}


def _optimizer(writing: Writing, arch: Mapping[str, Any]) -> dict[str, Any]:
    e = writing.experiment
    made = OPTIMIZERS.build(e.optimizer)
    writing.need("optimizer.clip_grad", made.clip_grad, None, "it clips each gradient by itself")
    name = e.optimizer["name"]
    node = {"name": name}
    if name == "AdamW":
        node |= {"beta1": made.beta1, "beta2": made.beta2, "epsilon": made.epsilon}
    elif name == "Momentum":
        node |= {"momentum": made.momentum, "use_nesterov": made.nesterov}
    else:
        writing.need("optimizer.name", name, "AdamW", "AdamW and Momentum can be said")
    node["weight_decay"] = made.weight_decay
    if e.parameters.weight_decay_on == "weights":
        node["no_weight_decay_name"] = _NOT_DECAYED[e.model.architecture["name"]]
        node["one_dim_param_no_weight_decay"] = True
    return node


def _lr(writing: Writing) -> dict[str, Any]:
    e = writing.experiment
    name = e.lr_scheduler["name"]
    made = SCHEDULERS.build(e.lr_scheduler)
    at = "lr_scheduler"
    theirs, keys = _SCHEDULES[name]
    node: dict[str, Any] = {"name": theirs, "learning_rate": made.learning_rate}
    node |= {key: getattr(made, ours) for key, ours in keys}
    if isinstance(made, FallingSchedule):
        length = made.T_max or e.epochs - made.warmup_epochs
        writing.need(f"{at}.T_max", length, e.epochs - made.warmup_epochs, "its curves end with the run")
    if made.warmup_epochs:
        why = "its schedules begin where the warm-up ends (warmup_prefix: true)"
        writing.need(f"{at}.warmup_prefix", made.warmup_prefix, True, why)
        node |= {"warmup_epoch": made.warmup_epochs, "warmup_start_lr": made.warmup_lr}
    writing.need(f"{at}.lag", made.lag, 0, "its rates are not late")
    writing.need(f"{at}.reference_batch", made.reference_batch, None, "its rates don't follow the batch")
    if made.unit == "epoch":
        node["by_epoch"] = True
    return node


def _amp(writing: Writing) -> dict[str, Any]:
    section = writing.experiment.amp
    assert section is not None
    if section.dtype == "auto":
        writing.note("amp.dtype", "auto became float16, PaddleClas's only one")
    else:
        writing.need("amp.dtype", section.dtype, "float16", "it computes in float16")
    plain = {"use_dynamic_loss_scaling": True, "use_promote": False, "level": section.level}
    return {"use_amp": True, "use_fp16_test": True, "scale_loss": 8192.0, **plain}


def _loader(writing: Writing, split: str) -> dict[str, Any]:
    section = getattr(writing.experiment.dataloader, split)
    at = f"dataloader.{split}"
    training = split == "train"
    dataset = section.dataset.to_dict()
    if dataset["name"] != "ListFile":
        advice = "write lists by ppcls_tools/make_list.py and name them (ListFile)"
        writing.refuse(f"{at}.dataset.name", f"PaddleClas reads lists, not {dataset['name']}: {advice}")
    for key, plain in (("channels", 3), ("multi_label", False)):
        writing.need(f"{at}.dataset.{key}", dataset.get(key, plain), plain, "not for its ImageNetDataset")
    batch = dataset.get("batch_transforms") or []
    ops = operations(writing, at, dataset.get("transforms") or [], batch, dataset.get("apply_exif", True))
    theirs: dict[str, Any] = {
        "name": "ImageNetDataset",
        "image_root": dataset.get("dataroot"),
        "cls_label_path": dataset.get("list_file"),
    }
    if _has_tabs(str(dataset.get("list_file"))):
        theirs["delimiter"] = "\t"
    theirs["transform_ops"] = ops
    mixed = batch_operations(writing, at, batch)
    if mixed:
        theirs["batch_transform_ops"] = mixed
    sampler = section.sampler
    writing.need(f"{at}.sampler.balanced", sampler.balanced, False, "its samplers draw evenly")
    order = {"name": "DistributedBatchSampler", "batch_size": sampler.batch_size}
    order["drop_last"] = training if sampler.drop_last is None else sampler.drop_last
    order["shuffle"] = training if sampler.shuffle is None else sampler.shuffle
    if sampler.repeats > 1:
        order |= {"name": "RASampler", "num_repeats": sampler.repeats}
    workers = section.loader.num_workers
    if workers == "auto":
        workers = 4
        writing.note(f"{at}.loader.num_workers", "auto became 4")
    loader = {"num_workers": workers, "use_shared_memory": section.loader.use_shared_memory}
    return {"dataset": theirs, "sampler": order, "loader": loader}


def _has_tabs(file: str) -> bool:
    path = Path(os.path.expanduser(file))
    return path.is_file() and b"\t" in path.read_bytes()


def _infer(experiment: Experiment, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    names = experiment.dataloader.val.dataset.get("class_names")
    after = {"name": "Topk", "topk": 5}
    if names:
        after["class_id_map_file"] = names
    transforms = [*evaluation["dataset"]["transform_ops"], {"ToCHWImage": None}]
    return {"infer_imgs": "images", "batch_size": 10, "transforms": transforms, "PostProcess": after}
