"""Configs in PaddleClas's language, written for these tests, to ours and back."""

import paddle
import pytest
import yaml

from passl_sot.engine.schema import load_config
from passl_sot.optim import SCHEDULERS
from ppcls_tools.architectures import ARCHITECTURES, head_of, paddleclas_name
from ppcls_tools.convert_config import main

IMAGES = """
      transform_ops:
        - DecodeImage: {to_rgb: True, channel_first: False, backend: pil}
        - ResizeImage: {resize_short: 256, interpolation: bicubic, backend: pil}
        - CropImage: {size: 224}
        - NormalizeImage: {scale: 1.0/255.0, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], order: ''}
"""
THEIRS = f"""
Global:
  device: cpu
  output_dir: ./runs/
  epochs: 30
  eval_during_train: True
  eval_interval: 2
  save_interval: 5
  print_batch_step: 20
  use_visualdl: True
  image_shape: [3, 224, 224]
  save_inference_dir: ./inference
  pretrained_model: null
  seed: 3
AMP: {{use_amp: True, use_fp16_test: True, scale_loss: 128.0, use_dynamic_loss_scaling: True, level: O1}}
EMA: {{decay: 0.999}}
Arch: {{name: SwinTransformer_tiny_patch4_window7_224, class_num: 12, drop_rate: 0.1}}
Loss:
  Train: [{{CELoss: {{weight: 1.0, epsilon: 0.1}}}}]
  Eval: [{{CELoss: {{weight: 1.0}}}}]
Optimizer:
  name: AdamW
  beta1: 0.9
  beta2: 0.98
  epsilon: 1e-8
  weight_decay: 0.05
  no_weight_decay_name: relative_position_bias_table norm
  one_dim_param_no_weight_decay: True
  lr: {{name: Cosine, learning_rate: 1e-3, eta_min: 2e-5, warmup_epoch: 4, warmup_start_lr: 1e-6}}
DataLoader:
  Train:
    dataset:
      name: ImageNetDataset
      image_root: ./photos/
      cls_label_path: ./photos/train_list.txt
      transform_ops:
        - DecodeImage: {{to_rgb: True, channel_first: False, backend: pil}}
        - RandCropImage:
            {{size: 224, scale: [0.2, 1.0], ratio: [3.0/4.0, 4.0/3.0],
             interpolation: bicubic, backend: pil, use_log_aspect: True}}
        - RandFlipImage: {{flip_code: 1}}
        - TimmAutoAugment: {{config_str: rand-m7-mstd0.5-inc1, interpolation: random, img_size: 224}}
        - NormalizeImage: {{scale: 1.0/255.0, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], order: ''}}
        - RandomErasing:
            {{EPSILON: 0.2, sl: 0.02, sh: 1.0/4.0, r1: 0.5, attempt: 10, use_log_aspect: True, mode: pixel}}
      batch_transform_ops:
        - OpSampler: {{MixupOperator: {{alpha: 0.8, prob: 0.2}}, CutmixOperator: {{alpha: 1.0, prob: 0.6}}}}
    sampler: {{name: DistributedBatchSampler, batch_size: 64, drop_last: False, shuffle: True}}
    loader: {{num_workers: 3, use_shared_memory: True}}
  Eval:
    dataset:
      name: ImageNetDataset
      image_root: ./photos/
      cls_label_path: ./photos/val_list.txt{IMAGES}
    sampler: {{name: DistributedBatchSampler, batch_size: 32, drop_last: False, shuffle: False}}
    loader: {{num_workers: 3, use_shared_memory: True}}
Metric:
  Eval: [{{TopkAcc: {{topk: [1, 5]}}}}]
"""


@pytest.fixture
def converted(tmp_path):
    """`converted(text, *options)`: status and result of a conversion."""

    def run(text: str, *options: str):
        (tmp_path / "src.yaml").write_text(text)
        dst = tmp_path / "dst.yaml"
        dst.unlink(missing_ok=True)
        status = main([*options[:1], str(tmp_path / "src.yaml"), str(dst), *options[1:]])
        return status, yaml.safe_load(dst.read_text()) if dst.exists() else None

    return run


def test_to_ours(converted, tmp_path, capsys):
    status, tree = converted(THEIRS)
    assert status == 0
    experiment = load_config(str(tmp_path / "dst.yaml"))
    assert (experiment.epochs, experiment.eval_interval, experiment.seed) == (30, 2, 3)
    assert tree["model"]["architecture"] == {
        **ARCHITECTURES["SwinTransformer_tiny_patch4_window7_224"],
        "drop_rate": 0.1,
    }
    assert tree["model"]["head"] | {"num_classes": 12, "in_channels": 768} == tree["model"]["head"]
    assert tree["loss"] == {"name": "CrossEntropyLoss", "label_smoothing": 0.1}
    assert tree["optimizer"] == {
        "name": "AdamW",
        "beta1": 0.9,
        "beta2": 0.98,
        "epsilon": 1e-8,
        "weight_decay": 0.05,
    }
    assert tree["amp"] == {"level": "O1", "dtype": "float16"} and tree["ema"] == {"decay": 0.999}
    assert tree["checkpoint"] == {"interval": 5, "best_by": "ema"}
    train = tree["dataloader"]["train"]
    assert train["sampler"] == {"batch_size": 64, "shuffle": True, "drop_last": False}
    assert [node["name"] for node in train["dataset"]["transforms"]] == [
        "RandomResizedCrop",
        "RandomHorizontalFlip",
        "RandAugment",
        "Normalize",
        "RandomErasing",
    ]
    (mixup,) = train["dataset"]["batch_transforms"]
    assert mixup == {
        "name": "Mixup",
        "num_classes": 12,
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "prob": pytest.approx(0.8),
        "switch_prob": pytest.approx(0.75),
        "label_smoothing": 0.1,
    }
    dataset = tree["dataloader"]["val"]["dataset"]
    assert dataset["apply_exif"] is False and dataset["list_file"] == "./photos/val_list.txt"
    said = capsys.readouterr().out
    # Both are told, and stand in the file; there are no others.
    assert said.count("differs") == 2 and "rounds the longer side" in said and "shifts" in said
    assert (tmp_path / "dst.yaml").read_text().count("\n#   ") == 2


def test_and_back(converted):
    _, ours = converted(THEIRS)
    status, theirs = converted(yaml.safe_dump(ours), "--to-paddleclas")
    assert status == 0
    given = yaml.safe_load(THEIRS)
    for section in ("Arch", "Loss", "EMA", "Metric"):
        assert theirs[section] == given[section]
    assert theirs["DataLoader"]["Eval"]["dataset"] == given["DataLoader"]["Eval"]["dataset"]
    train, wanted = (tree["DataLoader"]["Train"] for tree in (theirs, given))
    assert train["sampler"] == wanted["sampler"] and train["loader"] == wanted["loader"]
    assert train["dataset"]["batch_transform_ops"] == wanted["dataset"]["batch_transform_ops"]
    names = [next(iter(op)) for op in train["dataset"]["transform_ops"]]
    assert names == [next(iter(op)) for op in wanted["dataset"]["transform_ops"]]
    status, again = converted(yaml.safe_dump(theirs))
    assert status == 0 and again == ours


def test_sides_change_places(converted):
    """Sizes are [width, height] there and [height, width] here."""
    text = THEIRS.replace("{size: 224, scale", "{size: [224, 160], scale").replace(
        "CropImage: {size: 224}", "CropImage: {size: [224, 160]}"
    )
    _, tree = converted(text)
    transforms = [tree["dataloader"][split]["dataset"]["transforms"] for split in ("train", "val")]
    assert transforms[0][0]["size"] == transforms[1][1]["size"] == [160, 224]
    _, theirs = converted(yaml.safe_dump(tree), "--to-paddleclas")
    operations = [theirs["DataLoader"][split]["dataset"]["transform_ops"] for split in ("Train", "Eval")]
    assert operations[0][1]["RandCropImage"]["size"] == operations[1][2]["CropImage"]["size"] == [224, 160]


SCHEDULES = {
    "Cosine": "{name: Cosine, learning_rate: 0.1, eta_min: 0.01, warmup_epoch: 2, warmup_start_lr: 0.001}",
    "Linear": "{name: Linear, learning_rate: 0.1, end_lr: 0.02, power: 2.0, warmup_epoch: 1}",
    "Step": "{name: Step, learning_rate: 0.1, step_size: 3, gamma: 0.5, warmup_epoch: 2}",
    "MultiStepDecay": "{name: MultiStepDecay, learning_rate: 0.1, milestones: [2, 5], gamma: 0.1}",
    "Piecewise": "{name: Piecewise, decay_epochs: [3, 6], values: [0.1, 0.02, 0.004], warmup_epoch: 1}",
    "ConstLR": "{name: ConstLR, learning_rate: 0.1, warmup_epoch: 3, by_epoch: True}",
}


def paddles(spec: dict, epochs: int, steps: int):
    """Paddle's own schedulers, put together as PaddleClas does."""
    lr = paddle.optimizer.lr
    unit = 1 if spec.get("by_epoch") else steps
    warmup = spec.get("warmup_epoch", 0)
    peak = spec.get("learning_rate") or spec["values"][0]
    length = (epochs - warmup) * unit
    if spec["name"] == "Cosine":
        after = lr.CosineAnnealingDecay(peak, length, spec["eta_min"])
    elif spec["name"] == "Linear":
        after = lr.PolynomialDecay(peak, length, spec["end_lr"], spec["power"])
    elif spec["name"] == "Step":
        after = lr.StepDecay(peak, spec["step_size"] * unit, spec["gamma"])
    elif spec["name"] == "MultiStepDecay":
        after = lr.MultiStepDecay(peak, [m * unit for m in spec["milestones"]], spec["gamma"])
    elif spec["name"] == "Piecewise":
        after = lr.PiecewiseDecay([e * unit for e in spec["decay_epochs"]], spec["values"])
    else:
        after = peak
    if warmup:
        after = lr.LinearWarmup(after, warmup * unit, spec.get("warmup_start_lr", 0.0), peak)
    return after


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates(converted, name):
    epochs, steps = 9, 5
    text = THEIRS.replace("epochs: 30", f"epochs: {epochs}")
    before = next(line for line in text.splitlines() if line.startswith("  lr: "))
    status, tree = converted(text.replace(before, f"  lr: {SCHEDULES[name]}"))
    assert status == 0
    schedule = SCHEDULERS.build(tree["lr_scheduler"])
    spec = yaml.safe_load(SCHEDULES[name])
    theirs = paddles(spec, epochs, steps)
    for step in range(epochs * steps):
        epoch, done = schedule.point(*divmod(step, steps), steps)
        assert schedule.lr(epoch, done, epochs) == pytest.approx(theirs(), rel=1e-6), step
        if not spec.get("by_epoch") or step % steps == steps - 1:
            theirs.step()
    status, back = converted(yaml.safe_dump(tree), "--to-paddleclas")
    assert status == 0
    _, again = converted(yaml.safe_dump(back))
    assert again["lr_scheduler"] == tree["lr_scheduler"]


@pytest.mark.parametrize(
    ("before", "after", "where", "words"),
    [
        ("name: SwinTransformer_tiny", "name: ResNet50", "Arch.name", "no architecture"),
        ("epochs: 30", "epochs: 30\n  update_freq: 4", "Global.update_freq", "reference_batch"),
        ("device: cpu", "device: npu", "Global.device", "gpu and cpu"),
        ("beta2: 0.98", "clip_norm: 1.0", "Optimizer.clip_norm", "by itself"),
        ("beta2: 0.98", "amsgrad: True", "Optimizer.amsgrad", "no counterpart"),
        ("name: AdamW", "name: RMSProp", "Optimizer.name", "AdamW, Momentum"),
        ("name: Cosine", "name: Cyclic", "Optimizer.lr.name", "no schedule like Cyclic"),
        ("relative_position_bias_table norm", "norm", "Optimizer.no_weight_decay_name", "relative_position"),
        (", epsilon: 0.1", "", "Loss.Train", "softmax of mixed targets"),
        ("CELoss: {weight: 1.0, epsilon", "DSHSDLoss: {weight: 1.0, epsilon", "Loss.Train", "one CELoss"),
        ("RandFlipImage: {flip_code: 1}", "AugMix: {prob: 0.5}", "transform_ops.2.AugMix", "no transform"),
        ("flip_code: 1", "flip_code: 0", "RandFlipImage.flip_code", "left to right"),
        ("mode: pixel", "mode: const", "RandomErasing.mode", "noise"),
        ("to_rgb: True", "to_rgb: False", "DecodeImage.to_rgb", "RGB"),
        ("scale: 1.0/255.0", "scale: 1.0", "NormalizeImage.scale", "255"),
        ("MixupOperator", "FmixOperator", "OpSampler.FmixOperator.alpha", "no counterpart"),
        ("False, shuffle: False", "True, shuffle: False", "Eval.sampler.drop_last", "every"),
        ("DistributedBatchSampler, batch_size: 64", "PKSampler, batch_size: 64", "sampler.name", "PK"),
        ("TopkAcc: {topk: [1, 5]}", "ATTRMetric: null", "Metric.Eval.0.ATTRMetric", "TopkAcc"),
        ("[3, 224, 224]", "[3, 256, 256]", "Global.image_shape", "is not what"),
        ("[3, 224, 224]", "7", "Global.image_shape", "7 is of another kind"),
        ("name: Cosine", "name: []", "Optimizer.lr.name", "[] is of another kind"),
        ("weight_decay: 0.05", "weight_decay: a lot", "Optimizer.weight_decay", "no number"),
        ("warmup_epoch: 4", "warmup_epoch: 30", "Optimizer.lr.warmup_epoch", "Global.epochs"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_here(converted, capsys, before, after, where, words):
    assert before in THEIRS
    text = THEIRS.replace(before, after)
    status, tree = converted(text)
    assert status == 2 and tree is None
    said = capsys.readouterr().err
    assert where in said and words in said
    assert "src.yaml:" in said  # with the line


def test_what_paddleclas_cannot_say(converted, tmp_path, capsys):
    dst = str(tmp_path / "dst.yaml")
    assert main(["--to-paddleclas", "deit_tiny", dst]) == 2
    said = capsys.readouterr().err
    for key in ("lag", "reference_batch", "warmup_prefix"):
        assert f"lr_scheduler.{key}" in said
    assert "deit.yaml:" in said and "make_list" in said
    assert main(["--to-paddleclas", "sot_tiny", dst]) == 2
    assert "PaddleClas has no architecture of these sizes" in capsys.readouterr().err
    _, ours = converted(THEIRS)
    for key, value, words in (
        ("parameters.layer_decay", "0.7", "parameters.layer_decay"),
        ("training_mode", "eval", "no other mode"),
        ("task", "{name: DistillationTask, teacher: {config: deit_tiny, weights: x}}", "task"),
        ("optimizer.clip_grad", "1.0", "optimizer.clip_grad"),
        ("optimizer.name", "Lamb", "optimizer.name"),
        ("amp.dtype", "bfloat16", "amp.dtype"),
        ("lr_scheduler.T_max", "300", "lr_scheduler.T_max"),
        ("loss.class_weights", "auto", "loss.class_weights"),
        ("model.head.dropout", "0.5", "model.head.dropout"),
        ("dataloader.train.dataset.channels", "1", "dataset.channels"),
        ("dataloader.train.sampler.balanced", "true", "sampler.balanced"),
        ("dataloader.train.dataset.transforms.1.prob", "0.3", "transforms.1.prob"),
        ("dataloader.train.dataset.batch_transforms.0.off_epoch", "3", "off_epoch"),
        ("dataloader.train.dataset.batch_transforms.0.label_smoothing", "0.0", "label_smoothing"),
    ):
        capsys.readouterr()
        status, tree = converted(yaml.safe_dump(ours), "--to-paddleclas", "-o", f"+{key}={value}")
        assert status == 2 and tree is None, key
        assert words in capsys.readouterr().err


def test_architectures_are_ours():
    for name, architecture in ARCHITECTURES.items():
        if not name.startswith("ViT_base_patch16"):  # DeiT_base by another name
            assert paddleclas_name({"mlp_ratio": 4.0, **architecture}) == (name, {})
        assert head_of(architecture, 5)["num_classes"] == 5
    smaller = {**ARCHITECTURES["DeiT_tiny_patch16_224"], "img_size": 160}
    assert paddleclas_name(smaller) == ("DeiT_tiny_patch16_224", {"img_size": 160})
    assert paddleclas_name({**smaller, "mlp_ratio": 3.0}) is None


def test_class_names_travel(converted, tmp_path):
    names = tmp_path / "class_id_map.txt"
    names.write_text("1 dog\n0 cat\n")
    infer = f"Infer: {{PostProcess: {{name: Topk, topk: 5, class_id_map_file: {names}}}}}\n"
    _, tree = converted(THEIRS + infer)
    assert tree["dataloader"]["val"]["dataset"]["class_names"] == str(names)
    _, theirs = converted(yaml.safe_dump(tree), "--to-paddleclas")
    assert theirs["Infer"]["PostProcess"]["class_id_map_file"] == str(names)
