"""Distillation: DeiT's formula, the frozen teacher, what doesn't fit, and whole runs."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from passl_sot import create_model, list_models
from passl_sot.config import Config, ConfigError
from passl_sot.engine.build import placing
from passl_sot.engine.distributed import World
from passl_sot.engine.run_dir import read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.tasks.base import build_task
from passl_sot.tasks.classification import ClassificationTask
from passl_sot.tasks.distillation import DistillationTask
from passl_sot.weights.checkpoint import CheckpointError, read_checkpoint

CONFIGS = Path(__file__).parents[2] / "configs"
STUDENT = (
    "model.architecture={name: DeiT, img_size: 32, patch_size: 16, embed_dim: 16, depth: 2, num_heads: 2,"
    " distilled: true}",
    "model.head={name: DistilledHead, num_classes: 3, in_channels: 16}",
)


@pytest.fixture
def taught(experiment, tmp_path) -> tuple[Path, list[str]]:
    """An experiment file and the overrides that make a student of its trained model out of it."""
    cfg = load_config(experiment, ["epochs=1"])
    folder = tmp_path / "teacher"
    Trainer(cfg, folder, World()).fit()
    teacher = f"{{config: {folder}/config.yaml, weights: {folder}/best.safetensors}}"
    return experiment, [*STUDENT, f"+task={{name: DistillationTask, teacher: {teacher}}}"]


def prepared(cfg, model, names=("a b", "c", "猫")):
    """The task, with its teacher, for data of these classes."""
    task = build_task(cfg.task, cfg.loss)
    classes = SimpleNamespace(class_names=names, multi_hot=None, class_counts=lambda: [1] * len(names))
    with placing(cfg):
        task.prepare(model, classes, cfg.dataloader)
    return task


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_deits_formula(taught, kind):
    experiment, overrides = taught
    cfg = load_config(experiment, [*overrides, f"task.kind={kind}", "task.alpha=0.3", "task.tau=2.5"])
    model = cfg.model.build()
    task = prepared(cfg, model)
    model.train()
    images = paddle.randn([4, 3, 32, 32])
    target = np.random.default_rng(0).dirichlet(np.ones(3), size=4).astype(np.float32)
    values = task.step(model, {"image": images, "label": paddle.to_tensor(target)})
    cls_logits, dist_logits = (
        part.numpy().astype(np.float64) for part in model.head.forward_parts(model.backbone(images))
    )
    logits = task.teacher(images).numpy().astype(np.float64)
    base = -(target * log_softmax(cls_logits)).sum(axis=1).mean()
    if kind == "hard":
        distillation = -log_softmax(dist_logits)[np.arange(4), logits.argmax(axis=1)].mean()
    else:
        p, q = log_softmax(logits / 2.5), log_softmax(dist_logits / 2.5)
        distillation = (np.exp(p) * (p - q)).sum() * 2.5**2 / dist_logits.size
    assert float(values["base_loss"]) == pytest.approx(base, rel=1e-5)
    assert float(values["distillation_loss"]) == pytest.approx(distillation, rel=1e-5, abs=1e-6)
    assert float(values["loss"]) == pytest.approx(0.7 * base + 0.3 * distillation, rel=1e-5)


def test_each_head_learns_from_its_own_loss(taught):
    experiment, overrides = taught
    for alpha, learns, rests in ((0.0, "head", "head_dist"), (1.0, "head_dist", "head")):
        cfg = load_config(experiment, [*overrides, f"task.alpha={alpha}"])
        model = cfg.model.build()
        task = prepared(cfg, model)
        model.train()
        batch = {"image": paddle.randn([4, 3, 32, 32]), "label": paddle.to_tensor([0, 1, 2, 0])}
        task.step(model, batch)["loss"].backward()
        assert float(getattr(model.head, learns).weight.grad.abs().max()) > 0
        assert float(getattr(model.head, rests).weight.grad.abs().max()) == 0
        assert not task.teacher.training
        assert all(p.stop_gradient and p.grad is None for p in task.teacher.parameters())


def test_a_run_with_a_teacher(taught, tmp_path):
    experiment, overrides = taught
    cfg = load_config(experiment, [*overrides, "epochs=2"])
    trainer = Trainer(cfg, tmp_path / "student", World())
    saved = read_checkpoint(tmp_path / "teacher" / "best.safetensors")
    trainer.fit()
    for name, value in trainer.task.teacher.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), saved.part(saved.meta["best_by"])[name], err_msg=name)
    rows = [r for r in read_metrics(tmp_path / "student" / "metrics.jsonl") if r["kind"] == "train"]
    assert len(rows) == 6
    for row in rows:
        assert row["loss"] == pytest.approx(0.5 * (row["base_loss"] + row["distillation_loss"]), rel=1e-5)
    tensors = read_checkpoint(tmp_path / "student" / "last.safetensors").tensors
    assert not any("teacher" in name or "token_embed" in name for name in tensors)
    again = Trainer(cfg, tmp_path / "again", World())
    again.fit()
    for name, value in read_checkpoint(tmp_path / "again" / "last.safetensors").tensors.items():
        np.testing.assert_array_equal(value, tensors[name], err_msg=name)


def test_teachers_that_do_not_fit(taught, tmp_path):
    experiment, overrides = taught
    for more, message in (
        (
            ["model.head.num_classes=5"],
            r"task\.teacher\.config: .*knows 3 classes and the student 5 \(model\.head\.num_classes\)",
        ),
        (["model.architecture.img_size=48"], r"takes images of size 32x32 and the student 48x48"),
        (["model.architecture.in_chans=1"], r"takes images with channels 3 and the student 1"),
        (["task.teacher.config=swin_bas"], "did you mean swin_base"),
        (["task.teacher.weights=null"], r"task\.teacher\.weights: .*write task\.teacher\.weights=FILE"),
    ):
        cfg = load_config(experiment, [*overrides, *more])
        model = cfg.model.build()
        with pytest.raises(ConfigError, match=message):
            prepared(cfg, model)
    other_head = "model.head={name: LinearHead, num_classes: 3, in_channels: 16}"
    cfg = load_config(experiment, [*overrides, "model.architecture.distilled=false", other_head])
    message = r"model\.head\.name: .* LinearHead has none: take DistilledHead .* or write task: null"
    with pytest.raises(ConfigError, match=message):
        Trainer(cfg, tmp_path / "run", World())
    cfg = load_config(experiment, overrides)
    model = cfg.model.build()
    with pytest.raises(
        CheckpointError, match=r"was trained on the classes \['a b', 'c', '猫'\], the data have"
    ):
        prepared(cfg, model, ["a", "b", "c"])
    cfg = load_config(
        experiment, [*overrides, "task.teacher.config=deit_tiny", "model.head.num_classes=1000"]
    )
    cfg.model.architecture.img_size = 224
    model = cfg.model.build()
    with pytest.raises(CheckpointError, match=r"best\.safetensors doesn't fit the model"):
        prepared(cfg, model)


def student_of(experiment, overrides) -> tuple:
    cfg = load_config(experiment, overrides)
    return cfg, cfg.model.build()


INCEPTION = "{name: Normalize, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"


@pytest.mark.parametrize("known_by", ["checkpoint", "config", "nothing"])
def test_a_teacher_of_other_normalisation(taught, tmp_path, known_by, caplog):
    """Told from the checkpoint, or for bare weights from the config; where neither says, the user has to."""
    experiment, overrides = taught
    saved = read_checkpoint(tmp_path / "teacher" / "best.safetensors")
    said_by = str(saved.path)
    if known_by != "checkpoint":
        save_file(saved.part(saved.meta["best_by"]), tmp_path / "bare.safetensors")
        said_by = f"{tmp_path}/teacher/config.yaml"
        overrides = [*overrides, f"task.teacher.weights={tmp_path}/bare.safetensors"]
    if known_by == "nothing":
        model = load_config(experiment).to_dict()["model"]
        (tmp_path / "model.yaml").write_text(Config(model=model).dump())
        overrides = [*overrides, f"task.teacher.config={tmp_path}/model.yaml"]
    prepared(*student_of(experiment, overrides))
    assert ("neither the weights nor the config" in caplog.text) == (known_by == "nothing")
    other = [
        *overrides,
        *(f"dataloader.{split}.dataset.transforms.2={INCEPTION}" for split in ("train", "val")),
    ]
    cfg, model = student_of(experiment, other)
    if known_by == "nothing":
        caplog.clear()
        prepared(cfg, model)
        assert "see that it is with mean [0.5, 0.5, 0.5] and std [0.5, 0.5, 0.5]" in caplog.text
        return
    with pytest.raises(ConfigError) as raised:
        prepared(cfg, model)
    text = str(raised.value)
    key = "weights" if known_by == "checkpoint" else "config"
    assert (
        f"command line: task.teacher.{key}: by '{said_by}' the teacher's images are normalised with" in text
    )
    assert "mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225], the student's" in text
    assert (
        "with [0.5, 0.5, 0.5] and [0.5, 0.5, 0.5], and both get the same images: give both Normalize" in text
    )


@pytest.mark.parametrize("name", list_models("*_distilled"))
def test_the_zoos_recipes_want_a_teacher(name, sampled_starts):
    cfg = load_config(CONFIGS / name.split("_")[0] / f"{name}.yaml")
    model = create_model(name)
    assert isinstance(build_task(cfg.task, cfg.loss, trial=True), ClassificationTask)
    place = (
        r"configs/_base_/distillation.yaml:\d+: task.teacher.weights: .* or train without one by task=null"
    )
    with pytest.raises(ConfigError, match=place):
        prepared(cfg, model)
    assert cfg.task == {
        "name": "DistillationTask",
        "kind": "hard",
        "alpha": 0.5,
        "teacher": {"config": "swin_base", "weights": None},
    }
    task = DistillationTask(teacher=cfg.task.teacher)
    assert (task.kind, task.alpha, task.tau) == ("hard", 0.5, 1.0)


def test_dry_run_and_training_of_a_recipe_without_a_teacher(experiment, invoke):
    small = ["img_size=32", "embed_dim=16", "depth=2", "num_heads=2"]
    overrides = [f"model.architecture.{setting}" for setting in small]
    overrides += [
        "model.head.num_classes=3",
        "model.head.in_channels=16",
        f"output_dir={experiment.parent}/o",
    ]
    for split in ("train", "val"):
        overrides += [f"dataloader.{split}.dataset.dataroot={experiment.parent}/{split}"]
        overrides += [f"dataloader.{split}.loader.num_workers=0"]
    overrides += ["dataloader.train.sampler.batch_size=8"]
    command = ("train", "-c", "deit_tiny_distilled", "-o", *overrides)
    done = invoke(*command, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "task.teacher.weights is not given: the estimate is for training without it" in done.stdout
    done = invoke(*command)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "task.teacher.weights: the recipe learns from a teacher" in done.stderr
    done = invoke(*command, "task=null", "epochs=1", "lr_scheduler.warmup_epochs=0")
    assert done.returncode == 0, done.stderr


def test_alpha_may_be_a_schedule(taught):
    experiment, overrides = taught
    cfg = load_config(experiment, [*overrides, "task.alpha={'0': 0.75, '2': 0.25}"])
    model = cfg.model.build()
    task = prepared(cfg, model)
    model.train()
    batch = {"image": paddle.randn([2, 3, 32, 32]), "label": paddle.to_tensor([0, 1])}
    for epoch, alpha in ((0, 0.75), (1, 0.75), (2, 0.25), (9, 0.25)):
        task.set_epoch(epoch)
        values = {name: float(value) for name, value in task.step(model, batch).items()}
        expected = (1 - alpha) * values["base_loss"] + alpha * values["distillation_loss"]
        assert abs(values["loss"] - expected) < 1e-6
