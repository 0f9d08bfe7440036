"""Averages of checkpoints: the mean by hand, the greedy choice, what is refused, the written checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest

from passl_sot import Predictor
from passl_sot.weights import CheckpointError
from passl_sot.weights.average import WeightSum
from passl_sot.weights.checkpoint import read_checkpoint, read_weights


def test_the_mean_of_weights():
    rng = np.random.default_rng(0)
    models = [
        {
            "w": rng.normal(size=(3, 2)).astype(np.float32),
            "n._variance": rng.random(2, np.float32),
            "k": np.arange(3),
        }
        for _ in range(3)
    ]
    total = WeightSum()
    for number, model in enumerate(models):
        total = total.plus(model, str(number))
    mean = total.mean()
    for name in ("w", "n._variance"):
        wanted = np.mean([model[name].astype(np.float64) for model in models], axis=0).astype(np.float32)
        np.testing.assert_array_equal(mean[name], wanted)
    np.testing.assert_array_equal(mean["k"], np.arange(3))
    assert mean["k"].dtype == np.int64 and mean["w"].dtype == np.float32
    assert total.statistics() == 1
    for other, words in (
        ({**models[0], "k": np.ones(3, int)}, "other whole numbers"),
        ({**models[0], "w": np.zeros((2, 3))}, r"w is \[2, 3\], and \[3, 2\] in the first"),
        ({**models[0], "more": np.zeros(1)}, "more is in one alone"),
        ({"w": models[0]["w"]}, "k is in one alone"),
    ):
        with pytest.raises(CheckpointError, match=words):
            total.plus(other, "other")
    assert total.count == 3


def shifted(by: float):
    return lambda arrays: {name: array + by for name, array in arrays.items() if name.startswith("model.")}


def test_the_uniform_average_is_a_checkpoint_like_others(small, variant, invoke, tmp_path):
    others = [variant("b", shifted(0.2)), variant("c", shifted(-0.1))]
    out = tmp_path / "out" / "metrics.json"
    done = invoke("eval", "--weights", small.checkpoint, *others, "--average", "--out", out)
    assert done.returncode == 0, done.stderr
    path = out.parent / "average.safetensors"
    arrays, meta = read_weights(path)
    first = read_weights(small.checkpoint)[0]
    for name, array in first.items():
        np.testing.assert_allclose(array + (0.2 - 0.1) / 3, arrays[name], atol=1e-6)
    made = meta["average"]
    assert made["recipe"] == "uniform" and made["batch_norm_averaged"] == 0
    assert [part["file"] for part in made["of"]] == [str(small.checkpoint), *map(str, others)]
    assert {part["weights"] for part in made["of"]} == {"raw"} and len(made["of"][0]["sha256"]) == 64
    assert "progress" in meta and not meta["progress"]
    again = tmp_path / "again" / "metrics.json"
    assert invoke("eval", "--weights", path, "--out", again).returncode == 0
    report = json.loads(out.read_text())
    assert report["raw"] == json.loads(again.read_text())["raw"] and report["weights"] == str(path)
    assert len(Predictor(path)(small.val[0])) == 3


def test_the_greedy_soup_leaves_out_what_makes_it_worse(small, variant, invoke, tmp_path):
    # The data that a model is right on: images in folders by its own predictions.
    predictor = Predictor(small.checkpoint)
    for number, path in enumerate(path for paths in small.val for path in paths):
        folder = tmp_path / "own" / predictor(path)[0].names[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").symlink_to(path)
    assert len(list((tmp_path / "own").iterdir())) > 1

    def ruined(arrays):
        return {name: -4 * array if "_fc" in name else array for name, array in arrays.items()}

    bad = variant("bad", ruined)
    near = variant("near", shifted(1e-6))
    out = tmp_path / "metrics.json"
    weights = ["--weights", bad, near, small.checkpoint]
    done = invoke("eval", *weights, "--average", "greedy", "--data", tmp_path / "own", "--out", out)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["top1"] == 100
    made = read_checkpoint(tmp_path / "average.safetensors").meta["average"]
    # Of equal scores the first named comes first.
    assert made["recipe"] == "greedy"
    assert [part["file"] for part in made["of"]] == [str(near), str(small.checkpoint)]
    assert f"{bad}: " in done.stdout and "left out" in done.stdout and "optimistic" in done.stdout


def renamed(meta):
    return {**meta, "class_names": ["a b", "dog", "猫"]}


def resized(meta):
    steps = [
        {**step, "crop_pct": 0.5} if step["name"] == "Resize" else step
        for step in meta["preprocessing"]["transforms"]
    ]
    return {**meta, "preprocessing": {**meta["preprocessing"], "transforms": steps}}


def remodelled(**changes):
    def change(meta):
        model = meta["config"]["model"]
        architecture = {**model["architecture"], **changes}
        return {**meta, "config": {**meta["config"], "model": {**model, "architecture": architecture}}}

    return change


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (renamed, "class 1 is 'c' and 'dog'"),
        (resized, "preprocessing.transforms.0.crop_pct"),
        (remodelled(mlp_ratio=3.0), "model.architecture.mlp_ratio: 2.0 -> 3.0"),
    ],
)
def test_others_are_refused_with_the_first_difference(small, variant, invoke, header, words):
    other = variant("other", header=header)
    done = invoke("eval", "--weights", small.checkpoint, other, "--average")
    assert done.returncode == 2 and f"{other} can't be averaged with {small.checkpoint}" in done.stderr
    assert words in done.stderr


def test_rates_of_the_training_may_differ(small, variant, invoke):
    other = variant("other", header=remodelled(drop_path_rate=0.0))
    assert invoke("eval", "--weights", small.checkpoint, other, "--average").returncode == 0


def test_what_is_no_checkpoint_is_named(small, tmp_path, invoke):
    from safetensors.numpy import save_file

    bare = tmp_path / "bare.safetensors"
    save_file({"a": np.zeros(1)}, bare)
    done = invoke("eval", "--weights", small.checkpoint, bare, "--average")
    assert done.returncode == 2 and f"{bare} it is no" not in done.stderr and str(bare) in done.stderr
    for words in (["--average"], ["--weights", small.checkpoint, small.checkpoint]):
        done = invoke("eval", "--weights", small.checkpoint, *words)
        assert done.returncode == 2 and "--average" in done.stderr


def test_two_processes_choose_and_score_as_one(small, variant, launch, invoke, tmp_path):
    near = variant("near", shifted(1e-6))
    words = ["--weights", small.checkpoint, near, "--average", "greedy", "--out"]
    script = Path(__file__).parents[2] / "tools" / "eval.py"
    done = launch(2, *words, tmp_path / "two" / "metrics.json", script=script)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("optimistic") == 1
    assert invoke("eval", *words, tmp_path / "one" / "metrics.json").returncode == 0
    two, one = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("two", "one"))
    assert two["images"] == 9 and two["raw"] == pytest.approx(one["raw"], rel=1e-5)
    assert two["reliability"] == [pytest.approx(row, rel=1e-5) for row in one["reliability"]]
    made = [read_checkpoint(tmp_path / name / "average").meta["average"] for name in ("two", "one")]
    assert made[0] == made[1]
