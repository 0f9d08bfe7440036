"""Features are what the last layers take; the file holds what they depend on, and is not made twice."""

import json
import shutil

import numpy as np
import paddle
import pytest
from safetensors import safe_open

from passl_sot.config import UserError
from passl_sot.engine.schema import load_config
from passl_sot.judging.features import FeatureBank, FeatureMaker
from passl_sot.tasks.base import load_trained, task_of
from passl_sot.weights.checkpoint import read_checkpoint

CASES = ("small", "small_text")


def inputs_of(case, meta):
    """The validation items one after the other, as prediction reads them, and the experiment's section."""
    task = task_of(meta)
    section = load_config(case.config).dataloader.val
    samples = [task.read(item) for item in task.items_of(section.dataset, meta)]
    return [[paddle.to_tensor(x) for x in task.inputs(task.collate([s]))] for s in samples]


@pytest.mark.parametrize("name", CASES)
def test_the_last_layers_make_the_models_logits_of_them(name, request, invoke, tmp_path):
    case = request.getfixturevalue(name)
    out = tmp_path / "new" / "val.safetensors"
    done = invoke("features", "--weights", case.checkpoint, "--out", out)
    assert done.returncode == 0, done.stderr
    bank = FeatureBank.read(out)
    model, meta = load_trained(case.checkpoint)
    width = model.head.cls_dim
    found = paddle.to_tensor(bank.features)
    logits = model.head.cls_fc(found[:, :width]) + model.head.visual_fc(found[:, width:])
    wanted = np.concatenate([model(*inputs).numpy() for inputs in inputs_of(case, meta)])
    np.testing.assert_allclose(logits.numpy(), wanted, atol=2e-5)
    assert abs(wanted).max() > 0.1
    by = {"small": "MGCrP", "small_text": "their cross-covariance"}
    assert bank.facts["pooling"] == f"class token, then words by {by[name]}"
    assert bank.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert bank.facts["class_names"] == meta["class_names"]
    with safe_open(out, framework="numpy") as file:  # as a user reads it
        assert json.loads(file.metadata()["passl_sot_features"])["fingerprint"] == bank.facts["fingerprint"]
    if name == "small":
        assert bank.items == {"path": [str(path) for paths in case.val for path in paths]}
    else:
        assert bank.items["text"][2].startswith("the cat sat") and not any(bank.items["text_pair"])


@pytest.mark.parametrize("name", CASES)
def test_other_pools(name, request, invoke, tmp_path):
    case = request.getfixturevalue(name)
    model, meta = load_trained(case.checkpoint)
    for pool in ("token", "words"):
        out = tmp_path / f"{pool}.safetensors"
        done = invoke("features", "--weights", case.checkpoint, "--pool", pool, "--out", out)
        words = {"token": "class token", "words": "mean of words"}[pool]
        assert done.returncode == 0 and f"({words}): written" in done.stdout
        for inputs, row in zip(inputs_of(case, meta), FeatureBank.read(out).features, strict=True):
            tokens = model.forward_features(*inputs)
            count = None
            if name == "small_text":  # of a batch alone the longest has no padding
                count = int(tokens.mask_bn.sum())
                tokens = tokens.x_bnc
            tokens = tokens.numpy()[0]
            wanted = tokens[0] if pool == "token" else tokens[1:count].mean(axis=0)
            np.testing.assert_allclose(row, wanted, atol=2e-5)


def test_nothing_is_computed_twice(small, invoke, tmp_path, monkeypatch):
    out = tmp_path / "f.safetensors"
    words = ["--weights", small.checkpoint, "--split", "train", "--out", out]
    assert "written" in invoke("features", *words).stdout
    first = out.read_bytes()
    assert len(FeatureBank.read(out).features) == 24

    def never(*_):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(FeatureMaker, "_compute", never)
        assert "there already, nothing was computed" in invoke("features", *words).stdout
        assert out.read_bytes() == first
        # Each of these makes other features.
        for more in (["--use", "ema"], ["--pool", "token"], ["--split", "val"]):
            with pytest.raises(AssertionError, match="computed again"):
                invoke("features", *words, *more)
    assert out.read_bytes() == first
    done = invoke("features", *words, "--use", "ema")
    assert "made anew" in done.stdout and out.read_bytes() != first
    # What has changed below the same names is seen, too.
    data = tmp_path / "data"
    shutil.copytree(small.folder / "val", data)
    own = tmp_path / "own.safetensors"
    words = ["--weights", small.checkpoint, "--data", data, "--out", own]
    assert "written" in invoke("features", *words).stdout
    assert "nothing" in invoke("features", *words).stdout
    assert len(FeatureBank.read(own).labels) == 9
    shutil.copyfile(data / "a b" / "0.png", data / "c" / "0.png")
    assert "made anew" in invoke("features", *words).stdout
    parts = [tmp_path / f"{split}.safetensors" for split in ("train", "val")]
    for path in parts:
        assert invoke("features", *words, "--split", path.stem, "--out", path).returncode == 0
    items = [item for path in parts for item in FeatureBank.read(path).items["path"]]
    assert sorted(items) == sorted(FeatureBank.read(own).items["path"])


def test_other_classes_and_bare_weights(small, invoke, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "own" / split / "dog").mkdir(parents=True)
        (tmp_path / "own" / split / "猫").mkdir()
        shutil.copyfile(small.val[0][0], tmp_path / "own" / split / "dog" / "1.png")
        shutil.copyfile(small.val[1][0], tmp_path / "own" / split / "猫" / "1.png")
    out = tmp_path / "own.safetensors"
    done = invoke("features", "--weights", small.checkpoint, "--data", tmp_path / "own", "--out", out)
    assert done.returncode == 0, done.stderr
    own = FeatureBank.read(out)
    assert own.facts["class_names"] == ["dog", "猫"] and own.labels.tolist() == [0, 1]
    bare = tmp_path / "bare.pdparams"
    arrays = read_checkpoint(small.checkpoint).part("model")
    paddle.save({name: paddle.to_tensor(array) for name, array in arrays.items()}, str(bare))
    again = tmp_path / "again.safetensors"
    words = ["-c", small.config, "--weights", bare, "--data", tmp_path / "own", "--out", again]
    done = invoke("features", *words)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(FeatureBank.read(again).features, own.features)


def test_other_files_are_not_overwritten(small, invoke, tmp_path):
    copy = tmp_path / "best.safetensors"
    shutil.copyfile(small.checkpoint, copy)
    done = invoke("features", "--weights", small.checkpoint, "--out", copy)
    assert done.returncode == 2 and f"{copy} holds no features" in done.stderr
    assert copy.read_bytes() == small.checkpoint.read_bytes()
    done = invoke("features", "--weights", small.checkpoint, "--out", tmp_path / "x.npy")
    assert done.returncode == 2 and "name it .safetensors" in done.stderr
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(copy.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        FeatureBank.read(broken)
