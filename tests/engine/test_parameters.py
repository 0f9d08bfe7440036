"""Runs that freeze parameters and give others a share of the learning rate."""

import numpy as np
import pytest

from passl_sot import cli
from passl_sot.engine.distributed import World
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.weights.checkpoint import read_checkpoint

SETTINGS = (
    "parameters.freeze=[backbone.blocks.0.*]",
    "parameters.lr_factors=[{pattern: 'backbone.*', factor: 0.5}]",
)


def test_a_run(experiment, tmp_path, capfd):
    trainer = Trainer(load_config(experiment, ["epochs=2", *SETTINGS]), tmp_path / "run", World())
    before = {name: value.numpy() for name, value in trainer.model.state_dict().items()}
    trainer.fit()
    said = capfd.readouterr().out
    assert said.count("parameter group") == 1
    assert "frozen" in said and "backbone.*" in said and "x 0.5" in said
    after = read_checkpoint(tmp_path / "run" / "last.safetensors")
    for name, value in after.part("model").items():
        same = np.array_equal(value, before[name])
        assert same == name.startswith("backbone.blocks.0."), name
    assert not any(name.startswith("backbone.blocks.0.") for name in after.part("optimizer"))


@pytest.mark.parametrize("optimizer", ["Momentum", "SGD", "Lamb"])
def test_resuming_with_another_optimizer_than_adamw(experiment, tmp_path, optimizer):
    """Two epochs at once equal one and one more, with groups, bit by bit."""
    settings = [f"optimizer={{name: {optimizer}}}", *SETTINGS, "parameters.layer_decay=0.8"]

    def run(folder, epochs, **more):
        cfg = load_config(experiment, [*settings, f"epochs={epochs}", "lr_scheduler.T_max=2"])
        Trainer(cfg, tmp_path / folder, World(), **more).fit()
        return read_checkpoint(tmp_path / folder / "last.safetensors").tensors

    whole = run("whole", 2)
    run("parts", 1)
    parts = run("parts", 2, resume="auto", resume_override=["epochs"])
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, err_msg=name)


def test_dry_run_shows_the_groups(experiment, capfd):
    assert cli.train(["-c", str(experiment), "--dry-run", "-o", *SETTINGS]) == 0
    said = capfd.readouterr().out
    assert "parameter group" in said and "frozen" in said


def test_a_pattern_that_matches_nothing_ends_the_run(experiment, capfd):
    for more in ([], ["--dry-run"]):
        assert cli.train(["-c", str(experiment), *more, "-o", "parameters.freeze=[bakbone.*]"]) == 2
        error = capfd.readouterr().err
        assert "parameters.freeze.0: 'bakbone.*' matches no trainable parameter; nearest: backbone.*" in error
