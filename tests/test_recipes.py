"""The published recipes: every value of every ImageNet config, as resolved, against the papers' table.
Those of texts are in test_text_recipes.py.

The table is the authors' launch commands and script defaults; what a family shares stands in `SHARED`, what
differs by size in `SIZES`. A config that is in neither fails.
"""

import functools
import re
from pathlib import Path

import pytest

from passl_sot import list_models
from passl_sot.data import TRANSFORMS
from passl_sot.data.transforms.policies import parse_policy
from passl_sot.engine.schema import load_config
from passl_sot.modeling.classifier import Classifier
from passl_sot.optim import SCHEDULERS, build_optimizer
from passl_sot.optim.groups import freeze, group_parameters
from passl_sot.optim.schedules import plan_batch
from passl_sot.zoo import find_config

ROOT = Path(__file__).parent.parent
TRANSFERS = {
    "t2t_vit_14_cifar10": ("cifar10", 10),
    "t2t_vit_14_cifar100": ("cifar100", 100),
    "t2t_vit_19_cifar10": ("cifar10", 10),
    "t2t_vit_19_cifar100": ("cifar100", 100),
}
NAMES = [
    name
    for name in list_models()
    if name != "sot_digits" and name not in TRANSFERS and find_config(name).parent.name != "text"
]
AUGMENTATION = ["RandomResizedCrop", "RandomHorizontalFlip", "RandAugment"]
MIXING = ("mixup_alpha", "cutmix_alpha", "prob", "switch_prob", "label_smoothing")
MIXED_FIRST = ["Mixup", "Normalize", "RandomErasing"]
ERASED_FIRST = ["Normalize", "RandomErasing", "Mixup"]
COMMON = {
    "augmentation": AUGMENTATION,
    "betas": (0.9, 0.999),
    "epsilon": 1e-8,
    "clip": None,
    "T_max": 300,
    "warmup_epochs": 5,
    "warmup_lr": 1e-6,
    "prefix": False,
    "min_lr": 1e-5,
    "smoothing": 0.1,
    "mixup": (0.8, 1.0, 1.0, 0.5, 0.1),
    "randaugment": (9.0, 0.5, 2, (124, 116, 104)),
    "erasing": (0.25, "pixel", 1),
    "erased_area": (0.02, 1 / 3),
    "erased_ratio": 0.3,  # to 1 / 0.3
    "crop_area": (0.08, 1.0),
    "crop_ratio": (3 / 4, 4 / 3),
    "flip": 0.5,
    "ema": 0.99996,
    "eval": (256, 224, "bicubic"),
    "normalize": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "mode": "train",
    "distillation": None,
    "amp": "O1",
}
# SoT's, So-ViT's and T2T-ViT's scripts come from timm's; their rate is given for their batch.
TIMM = {
    "epochs": 310,
    "unit": "epoch",
    "lag": 0,
    "rule": ("accumulate", "all"),
    "order": MIXED_FIRST,
    "interpolation": ("random", ("bilinear", "bicubic")),
    "repeats": 1,
    "best_by": "ema",
    "seed": 42,
}
DEIT = {
    "epochs": 300,
    "unit": "epoch",
    "lag": 1,
    "rule": ("scale_lr", "peak"),
    "order": ERASED_FIRST,
    "interpolation": ("bicubic", ("bicubic",)),
    "repeats": 3,
    "best_by": "raw",
    "seed": 0,
    "batch": 1024,
    "lr": 1e-3,
    "decay": 0.05,
}
SHARED = {
    "sot": {**TIMM, "batch": 1024, "lr": 1e-3, "decay": 0.03, "drop_path": 0.1},
    "so_vit": {**TIMM, "batch": 512, "lr": 1e-3, "drop_path": 0.1},
    "t2t_vit": {**TIMM, "warmup_epochs": 10, "batch": 512, "drop_path": 0.1, "eval": (248, 224, "bicubic")},
    "deit": {**DEIT, "drop_path": 0.1},
    "pit": {**DEIT, "drop_path": 0.1},
    "stvit": DEIT,
    "swin": {
        **DEIT,
        "unit": "step",
        "lag": 1,
        "rule": ("scale_lr", "all"),
        "T_max": 280,
        "warmup_epochs": 20,
        "prefix": True,
        "clip": 5.0,
        "repeats": 1,
        "ema": None,
    },
}
FINE_TUNED = {
    "epochs": 30,
    "T_max": 30,
    "warmup_epochs": 0,
    "lr": 5e-6,
    "min_lr": 5e-6,
    "decay": 1e-8,
    "batch": 512,
    "drop_path": 0.0,
    "mode": "eval",
    "eval": (384, 384, "bicubic"),
}
DEIT_384 = {**FINE_TUNED, "warmup_epochs": 5, "eval": (438, 384, "bicubic")}
# "Vanilla" and "+CutMix" of PiT's table, whose exact values aren't published: without DeiT's augmentation.
VANILLA = {
    "augmentation": ["RandomResizedCrop", "RandomHorizontalFlip", "Normalize"],
    **dict.fromkeys(("mixup", "randaugment", "erasing", "erased_area", "erased_ratio")),
    "order": [],
    "interpolation": ("bicubic", None),
    "smoothing": 0.0,
    "repeats": 1,
    "drop_path": 0.0,
}
CUTMIX = {**VANILLA, "mixup": (0.0, 1.0, 1.0, 0.5, 0.0), "order": ["Mixup"]}
HARD = {"distillation": ("hard", 0.5)}
T2T_SMALL, T2T_LARGE = {"lr": 1e-3, "decay": 0.03}, {"lr": 5e-4, "decay": 0.065}
T2T_14 = {"lr": 5e-4, "decay": 0.05}
STVIT_LARGE = {"drop_path": {"0": 0.4, "260": 0.6}}
SIZES = {
    "sot_tiny": {},
    "sot_small": {},
    "sot_base": {"batch": 512, "lr": 5e-4, "decay": 0.065},
    "so_vit_7": {"decay": 0.03},
    "so_vit_10": {"decay": 0.03},
    "so_vit_14": {"decay": 0.05},
    "so_vit_19": {"decay": 0.05},
    **dict.fromkeys(("t2t_vit_7", "t2t_vit_10", "t2t_vit_12"), T2T_SMALL),
    **dict.fromkeys(("t2t_vit_14", "t2t_vit_t_14", "t2t_vit_14_sot"), T2T_14),
    **dict.fromkeys(("t2t_vit_19", "t2t_vit_24", "t2t_vit_t_19", "t2t_vit_t_24"), T2T_LARGE),
    "t2t_vit_14_384": {**T2T_14, "eval": (426, 384, "bicubic")},
    **{f"deit_{size}{kind}": {} for size in ("tiny", "small", "base") for kind in ("", "_sot")},
    **{f"deit_{size}_distilled": HARD for size in ("tiny", "small", "base")},
    "deit_base_384": DEIT_384,
    **{f"pit_{size}": {} for size in ("ti", "xs", "s", "b")},
    **{f"pit_{size}_vanilla": VANILLA for size in ("ti", "xs", "s", "b")},
    **{f"pit_{size}_cutmix": CUTMIX for size in ("ti", "xs", "s", "b")},
    **{f"pit_{size}_distilled": HARD for size in ("ti", "xs", "s", "b")},
    "pit_s_sot": {},
    "stvit_small": {"drop_path": 0.1},
    "stvit_small_sot": {"drop_path": 0.1},
    "stvit_base": {"drop_path": 0.4},
    "stvit_large": STVIT_LARGE,
    **{f"stvit_{size}_384": FINE_TUNED for size in ("small", "base", "large")},
    "swin_tiny": {"drop_path": 0.2},
    "swin_tiny_sot": {"drop_path": 0.2},
    "swin_small": {"drop_path": 0.3},
    "swin_base": {"drop_path": 0.5},
    "swin_base_sot": {"drop_path": 0.5},
}
HEAD_DROPOUT = {"sot_small": 0.5, "sot_base": 0.7, "so_vit_14": 0.5, "so_vit_19": 0.5}
# Parameters of two dimensions or more that are not decayed; timm's list of then had no distillation token.
UNDECAYED = {
    "sot": set(),
    "so_vit": set(),
    "stvit": set(),
    "t2t_vit": {"cls_token"},
    "deit": {"pos_embed", "cls_token"},
    "pit": {"pos_embed", "cls_token"},
    "swin": {"relative_position_bias_table"},
}


@functools.cache
def config_of(name: str):
    return load_config(find_config(name))


def family(name: str) -> str:
    return find_config(name).parent.name


def recipe(name: str) -> dict:
    """A config's values under the table's names, defaults of the classes included."""
    cfg = config_of(name)
    train, val = cfg.dataloader.train, cfg.dataloader.val
    optimizer, schedule = build_optimizer(cfg.optimizer), SCHEDULERS.build(cfg.lr_scheduler)
    nodes = train.dataset.transforms
    crop, flip, third = (TRANSFORMS.build(node) for node in nodes)
    policy = third if nodes[2].name == "RandAugment" else None
    later = {node.name: TRANSFORMS.build(node) for node in train.dataset.batch_transforms or ()}
    mixup, erasing = later.get("Mixup"), later.get("RandomErasing")
    resize, centre = (TRANSFORMS.build(node) for node in val.dataset.transforms[:2])
    assert [node.name for node in val.dataset.transforms] == ["Resize", "CenterCrop", "Normalize"]
    assert cfg.optimizer.name == "AdamW" and cfg.loss.name == "CrossEntropyLoss"
    size = cfg.model.architecture.img_size
    assert crop.output_hw == centre.output_hw == (size, size)
    assert cfg.model.head.num_classes == 1000 and (mixup is None or mixup.num_classes == 1000)
    every = (*nodes, *(train.dataset.batch_transforms or ()), *val.dataset.transforms)
    norms = [node for node in every if node.name == "Normalize"]
    assert len(norms) == 2 and norms[0] == norms[1]
    assert train.sampler.shuffle and train.sampler.drop_last and not train.dataset.apply_exif
    task = cfg.task
    return {
        "epochs": cfg.epochs,
        "seed": cfg.seed,
        "mode": cfg.training_mode,
        "batch": schedule.reference_batch,
        "rule": (schedule.batch_rule, schedule.scaled),
        "lr": schedule.learning_rate,
        "T_max": schedule.T_max,
        "warmup_epochs": schedule.warmup_epochs,
        "warmup_lr": schedule.warmup_lr,
        "prefix": schedule.warmup_prefix,
        "min_lr": schedule.min_lr,
        "unit": schedule.unit,
        "lag": schedule.lag,
        "betas": (optimizer.beta1, optimizer.beta2),
        "epsilon": optimizer.epsilon,
        "decay": optimizer.weight_decay,
        "clip": optimizer.clip_grad,
        "drop_path": cfg.model.architecture.drop_path_rate,
        "smoothing": cfg.loss.label_smoothing,
        "augmentation": [node.name for node in nodes],
        "mixup": mixup and tuple(getattr(mixup, key) for key in MIXING),
        "randaugment": policy and (*parse_policy(policy.policy), policy.fill),
        "erasing": erasing and (erasing.prob, erasing.mode, erasing.count),
        "erased_area": erasing and erasing.scale,
        "erased_ratio": erasing and erasing.ratio,
        "order": list(later),
        "crop_area": crop.scale,
        "crop_ratio": crop.ratio,
        "flip": flip.prob,
        "interpolation": (crop.interpolation, policy and policy.filters),
        "repeats": train.sampler.repeats,
        "ema": cfg.ema.decay if cfg.ema else None,
        "best_by": cfg.checkpoint.best_by,
        "eval": (resize.short_side, size, resize.interpolation),
        "normalize": (norms[0].mean, norms[0].std),
        "distillation": (task.kind, task.alpha) if task else None,
        "amp": cfg.amp and cfg.amp.level,
    }


@pytest.mark.parametrize("name", NAMES)
def test_recipe(name):
    expected = {**COMMON, **SHARED[family(name)], **SIZES[name]}
    found = recipe(name)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        bounds = key.endswith(("_area", "_ratio"))
        assert found[key] == (pytest.approx(value) if bounds and value else value), key


@pytest.mark.parametrize("name", TRANSFERS)
def test_transfer_to_cifar(name):
    """T2T-ViT's transfer_learning.py with `--lr 0.05 --b 64`."""
    data, classes = TRANSFERS[name]
    cfg = config_of(name)
    original = config_of(name.rpartition("_")[0])
    assert cfg.model.architecture == original.model.architecture
    assert cfg.model.architecture.drop_path_rate == 0.1 and cfg.model.head.num_classes == classes
    assert cfg.loss == {"name": "CrossEntropyLoss", "label_smoothing": 0.0}
    assert cfg.optimizer == {"name": "Momentum", "momentum": 0.9, "weight_decay": 5e-4}
    assert cfg.parameters.weight_decay_on == "all"
    schedule = SCHEDULERS.build(cfg.lr_scheduler)
    assert (cfg.epochs, schedule.reference_batch, schedule.unit, schedule.lag) == (60, 64, "epoch", 0)
    # Two blocks are enough: every block has parameters of the same names.
    model = Classifier(architecture={**cfg.model.architecture, "depth": 2}, head=cfg.model.head)
    frozen = freeze(model, cfg.parameters.freeze)
    assert frozen == {"backbone.norm.weight", "backbone.norm.bias", "backbone.cls_token"}
    groups = group_parameters(model, cfg.parameters)
    assert all(group.decayed for group in groups)
    peaks = {name.split(".")[0]: group.peak for group in groups for name in group.parameters}
    assert peaks == {"backbone": 0.01, "head": 1.0} and {group.factor for group in groups} == {1.0}
    for epoch, head, body in ((0, 0.05, 5e-4), (30, 0.0251, 3.5e-4), (59, 2.3412e-4, 2.00206e-4)):
        assert schedule.lr(epoch, 0.0, 60) == pytest.approx(head, rel=1e-4)
        assert schedule.lr(epoch, 0.0, 60, peak=0.01) == pytest.approx(body, rel=1e-4)
    train, val = cfg.dataloader.train.dataset, cfg.dataloader.val.dataset
    resize = {"name": "Resize", "size": 224, "interpolation": "bilinear"}
    normalize = {"name": "Normalize", "mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
    crop, flip = ({"name": "RandomCrop", "size": 224, "padding": 28}, {"name": "RandomHorizontalFlip"})
    assert train.transforms == [resize, crop, {**flip, "prob": 0.5}, normalize]
    assert val.transforms == [resize, {"name": "CenterCrop", "size": 224}, normalize]
    assert train.batch_transforms is None
    assert (train.dataroot, val.dataroot) == (f"data/{data}/train", f"data/{data}/val")
    assert cfg.amp is None
    assert (cfg.ema, cfg.checkpoint.best_by, cfg.dataloader.train.sampler.drop_last) == (None, "raw", False)


def test_the_stated_devices_make_the_recipes_batch_without_scaling():
    for name in [*NAMES, *TRANSFERS]:
        cfg = config_of(name)
        stated = re.search(r"(\d+) GPUs x (\d+) images", find_config(name).read_text())
        size = cfg.dataloader.train.sampler.batch_size
        reference = cfg.lr_scheduler.reference_batch
        devices = int(stated[1]) if stated else reference // size
        assert not stated or int(stated[2]) == size, name
        plan = plan_batch(SCHEDULERS.build(cfg.lr_scheduler), size, devices, 1281167 // reference)
        assert (plan.accumulate, plan.effective, plan.lr_factor) == (1, reference, 1.0), name


def test_dropout_is_in_the_head_alone():
    for name in NAMES:
        model = config_of(name).model
        rates = [value for key, value in model.architecture.items() if "drop" in key and "path" not in key]
        assert not any(rates), name
        if not name.endswith("_sot"):
            norm = model.head.get("normalization") or {}
            assert norm.get("dropout", 0.0) == HEAD_DROPOUT.get(name, 0.0), name
        assert not model.head.get("dropout"), name


def test_groups_without_decay():
    """By the list of the model's parameters that test_configs holds against the model itself."""
    for name in NAMES:
        lines = (ROOT / "tests" / "fixtures" / "parameters" / f"{name}.txt").read_text().splitlines()
        undecayed = set()
        for line in lines:
            key, shape, *words = re.match(r"(\S+) \[([\d, ]*)\]( frozen)?( decay)?(?= [@=])", line).groups()
            frozen, decay = words
            if frozen:
                assert not decay, name
            elif shape.count(",") == 0 or key.endswith(".bias"):
                assert not decay, (name, line)
            elif not decay:
                undecayed.add(key.rpartition(".")[2])
        assert undecayed == UNDECAYED[family(name)], name


RATES = {
    # The first epochs, the one after the warm-up, the middle of the cosine, and the last; by the formula.
    "sot_small": {0: 1e-6, 1: 2.008e-4, 4: 8.002e-4, 150: 5.05e-4, 300: 1e-5, 309: 1e-5},
    "sot_base": {0: 1e-6, 1: 1.008e-4, 150: 2.55e-4, 309: 1e-5},
    "t2t_vit_14": {0: 1e-6, 1: 5.09e-5, 9: 4.501e-4, 150: 2.55e-4, 309: 1e-5},
    "deit_small": {0: 1e-6, 1: 1e-6, 2: 2.008e-4, 5: 8.002e-4, 151: 5.05e-4},
    "deit_base_384": {0: 1e-6, 1: 1e-6, 2: 1.8e-6, 6: 5e-6, 29: 5e-6},
    "pit_s": {0: 1e-6, 1: 1e-6, 2: 2.008e-4, 5: 8.002e-4, 151: 5.05e-4},
    "stvit_large": {0: 1e-6, 1: 1e-6, 2: 2.008e-4, 5: 8.002e-4, 151: 5.05e-4},
    "stvit_large_384": {0: 5e-6, 1: 5e-6, 15: 5e-6, 29: 5e-6},
    "swin_tiny": {0: 1e-6, 1: 5.095e-5, 19: 9.5005e-4, 20: 1e-3, 160: 5.05e-4},
}


def test_rates():
    for name, rates in RATES.items():
        cfg = config_of(name)
        schedule = SCHEDULERS.build(cfg.lr_scheduler)
        for epoch, rate in rates.items():
            assert schedule.lr(epoch, 0.0, cfg.epochs) == pytest.approx(rate, rel=1e-6), (name, epoch)
        constant = schedule.unit == "epoch"
        assert (schedule.lr(2, 0.5, cfg.epochs) == schedule.lr(2, 0.0, cfg.epochs)) == constant, name
