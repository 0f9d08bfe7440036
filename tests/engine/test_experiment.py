"""The schema of a whole file: impossible values are told at once, before training."""

from pathlib import Path

import paddle
import pytest

from passl_sot.config import ConfigError
from passl_sot.engine.build import Parts
from passl_sot.engine.distributed import World
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer

CONFIG = Path(__file__).parents[2] / "configs/sot/sot_tiny.yaml"

BAD = {
    "seed": -1,
    "epochs": 10**30,
    "output_dir": "''",
    "log.interval": 0,
    "checkpoint.interval": 0,
    "ema.decay": 1,
    "dataloader.train.loader.num_workers": -1,
    "dataloader.val.loader.num_workers": 100000,
    "dataloader.train.loader.max_bad": 1.5,
    "dataloader.val.loader.max_bad": -1,
    "dataloader.train.sampler.batch_size": 0,
    "model.head.wr_dim": 0,
    "optimizer.beta1": 1,
    "optimizer.clip_grad": "1e-320",
    "model.architecture.embed_dim": 1000000,
    "model.architecture.depth": 2**63,
    "optimizer.weight_decay": "1e308",
    "lr_scheduler.reference_batch": 2**53,
    "lr_scheduler.learning_rate": "1e18",
    "lr_scheduler.warmup_lr": ".nan",
}


def test_every_bad_value_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config(CONFIG, [f"{key}={value}" for key, value in BAD.items()])
    assert {fault.path for fault in caught.value.faults} == set(BAD)
    assert all(fault.kind == "value" for fault in caught.value.faults)


def test_a_seed_too_large():
    assert load_config(CONFIG, ["seed=2147483647"]).seed == 2**31 - 1
    with pytest.raises(ConfigError, match="seed: must lie in"):
        load_config(CONFIG, ["seed=2147483648"])


def test_bad_values_in_a_file_have_their_lines(tmp_path: Path):
    path = tmp_path / "x.yaml"
    text = f"_base_: {CONFIG}\ndataloader:\n  train:\n    sampler:\n      batch_size: 0\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"x\.yaml:5: dataloader\.train\.sampler\.batch_size: must be at least 1"
    ):
        load_config(path)


def test_sections_that_contradict_each_other():
    with pytest.raises(ConfigError, match="there is no ema section"):
        load_config(CONFIG, ["checkpoint.best_by=ema", "ema=null"])


def test_a_rate_that_would_rise():
    with pytest.raises(ConfigError, match="min_lr is 1e-05, above learning_rate, 1e-06"):
        load_config(CONFIG, ["lr_scheduler.learning_rate=1e-6"])
    load_config(CONFIG, ["lr_scheduler.learning_rate=1e-5"])


def test_a_warm_up_that_would_fall():
    with pytest.raises(ConfigError, match=r"warmup_lr is 0\.5, above learning_rate"):
        load_config(CONFIG, ["lr_scheduler.warmup_lr=0.5"])
    load_config(CONFIG, ["lr_scheduler.warmup_lr=0.5", "lr_scheduler.warmup_epochs=0"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.architecture.depth=1000000", "the model has over 10,000 parameter tensors"),
        ("model.architecture.mlp_ratio=1e308", "SoT: its numbers are too large to compute with"),
        ("model.architecture.mlp_ratio=1e-320", "leaves the MLP of width 16 without a hidden channel"),
        ("model.head.num_classes=9007199254740991", "need more than the .* GB of this machine's memory"),
        ("dataloader.val.dataset.transforms.0.crop_pct=1e-320", "Resize: its numbers are too large"),
        ("dataloader.val.dataset.transforms.0.size=1000000", "it must be 16,384 or less"),
        ("dataloader.val.dataset.transforms.2.std.0=1e-320", r"all must be above 0, in \[1e-6, 1e6\]"),
    ],
)
def test_what_shows_only_when_it_is_built(experiment, change, words):
    with pytest.raises(ConfigError, match=words):
        Parts(load_config(experiment, [change]), World())


def test_a_warm_up_beyond_the_run(experiment, tmp_path):
    """A run that goes on may be cut short inside of it."""
    longer = "lr_scheduler.warmup_epochs=2"
    Trainer(load_config(experiment, [longer]), tmp_path / "run", World()).fit()
    short = load_config(experiment, [longer, "epochs=1"])
    with pytest.raises(ConfigError, match="the warm-up of 2 epochs is longer than the run of 1") as caught:
        Trainer(short, tmp_path / "other", World())
    assert "warmup_epochs" in caught.value.faults[0].path and caught.value.faults[0].origin
    Trainer(short, tmp_path / "run", World(), resume="auto", resume_override=["epochs"])


@pytest.mark.parametrize("bytes_there", [10**5, 10**12])
def test_a_model_beyond_memory(experiment, tmp_path, monkeypatch, bytes_there):
    """Weights, gradients, two moments and the average; a prediction needs the weights alone."""
    monkeypatch.setattr("passl_sot.modeling.schema.machine_memory", lambda: bytes_there)
    cfg = load_config(experiment)
    create = paddle.nn.Layer.create_parameter
    build = lambda: Trainer(cfg, tmp_path / "run", World())  # noqa: E731
    if bytes_there > 10**6:
        build()
    else:
        text = "their gradients and the optimizer's state need more than the 0 GB of this machine's memory"
        with pytest.raises(ConfigError, match=text):
            build()
        assert cfg.model.build()
    assert paddle.nn.Layer.create_parameter is create


def test_batches_beyond_memory(experiment, tmp_path, monkeypatch):
    """Of no more images than there are: a batch size that means "all at once" is no fault."""
    cfg = load_config(experiment, ["dataloader.val.sampler.batch_size=1000000"])
    Trainer(cfg, tmp_path / "run", World())
    monkeypatch.setattr("passl_sot.data.machine_memory", lambda: 9 * 2 * 12288)
    text = r"dataloader\.val\.sampler\.batch_size: 2 batches of 1000000, .*need 0 GB for their images alone"
    with pytest.raises(ConfigError, match=text):
        Trainer(cfg, tmp_path / "run", World())


def test_the_machine_s_memory():
    from passl_sot.utils.memory import machine_memory

    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    assert 0 < machine_memory() <= int(total.split()[1]) * 1024


def test_a_plus_gets_past_no_check():
    assert load_config(CONFIG, ["+ema.decay=0.9"]).ema.decay == 0.9
    with pytest.raises(ConfigError, match="unknown key 'foo'"):
        load_config(CONFIG, ["+foo.bar=1"])
