"""Weights of classes and of losses, in whole runs."""

import numpy as np
import paddle
import pytest

from passl_sot.config import ConfigError
from passl_sot.engine.distributed import World
from passl_sot.engine.run_dir import read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.tasks.base import build_task

SUM = "model.head.fusion_type=sum_loss"


def train(experiment, folder, *overrides):
    trainer = Trainer(load_config(experiment, overrides), folder, World())
    trainer.fit()
    rows = read_metrics(folder / "metrics.jsonl")
    return trainer, [row for row in rows if row["kind"] == "train"]


def test_class_weights_follow_the_folders(experiment, tmp_path):
    for number in range(2, 8):
        (tmp_path / "train" / "c" / f"{number}.png").unlink()
    trainer, rows = train(experiment, tmp_path / "run", "epochs=1", "+loss.class_weights=auto")
    counts = trainer.train_loader.dataset.class_counts()
    assert sorted(counts.tolist()) == [2, 8, 8]
    np.testing.assert_allclose(trainer.task.loss.weights.numpy(), 18 / (3 * counts), rtol=1e-6)
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_weights_for_another_number_of_classes(experiment, tmp_path):
    cfg = load_config(experiment, ["+loss.class_weights=[1, 2]"])
    with pytest.raises(ConfigError, match=r"loss\.class_weights: has 2 entries for 3 classes"):
        Trainer(cfg, tmp_path / "run", World())


def test_a_schedule_of_loss_weights(experiment, tmp_path):
    """The log has each loss, and their weighted sum by the epoch's weights."""
    task = "+task={name: ClassificationTask, weights: [1.0, {0: 0.0, 1: 0.5}]}".replace("0:", "'0':")
    _, rows = train(experiment, tmp_path / "run", SUM, task.replace("1: 0.5", "'1': 0.5"))
    assert len(rows) == 6
    for row in rows:
        second = 0.0 if row["epoch"] == 1 else 0.5
        assert row["loss"] == pytest.approx(row["loss_0"] + second * row["loss_1"], rel=1e-5)


def test_as_many_weights_as_outputs(experiment):
    cfg = load_config(experiment, ["+task={name: ClassificationTask, weights: [1.0, 0.5]}"])
    model = cfg.model.build()
    task = build_task(cfg.task, cfg.loss)
    batch = {"image": paddle.randn([2, 3, 32, 32]), "label": paddle.to_tensor([0, 2])}
    with pytest.raises(ConfigError, match=r"task\.weights: has 2 entries, and the head gives 1 output"):
        task.step(model, batch)


def test_schedules_begin_at_epoch_0(experiment):
    cfg = load_config(experiment, ["+task={name: ClassificationTask, weights: [{'3': 0.5}]}"])
    with pytest.raises(ConfigError, match=r"task\.weights: a schedule starts at epoch 0, got"):
        build_task(cfg.task, cfg.loss)


def test_a_binary_loss_learns(experiment, tmp_path):
    """With the threshold of DeiT III on mixed batches."""
    mixed = "dataloader.train.dataset.batch_transforms=[{name: Mixup, num_classes: 3, label_smoothing: 0.0}]"
    settings = ("epochs=6", "lr_scheduler.learning_rate=0.01", mixed)
    loss = "loss={name: BinaryCrossEntropyLoss, target_threshold: 0.0}"
    trainer, rows = train(experiment, tmp_path / "run", *settings, loss)
    assert rows[-1]["loss"] < rows[0]["loss"] < 1
    assert trainer.progress.best > 50
