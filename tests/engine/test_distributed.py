"""Several processes on gloo: what they compute equals what one computes on the joined batch."""

import signal
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import paddle
import pytest

from passl_sot.config.loader import ConfigError
from passl_sot.engine.distributed import World, start
from passl_sot.engine.logging import read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.sync_batch_norm import SyncBatchNorm2D, synchronize_batch_norm
from passl_sot.engine.trainer import Trainer
from passl_sot.nn.initializers import batch_norm
from passl_sot.weights.checkpoint import read_checkpoint

QUIET = ("epochs=1", "model.architecture.drop_path_rate=0", "model.architecture.drop_rate=0")


def same_update(first: Path, second: Path) -> None:
    """One update from the same start: gradients, by Adam's first moment, and what became of the weights."""
    one, two = read_checkpoint(first), read_checkpoint(second)
    assert one.meta["progress"]["step"] == two.meta["progress"]["step"] == 1
    assert one.tensors.keys() == two.tensors.keys()
    moments = {name: m for name, m in one.part("optimizer").items() if "moment1" in name}
    assert len(moments) > 20
    for name, moment in moments.items():
        np.testing.assert_allclose(two.part("optimizer")[name], moment, rtol=1e-4, atol=1e-6, err_msg=name)
        weight = name.split("|")[0]
        certain = np.abs(moment) > 1e-5  # Adam divides by the size: without one, it follows rounding errors
        a, b = (saved.part("model")[weight][certain] for saved in (one, two))
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6, err_msg=weight)


def test_joined_statistics_are_those_of_the_joined_batch():
    """In one process, where the sum over all processes is its own."""
    paddle.seed(3)
    x = paddle.randn([4, 3, 5, 6]) * 3 + 1
    weights = paddle.randn(x.shape)
    results = []
    for joined in (False, True):
        model = paddle.nn.Sequential(paddle.nn.Conv2D(3, 3, 1, bias_attr=False), batch_norm(3))
        model[0].weight.set_value(paddle.eye(3).reshape([3, 3, 1, 1]) + 0.1)
        model[1].weight.set_value(paddle.to_tensor([0.5, 2.0, -1.0]))
        names = list(model.state_dict())
        if joined:
            assert synchronize_batch_norm(model, lambda tensor: tensor) == 1
            assert isinstance(model[1], SyncBatchNorm2D)
            assert list(model.state_dict()) == names
        y = model(x)
        (y * weights).sum().backward()
        model.eval()
        results.append([y, *(p.grad for p in model.parameters() if p.grad is not None)])
        results[-1] += [model[1]._mean, model[1]._variance, model(x)]
    assert len(results[0]) == 7
    for plain, joined in zip(*results, strict=True):
        np.testing.assert_allclose(joined.numpy(), plain.numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.slow
def test_synchronised_batch_norm_in_two_processes_equals_one(experiment, launch, tmp_path):
    settings = (*QUIET, "model.architecture.token_embed=DenseNet", "+distributed={sync_batch_norm: true}")
    one = load_config(experiment, [*settings, "dataloader.train.sampler.batch_size=24"])
    Trainer(one, tmp_path / "one", World()).fit()
    half = ("dataloader.train.sampler.batch_size=12", f"output_dir={tmp_path}/two")
    done = launch(2, "-c", experiment, "-o", *settings, *half)
    assert done.returncode == 0, done.stdout
    paths = tmp_path / "one" / "last.safetensors", tmp_path / "two" / "run" / "last.safetensors"
    same_update(*paths)
    a, b = (read_checkpoint(path).part("model") for path in paths)
    statistics = [name for name in a if name.endswith(("_mean", "_variance"))]
    assert len(statistics) > 2
    for name in statistics:
        np.testing.assert_allclose(b[name], a[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_three_processes_that_accumulate_equal_one(experiment, launch, tmp_path):
    settings = (*QUIET, "lr_scheduler.reference_batch=24")
    one = load_config(experiment, [*settings, "dataloader.train.sampler.batch_size=24"])
    Trainer(one, tmp_path / "one", World()).fit()
    sizes = ("dataloader.train.sampler.batch_size=4", "dataloader.val.sampler.batch_size=2")
    done = launch(3, "-c", experiment, "-o", *settings, *sizes, f"output_dir={tmp_path}/three")
    assert done.returncode == 0, done.stdout
    assert "4 per device x 3 device(s) x 2 accumulated = 24" in done.stdout
    same_update(tmp_path / "one" / "last.safetensors", tmp_path / "three" / "run" / "last.safetensors")
    one, three = (
        [(r["kind"], r["top1"], r["images"]) for r in read_metrics(folder / "metrics.jsonl") if "top1" in r]
        for folder in (tmp_path / "one", tmp_path / "three" / "run")
    )
    assert one == three
    assert {images for _, _, images in three} == {9}


@pytest.mark.slow
def test_sharding_equals_plain_and_resumes(experiment, launch, tmp_path):
    """The checkpoint holds the whole optimiser, so plain runs can go on with it as well."""
    settings = ("-o", "dataloader.train.sampler.batch_size=4", "+distributed={sharding: 1}")
    plain = launch(2, "-c", experiment, "-o", settings[1], f"output_dir={tmp_path}/plain")
    assert plain.returncode == 0, plain.stdout
    folder = f"output_dir={tmp_path}/sharded"
    begun = launch(2, "-c", experiment, *settings, folder, "checkpoint.interval=1")
    assert begun.returncode == 0, begun.stdout
    sharded = tmp_path / "sharded" / "run"
    for name in ("last", "best"):
        (sharded / f"{name}.safetensors").unlink()
    again = launch(2, "-c", experiment, *settings, folder, "--resume", sharded / "epoch_0001.safetensors")
    assert again.returncode == 0, again.stdout
    assert "resuming from" in again.stdout
    a = read_checkpoint(tmp_path / "plain" / "run" / "last.safetensors").tensors
    for path in ("epoch_0002", "last"):
        b = read_checkpoint(sharded / f"{path}.safetensors").tensors
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(b[name], a[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_resuming_in_another_number_of_processes(experiment, launch, tmp_path):
    """Stopped after one of three updates in one process; two then read the images that are left."""
    settings = (*QUIET, "lr_scheduler.reference_batch=8")
    cfg = load_config(experiment, [*settings, "dataloader.train.sampler.batch_size=8"])
    whole = Trainer(cfg, tmp_path / "whole", World())
    whole.fit()
    cut = Trainer(cfg, tmp_path / "cut" / "run", World())

    def stop(*_):
        cut.stop.signal = signal.SIGTERM

    cut.model.register_forward_post_hook(stop)
    assert cut.fit() is None
    assert cut.progress.step == 1
    size = "dataloader.train.sampler.batch_size"
    more = (f"{size}=2", f"output_dir={tmp_path}/cut", "--resume", "auto", "--resume-override", size)
    done = launch(2, "-c", experiment, "-o", *settings, *more)
    assert done.returncode == 0, done.stdout
    assert "epoch 1, batch 2, 1 updates" in done.stdout
    a, b = (read_checkpoint(tmp_path / name / "last.safetensors") for name in ("whole", "cut/run"))
    assert b.meta["progress"]["step"] == a.meta["progress"]["step"] == 3
    for name, value in a.part("optimizer").items():
        np.testing.assert_allclose(b.part("optimizer")[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("stage", [2, 3])
def test_sharding_that_paddle_has_for_gpus_alone(stage):
    with pytest.raises(ConfigError, match=f"distributed.sharding: stage {stage} works on GPUs only"):
        start("cpu", sharding=stage)


def test_gradients_are_exchanged_once_an_update():
    class Wrapped:
        held = 0

        def no_sync(self):
            self.held += 1
            return nullcontext()

    model, world = Wrapped(), World(size=2)
    for more in (True, True, False):
        with world.accumulating(model, more):
            pass
    assert model.held == 2
