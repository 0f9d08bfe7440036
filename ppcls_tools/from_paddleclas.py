"""PaddleClas's configs in this project's words: `to_ours`.

Every key of a file is either said here, or told as a difference, or refused by its name; what no line of this
file asks for is refused as unknown.
"""

import os
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import paddle

from passl_sot.config import Config, ConfigError, Fault, UserError, value_at
from passl_sot.data.datasets.list_files import read_class_names
from passl_sot.data.errors import DataError
from passl_sot.modeling.schema import ModelSection
from passl_sot.optim.groups import ParametersSection, group_parameters
from passl_sot.weights.rules import key_rules
from ppcls_tools import theirs_transforms
from ppcls_tools.architectures import ARCHITECTURES, RATES, head_of
from ppcls_tools.reading import Reading, number
from ppcls_tools.schedules import SCHEDULES

# Without effect on what is learned, or on this project.
_IDLE = ("save_inference_dir", "to_static", "print_mem_info", "log_ranks", "uniform_output_enabled")


def to_ours(config: Config) -> tuple[dict[str, Any], list[str]]:
    """A file of PaddleClas, as read by `get_config`, as a tree of ours; and lines on what differs.

    Raises:
        ConfigError: Each key that can't be said here, with its line and the reason.
    """
    reading = Reading(config)
    try:
        return _tree(reading), reading.notes
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise reading.misfit(error) from error


def _tree(reading: Reading) -> dict[str, Any]:
    architecture, head = _model(reading)
    tree: dict[str, Any] = {**_global(reading), "model": {"architecture": architecture, "head": head}}
    tree["loss"] = _loss(reading)
    tree["optimizer"] = _optimizer(reading)
    tree["lr_scheduler"] = _schedule(reading, tree.get("epochs"))
    tree["amp"] = _precision(reading)
    tree["ema"] = _average(reading)
    if tree["ema"]:
        tree["checkpoint"]["best_by"] = (
            "ema"  # PaddleClas keeps the better of both, and as weights the average
        )
    tree["dataloader"] = _data(reading, head["num_classes"], tree["loss"]["label_smoothing"])
    _aside(reading)
    tree |= _decayed(reading, architecture, head)
    reading.finish()
    return tree


def _global(reading: Reading) -> dict[str, Any]:
    at = "Global"
    tree = reading.given(at, ("seed", "epochs", "output_dir"))
    tree["device"] = reading.only(f"{at}.device", ("gpu", "cpu"), "gpu", "devices here are gpu and cpu")
    tree["eval_interval"] = reading.take(f"{at}.eval_interval", 1)
    tree["checkpoint"] = {"interval": reading.take(f"{at}.save_interval", 1)}
    visualdl = reading.take(f"{at}.use_visualdl", False)
    tree["log"] = {"interval": reading.take(f"{at}.print_batch_step", 10), "visualdl": visualdl}
    for key in _IDLE:
        reading.take(f"{at}.{key}")
    for key, plain, why in (
        ("eval_during_train", True, "runs here always evaluate: set eval_interval"),
        ("use_multilabel", False, "several labels: write dataset.multi_label and BinaryCrossEntropyLoss"),
        ("update_freq", 1, "gradients are accumulated towards lr_scheduler.reference_batch here"),
        ("use_dali", False, "DALI isn't used here"),
        ("eval_mode", "classification", "models that classify are all there is here"),
        ("train_mode", None, "of its ways to train only the plain one is here"),
    ):
        reading.only(f"{at}.{key}", (plain,), plain, why)
    if reading.take(f"{at}.start_eval_epoch"):
        reading.note(f"{at}.start_eval_epoch", "here evaluation begins with the first epoch")
    for key, option in (("checkpoints", "--resume auto"), ("pretrained_model", "--init-from FILE")):
        if reading.take(f"{at}.{key}"):
            reading.note(f"{at}.{key}", f"an option of the command here: {option}")
    return tree


def _model(reading: Reading) -> tuple[dict[str, Any], dict[str, Any]]:
    at = "Arch"
    name = reading.text(f"{at}.name")
    classes = reading.take(f"{at}.class_num", reading.take("Global.class_num", 1000))
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        message = f"this project has no architecture {name!r}; of PaddleClas's it has {known}"
        raise ConfigError([Fault(f"{at}.name", message, reading.config.origin_near(f"{at}.name"))])
    architecture = ARCHITECTURES[name] | reading.given(at, (*RATES, "img_size"))
    for key in ("use_fused_attn", "use_fused_linear", "use_ssld"):
        reading.take(f"{at}.{key}")  # of the same numbers; or of pretrained
    if reading.take(f"{at}.pretrained"):
        reading.note(f"{at}.pretrained", "an option of the command here: --init-from or --pretrained FILE")
    shape = reading.take("Global.image_shape")
    size = architecture["img_size"]
    sides = [size, size] if isinstance(size, int) else list(size)
    if shape is not None and list(shape) != [3, *sides]:
        reading.refuse("Global.image_shape", f"{list(shape)} is not what {name} takes, {[3, *sides]}")
    if architecture["name"] == "Swin":
        reading.note(f"{at}.name", "PaddleClas also shifts stages of one window, the official code doesn't")
    elif architecture["distilled"]:
        reading.note(f"{at}.name", "PaddleClas trains the mean of both heads, here each has its own loss")
    return architecture, head_of(architecture, classes)


def _loss(reading: Reading) -> dict[str, Any]:
    at = "Loss.Train"
    reading.take_all("Loss.Eval")  # here evaluation's loss is training's
    losses = reading.items(at)
    smoothing = 0.0
    if len(losses) != 1 or losses[0][0] != "CELoss":
        found = ", ".join(name for name, _ in losses) or "nothing"
        reading.take_all(at)
        reading.refuse(at, f"one CELoss can be said here, got {found}")
    else:
        path = losses[0][1]
        reading.take(f"{path}.weight")  # of a single loss without effect there
        reading.only(f"{path}.reduction", ("mean",), "mean", "losses here are means")
        smoothing = reading.number(f"{path}.epsilon", 0.0)
    return {"name": "CrossEntropyLoss", "label_smoothing": smoothing}


def _optimizer(reading: Reading) -> dict[str, Any]:
    at = "Optimizer"
    name = reading.only(
        f"{at}.name",
        ("AdamW", "Momentum", "SGD"),
        "AdamW",
        "of its optimizers here are AdamW, Momentum and SGD",
    )
    keys = {"AdamW": ("beta1", "beta2", "epsilon"), "Momentum": ("momentum", "use_nesterov")}
    node = {"name": name, **reading.given(at, keys.get(str(name), ()))}
    if "use_nesterov" in node:
        node["nesterov"] = node.pop("use_nesterov")
    decay = reading.number(f"{at}.weight_decay", 0.0)
    if reading.take(f"{at}.regularizer.name") is not None:
        reading.only(f"{at}.regularizer.name", ("L2",), "L2", "decay here is of squares")
        decay = reading.number(f"{at}.regularizer.coeff", 0.0)
    reading.take(f"{at}.regularizer")
    reading.take(f"{at}.multi_precision")  # here level O2 always has it
    if reading.take(f"{at}.clip_norm") is not None:
        why = "PaddleClas clips each parameter's gradient by itself, here all together (optimizer.clip_grad)"
        reading.refuse(f"{at}.clip_norm", why)
    return {**node, "weight_decay": decay}


def _schedule(reading: Reading, epochs: Any) -> dict[str, Any]:
    at = "Optimizer.lr"
    name = reading.text(f"{at}.name", "ConstLR")
    node: dict[str, Any] = {"learning_rate": reading.take(f"{at}.learning_rate")}
    if name == "Piecewise":
        node = _piecewise(reading, node)
    elif name in SCHEDULES:
        kind, keys = SCHEDULES[name]
        node = {"name": kind, **node}
        node |= {ours: reading.take(f"{at}.{theirs}", plain) for theirs, ours, plain in keys}
    else:
        reading.refuse(f"{at}.name", f"there is no schedule like {name} here")
    if name == "Linear":
        power = reading.number(f"{at}.power", 1.0)
        reading.only(f"{at}.cycle", (False,), False, "rates here don't rise again")
        if power != 1:
            node |= {"name": "PolySchedule", "power": power}
    warmup = reading.number(f"{at}.warmup_epoch", 0)
    node |= {"warmup_epochs": warmup, "warmup_lr": reading.take(f"{at}.warmup_start_lr", 0.0)}
    if isinstance(epochs, int) and warmup >= epochs:
        reading.refuse(f"{at}.warmup_epoch", f"{warmup} is no less than Global.epochs, {epochs}")
    # Behind the warm-up PaddleClas's schedules count from its end.
    node |= {"warmup_prefix": True, "unit": "step"}
    if reading.take(f"{at}.by_epoch", False):
        node["unit"] = "epoch"
    return node


def _piecewise(reading: Reading, node: dict[str, Any]) -> dict[str, Any]:
    at = "Optimizer.lr"
    if node["learning_rate"] is not None:
        reading.refuse(f"{at}.learning_rate", "with it PaddleClas ignores decay_epochs; leave it out")
    epochs = reading.take(f"{at}.decay_epochs", [])
    values = [number(value) for value in reading.take(f"{at}.values", [])]
    factors = [b / a for a, b in pairwise(values)]
    if len(values) != len(epochs) + 1 or any(abs(f / factors[0] - 1) > 1e-6 for f in factors):
        reading.refuse(f"{at}.values", "here each step multiplies the rate by one and the same gamma")
        return node
    node = {"name": "MultiStepSchedule", "learning_rate": values[0], "milestones": list(epochs)}
    return {**node, "gamma": round(factors[0], 12)}


def _precision(reading: Reading) -> dict[str, Any] | None:
    at = "AMP"
    if not reading.take(f"{at}.use_amp", False):
        reading.take_all(at)
        return None
    reading.only(f"{at}.use_dynamic_loss_scaling", (True,), True, "the loss's scale is always dynamic here")
    reading.only(f"{at}.use_promote", (False,), False, "Paddle's auto_cast runs without it here")
    reading.take(f"{at}.scale_loss")  # where a dynamic scale begins
    if not reading.take(f"{at}.use_fp16_test", False):
        reading.note(f"{at}.use_fp16_test", "here evaluation computes as training does")
    return {"level": reading.take(f"{at}.level", "O1"), "dtype": "float16"}


def _average(reading: Reading) -> dict[str, Any] | None:
    if reading.take("EMA") is None:
        return None
    return {"decay": reading.take("EMA.decay", 0.9999)}


def _data(reading: Reading, classes: int, smoothing: float) -> dict[str, Any]:
    names = _class_names(reading)
    sections = {}
    for theirs, ours in (("Train", "train"), ("Eval", "val")):
        at = f"DataLoader.{theirs}"
        sections[ours] = {
            "sampler": _sampler(reading, f"{at}.sampler", training=ours == "train"),
            "dataset": _dataset(reading, f"{at}.dataset") | names,
            "loader": {
                "num_workers": reading.take(f"{at}.loader.num_workers", 4),
                "use_shared_memory": reading.take(f"{at}.loader.use_shared_memory", True),
            },
        }
    mixing = theirs_transforms.mixing(
        reading, "DataLoader.Train.dataset.batch_transform_ops", classes, smoothing
    )
    if mixing:
        sections["train"]["dataset"]["batch_transforms"] = mixing
    return sections


def _sampler(reading: Reading, at: str, *, training: bool) -> dict[str, Any]:
    names = ["DistributedBatchSampler", None]
    if training:
        names.append("RASampler")
    name = reading.only(f"{at}.name", names, None, "images are drawn evenly here")
    node = {"batch_size": reading.take(f"{at}.batch_size")}
    shuffle = reading.take(f"{at}.shuffle", False)
    drop_last = reading.take(f"{at}.drop_last", False)
    if training:
        node |= {"shuffle": shuffle, "drop_last": drop_last}
    elif drop_last:
        reading.refuse(f"{at}.drop_last", "evaluation sees every image here")
    if name == "RASampler":
        node["repeats"] = reading.take(f"{at}.num_repeats", 3)
        reading.note(f"{at}.name", "PaddleClas also leaves out up to 255 images of an epoch")
    return node


def _dataset(reading: Reading, at: str) -> dict[str, Any]:
    reading.only(
        f"{at}.name", ("ImageNetDataset", "ClsDataset"), "ImageNetDataset", "lists of images can be said here"
    )
    reading.only(f"{at}.delimiter", (" ", "\t", None), None, "lists here are divided by spaces or tabs")
    reading.only(f"{at}.relabel", (False, None), None, "number the labels from 0 in the list")
    transforms, apply_exif = theirs_transforms.transforms(reading, f"{at}.transform_ops")
    return {
        "name": "ListFile",
        "dataroot": reading.take(f"{at}.image_root"),
        "list_file": reading.take(f"{at}.cls_label_path"),
        "apply_exif": apply_exif,
        "transforms": transforms,
    }


def _class_names(reading: Reading) -> dict[str, str]:
    at = "Infer.PostProcess.class_id_map_file"
    file = reading.take(at)
    if file is None:
        return {}
    why = "is not here"
    if os.path.isfile(file):
        try:
            read_class_names(file)
            return {"class_names": file}
        except DataError as error:
            why = str(error)
    reading.note(at, f"{file}: {why}; classes are called by their numbers until class_names names a file")
    return {}


def _aside(reading: Reading) -> None:
    """Sections that say nothing on training."""
    for name, path in reading.items("Metric.Train") + reading.items("Metric.Eval"):
        if name != "TopkAcc":
            reading.refuse(path, f"of PaddleClas's scores here is TopkAcc, not {name}")
        reading.take_all(path)
    reading.take_all("Metric")
    # Here prediction prepares images as evaluation does.
    evaluation = value_at(reading.config, "DataLoader.Eval.dataset.transform_ops")
    inference = value_at(reading.config, "Infer.transforms")
    if inference is not None and inference != [*(evaluation or []), {"ToCHWImage": None}]:
        reading.note("Infer.transforms", "here prediction prepares images as evaluation does")
    reading.take_all("Infer")


def _decayed(reading: Reading, architecture: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters:` with what is decayed, compared by every parameter's name."""
    at = "Optimizer"
    words = str(reading.take(f"{at}.no_weight_decay_name") or "").split()
    spare_vectors = reading.take(f"{at}.one_dim_param_no_weight_decay", False)
    if value_at(reading.config, f"{at}.name") != "AdamW":
        spare_vectors = spare_vectors and bool(words)  # its Momentum looks at names first
    # A model of the same kinds of parameters.
    small: dict[str, Any] = {"depth": 1, "embed_dim": 12, "num_heads": 1}
    if architecture["name"] == "Swin":
        small = {"depths": [1, 1], "embed_dim": 8, "num_heads": [1, 1], "img_size": 56, "window_size": 7}
    small = {**architecture, **small}
    paddle.seed(0)
    model = ModelSection(architecture=Config(small), head=Config(head_of(small, 2))).build()
    names = {name: _official(model, name) for name, _ in model.named_parameters()}
    theirs = {
        name
        for name, parameter in model.named_parameters()
        if not any(word in names[name] for word in words) and not (spare_vectors and parameter.ndim == 1)
    }
    if theirs == set(names):
        return {"parameters": {"weight_decay_on": "all"}}
    groups = group_parameters(model, ParametersSection())
    ours = {name for group in groups if group.decayed for name in group.parameters}
    differing = sorted(names[name] for name in theirs ^ ours)
    said = f"decayed otherwise here: {', '.join(differing[:4])}"
    if len(differing) == 1:
        reading.note(f"{at}.no_weight_decay_name", said)
    elif differing:
        why = f"{said}; weights are decayed here, biases, norms and {sorted(model.no_weight_decay())} are not"
        reading.refuse(f"{at}.no_weight_decay_name", why)
    return {}


def _official(model: Any, name: str) -> str:
    for pattern, replacement in key_rules(model.backbone).to_official:
        name = re.sub(pattern, replacement, name)
    return name
