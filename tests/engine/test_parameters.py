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


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["Momentum", "Lamb"])
def test_two_processes_train_groups_as_one_does(experiment, launch, tmp_path, optimizer):
    """Frozen parameters, rates by pattern and layer, balanced epochs; plain and with the state divided."""
    quiet = ("epochs=1", "model.architecture.drop_path_rate=0", "model.architecture.drop_rate=0")
    more = ("dataloader.train.sampler.balanced=true", "parameters.layer_decay=0.8", "seed=3")
    settings = (*quiet, *SETTINGS, *more, f"optimizer={{name: {optimizer}, weight_decay: 0.1}}")
    cfg = load_config(experiment, [*settings, "dataloader.train.sampler.batch_size=24"])
    Trainer(cfg, tmp_path / "one", World()).fit()
    one = read_checkpoint(tmp_path / "one" / "last.safetensors").part("model")
    for name, sharding in (("two", 0), ("divided", 1)):
        half = ("dataloader.train.sampler.batch_size=12", f"output_dir={tmp_path}/{name}")
        done = launch(2, "-c", experiment, "-o", *settings, *half, f"+distributed={{sharding: {sharding}}}")
        assert done.returncode == 0, done.stdout
        two = read_checkpoint(tmp_path / name / "run" / "last.safetensors").part("model")
        for key, value in one.items():
            np.testing.assert_allclose(two[key], value, rtol=0, atol=2e-6, err_msg=f"{name} {key}")
