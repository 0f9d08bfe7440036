"""Headers of checkpoints with a valid checksum and odd contents: one clear error, or they are used."""

import contextlib
import copy
import logging
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from passl_sot import Predictor
from passl_sot.cli.data_folder import Source
from passl_sot.config import UserError
from passl_sot.engine.build import Parts
from passl_sot.engine.distributed import World
from passl_sot.engine.entry import evaluate_run
from passl_sot.engine.resume import accept_changes, begin, other_keys
from passl_sot.engine.run_dir import RunFolder, read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.train_state import check_run_card
from passl_sot.engine.trainer import Trainer
from passl_sot.weights.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from passl_sot.weights.find import find_state_dict, read_source
from passl_sot.weights.state import load_model

CUT = ("epochs=2", "checkpoint.update_interval=1")


@pytest.fixture(scope="module")
def run(write_experiment, tmp_path_factory):
    """A run that stopped in the middle of its second epoch: experiment, parts built anew, checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    experiment = load_config(write_experiment(folder), CUT)
    trainer = Trainer(experiment, folder / "output" / "run", World())
    agree = trainer._agree

    def stop_at_the_fifth(bad, stop, **more):
        return agree(bad, 2 if trainer.progress.step == 4 else stop, **more)

    trainer._agree = stop_at_the_fifth
    trainer.fit()
    saved = read_checkpoint(folder / "output" / "run" / "last.safetensors", check_run_card)
    assert saved.meta["progress"]["batches"] == 2
    return experiment, Parts(experiment, World()), saved


def written(run, folder: Path, **changes) -> Path:
    """The run's checkpoint with other values at dotted places ("__" for dots); ... takes a key out."""
    meta = copy.deepcopy(run[2].meta)
    for place, value in changes.items():
        *way, last = place.split("__")
        node = meta
        for part in way:
            node = node[part]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    write_checkpoint(folder / "last.safetensors", run[2].tensors, meta)
    return folder / "last.safetensors"


def places(value, path=()) -> list[tuple]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    return found + [place for key, item in items for place in places(item, (*path, key))]


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth else []


SMALL = [None, True, -1, 0, 1, 1.5, float("nan"), "", "x", "${a.b}", "\ud800", [], [1], [None], {}, {"a": 1}]
SMALL += [{"name": "x"}, {"name": ["x"]}, [{"name": "Normalize"}], nested(90), nested(120)]
LARGE = [2**70, 10**400, float("inf"), "x" * 10_000]


def mutate(rng: random.Random, meta: dict) -> None:
    for _ in range(rng.randint(1, 2)):
        # Sections first: what is far below in the config is as many as all the rest.
        depth = rng.choice([1, 2, 2, 3, 9])
        *way, last = rng.choice([p for p in places(meta) if len(p) <= depth])
        node = meta
        for part in way:
            node = node[part]
        # Enormous models and images are refused elsewhere, and are not to be built here.
        values = SMALL if way[:1] in (["config"], ["preprocessing"]) else SMALL + LARGE
        change = rng.choice(["replace", "replace", "remove", "add"])
        if change == "remove":
            del node[last]
        elif change == "add" and isinstance(node, dict):
            node["of_a_newer_version"] = copy.deepcopy(rng.choice(values))
        else:
            node[last] = copy.deepcopy(rng.choice(values))


# Without shrinking, which would take minutes: the failure shows the header.
@settings(max_examples=60, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_any_header_is_used_or_refused_in_words(run, tmp_path_factory, seed):
    experiment, parts, saved = run
    meta = copy.deepcopy(saved.meta)
    mutate(random.Random(seed), meta)
    path = tmp_path_factory.mktemp("mutated") / "last.safetensors"
    images = Path(saved.meta["config"]["dataloader"]["val"]["dataset"]["dataroot"])
    write_checkpoint(path, saved.tensors, meta)

    def resume() -> None:
        found = read_checkpoint(path, check_run_card)
        with contextlib.suppress(CheckpointError):  # of other settings
            accept_changes(found, experiment.to_dict(), [])
        assert isinstance(other_keys(found, saved.meta), str)
        begin(parts, experiment.ema, found, None, None, lambda text, *values: text % values)

    def predict() -> None:
        Predictor(path)(np.zeros((40, 36, 3), np.uint8))

    def convert() -> None:
        find_state_dict(read_source(path))

    def evaluate() -> None:
        evaluate_run(experiment, str(path), None, World())

    def alone() -> None:
        source = Source.of(None, str(path))
        source.require_data(source.load(()))
        source.on_folder(str(images), (), training=False)

    # Any error but these ends a command with a traceback.
    with contextlib.suppress(UserError):
        RunFolder(path.parent).latest()
    for use in (resume, predict, convert, evaluate, alone):
        with contextlib.suppress(UserError):
            use()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("progress__epoch", ..., r"is incomplete: its header has no progress\.epoch"),
        ("progress__epoch", -1, r"progress\.epoch in its header is no count"),
        ("progress__step", True, r"progress\.step in its header is a bool, not a int"),
        ("progress__best", "x", r"progress\.best in its header is a str, not a float"),
        ("progress__best_step", -2, r"progress\.best_step in its header is no count"),
        ("progress__loss_scale", float("nan"), r"progress\.loss_scale in its header is not finite"),
        ("progress", [1], "progress in its header is a list, not a dict"),
        ("sampler", ..., "its header has no sampler"),
        ("sampler__consumed", None, r"sampler\.consumed in its header is a NoneType, not a int"),
        ("ema_updates", ..., "its header has no ema_updates"),
        ("config__task", "x", r"config\.task in its header is a str, not a dict"),
        ("config__task", {"name": "New"}, "written by version .* describes what can't be built here"),
        ("config__model__head__new", 1, r"describes what can't be built here: (.|\n)*has no argument 'new'"),
        ("preprocessing__channels", "x", r"preprocessing\.channels in its header is a str"),
        ("preprocessing__colour", "BGR", r"prepares its input by colour .* doesn't know: update passl_sot"),
        ("preprocessing__transforms", [{"name": "New"}], "can't be built here: (.|\n)*'New'"),
        ("class_names", ["\ud800", "b", "c"], "is damaged: its header is no JSON text"),
        ("python", nested(120), "is damaged: its header has sections in each other, 122 deep"),
    ],
)
def test_what_is_missing_or_odd_is_named(run, tmp_path, place, value, message):
    path = written(run, tmp_path, **{place: value})
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path, check_run_card)
    assert str(path) in str(caught.value)


def test_what_newer_and_older_versions_write_is_named_and_no_more(run, tmp_path, caplog):
    """A newer version's keys are left aside; what an older one didn't have begins anew."""
    experiment = run[0]
    newer = {"progress__level": 3, "sampler__folds": 2, "mood": "good", "version": "9.9"}
    path = written(run, tmp_path, **newer, progress__best_step=...)
    with caplog.at_level(logging.INFO, "passl_sot"):
        Trainer(experiment, tmp_path, World(), resume=str(path)).folder.close()
    assert (
        f"{path} was written by version 9.9 of passl_sot; left aside: mood, progress.level, sampler.folds; "
        "not in it, begun anew: progress.best_step"
    ) in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "passl_sot"):
        Trainer(experiment, tmp_path, World(), resume=str(written(run, tmp_path))).folder.close()
    assert "was written by version" not in caplog.text


def test_tensors_of_another_run_are_named(run, tmp_path):
    """With a valid checksum, too."""
    experiment, parts, saved = run
    for name, message in (
        ("optimizer.x|_m", r"last\.safetensors: the optimizer's state 'x\|_m' is of no parameter"),
        ("ema.x", "its averaged weights don't fit the model"),
        ("model.x", "unexpected x"),
        ("optimizer.head.cls_fc.weight|_m", "is \\[2\\], not its parameter's shape"),
    ):
        path = tmp_path / "last.safetensors"
        write_checkpoint(path, {**saved.tensors, name: np.ones(2, "f4")}, saved.meta)
        with pytest.raises(CheckpointError, match=message):
            begin(parts, experiment.ema, read_checkpoint(path), None, None, lambda *_: None)


def test_images_of_another_size_are_no_traceback(run, tmp_path):
    experiment, _, saved = run
    transforms = [{"name": "CenterCrop", "size": 16}, *saved.meta["preprocessing"]["transforms"][-1:]]
    path = written(run, tmp_path, preprocessing__transforms=transforms)
    with pytest.raises(CheckpointError, match="prepares inputs that its model doesn't take"):
        Predictor(path)(np.zeros((40, 36, 3), np.uint8))
    with pytest.raises(
        CheckpointError, match="prepares images that its model doesn't take: images become 16x16"
    ):
        evaluate_run(experiment, str(path), None, World())


def test_complex_weights_and_pipes_are_refused(run, tmp_path):
    """Of complex numbers the half would be dropped; opening a pipe waits without end."""
    parts, saved = run[1:]
    weights = saved.part("model")
    name = next(iter(weights))
    with pytest.raises(CheckpointError, match=f"{name} holds complex numbers"):
        load_model(parts.model, {**weights, name: weights[name].astype("c8")}, "x")
    os.mkfifo(tmp_path / "last.safetensors")
    write_checkpoint(tmp_path / "previous.safetensors", saved.tensors, saved.meta)
    assert RunFolder(tmp_path).latest().path.name == "previous.safetensors"


@pytest.mark.parametrize("damage", [b"[]\n", b"\xff\xfe\n", b'{"kind": "train"}\n', b"\0" * 50])
def test_rows_of_a_damaged_record(tmp_path, damage):
    whole = b'{"kind": "train", "step": 0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole + damage + whole)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"kind": "train", "step": 0}]
