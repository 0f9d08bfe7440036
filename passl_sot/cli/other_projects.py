"""What users of timm and PaddleClas write, and what it is called here."""

# Options of timm's scripts that no option and no setting of ours resembles.
_TIMM = {
    "--amp": "-o amp.level=O1",
    "--checkpoint": "--weights FILE",
    "--data-dir": "--data DIR",
    "--initial-checkpoint": "--pretrained FILE",
    "--input-size": "-o model.architecture.img_size=224",
    "--log-interval": "-o log.interval=50",
    "--model": "-c NAME (`passl-sot list` shows the names)",
    "--model-ema": "-o ema.decay=0.9999",
    "--model-ema-decay": "-o ema.decay=0.9999",
    "--opt": "-o optimizer.name=AdamW",
    "--results-file": "--out FILE",
    "--sched": "-o lr_scheduler.name=CosineSchedule",
    "--workers": "-o dataloader.train.loader.num_workers=8",
}
# Keys of PaddleClas's files, and beginnings of keys.
_PADDLECLAS = {
    "AMP": "amp",
    "Arch": "model.architecture",
    "Arch.class_num": "model.head.num_classes",
    "DataLoader.Eval": "dataloader.val",
    "DataLoader.Eval.dataset.image_root": "dataloader.val.dataset.dataroot",
    "DataLoader.Train": "dataloader.train",
    "DataLoader.Train.dataset.image_root": "dataloader.train.dataset.dataroot",
    "EMA": "ema",
    "Global.class_num": "model.head.num_classes",
    "Global.device": "device",
    "Global.epochs": "epochs",
    "Global.eval_interval": "eval_interval",
    "Global.image_shape": "model.architecture.img_size",
    "Global.output_dir": "output_dir",
    "Global.print_batch_step": "log.interval",
    "Global.save_interval": "checkpoint.interval",
    "Global.seed": "seed",
    "Global.use_visualdl": "log.visualdl",
    "Loss.Train.0.CELoss.epsilon": "loss.label_smoothing",
    "Optimizer": "optimizer",
    "Optimizer.lr": "lr_scheduler",
    "Optimizer.lr.eta_min": "lr_scheduler.min_lr",
    "Optimizer.lr.warmup_epoch": "lr_scheduler.warmup_epochs",
    "Optimizer.lr.warmup_start_lr": "lr_scheduler.warmup_lr",
    "Optimizer.regularizer.coeff": "optimizer.weight_decay",
}
# Those of its keys that are options here.
_OPTIONS = {
    "Arch.name": "-c NAME",
    "Arch.pretrained": "--pretrained FILE",
    "Global.checkpoints": "--resume auto",
    "Global.pretrained_model": "--init-from FILE, or --pretrained FILE where the classes are others",
    "Infer.infer_imgs": "passl-sot predict --weights FILE PATH",
}


def option_here(option: str) -> str | None:
    """The option or override that stands for one of timm's options; None for all others."""
    return _TIMM.get(option.replace("_", "-"))


def override_here(text: str) -> str | None:
    """The option or override that stands for an override of a PaddleClas key; None for all others."""
    key, _, value = text.lstrip("+").partition("=")
    if key in _OPTIONS:
        return _OPTIONS[key]
    known = [name for name in _PADDLECLAS if f"{key}.".startswith(f"{name}.")]
    if not known:
        return None
    name = max(known, key=len)
    if value.startswith("["):  # [3, 224, 224]: here each has its own key
        value = "..."
    return f"-o {_PADDLECLAS[name]}{key.removeprefix(name)}={value}"
