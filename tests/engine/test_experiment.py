"""The schema of a whole file: impossible values are told at once, before training."""

from pathlib import Path

import pytest

from passl_sot.config import ConfigError
from passl_sot.engine.schema import load_config

CONFIG = Path(__file__).parents[2] / "configs/sot/sot_tiny.yaml"

BAD = {
    "seed": -1,
    "epochs": 0,
    "output_dir": "''",
    "log.interval": 0,
    "checkpoint.interval": 0,
    "ema.decay": 1,
    "dataloader.train.loader.num_workers": -1,
    "dataloader.train.loader.max_bad": 1.5,
    "dataloader.val.loader.max_bad": -1,
    "dataloader.train.sampler.batch_size": 0,
    "model.head.wr_dim": 0,
    "optimizer.beta1": 1,
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


def test_a_plus_gets_past_no_check():
    assert load_config(CONFIG, ["+ema.decay=0.9"]).ema.decay == 0.9
    with pytest.raises(ConfigError, match="unknown key 'foo'"):
        load_config(CONFIG, ["+foo.bar=1"])
