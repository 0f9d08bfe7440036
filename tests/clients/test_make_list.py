from __future__ import annotations

import collections
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from passl_sot.data import build_dataset

_TOOL = Path(__file__).parents[2] / "ppcls_tools" / "make_list.py"
_EVAL = [{"name": "CenterCrop", "size": 4}, {"name": "Normalize"}]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("make_list", _TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _make(root, classes: dict[str, int]) -> None:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (6, 5)).save(root / name / f"{i}.png")


def _read(data, lists, split: str):
    return build_dataset(
        {
            "name": "ListFile",
            "dataroot": str(data),
            "list_file": str(lists / f"{split}_list.txt"),
            "class_names": str(lists / "class_id_map.txt"),
            "transforms": _EVAL,
        }
    )


def _folder(root):
    return build_dataset({"name": "ImageFolder", "dataroot": str(root), "transforms": _EVAL})


def test_lists_read_back_as_the_folder(tool, tmp_path, capsys):
    for split, classes in (("train", {"10": 2, "2": 3, "0": 1}), ("val", {"2": 1, "0": 2, "10": 1})):
        _make(tmp_path / "data" / split, classes)
    assert tool.main([str(tmp_path / "data"), str(tmp_path / "lists")]) == 0
    assert (tmp_path / "lists" / "class_id_map.txt").read_text() == "0 0\n1 2\n2 10\n"
    assert (tmp_path / "lists" / "val_list.txt").read_text().splitlines()[0] == "val/0/0.png 0"
    for split in ("train", "val"):
        listed, found = (
            _read(tmp_path / "data", tmp_path / "lists", split),
            _folder(tmp_path / "data" / split),
        )
        assert listed.class_names == found.class_names
        assert listed.labels.tolist() == found.labels.tolist()
        assert [listed.path(i) for i in range(len(listed))] == [found.path(i) for i in range(len(found))]
        assert listed[0]["image"].shape == (3, 4, 4)
    assert "train_list.txt: 6 images" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "lists")) == ["class_id_map.txt", "train_list.txt", "val_list.txt"]


def test_spaces_and_chinese(tool, tmp_path, capsys):
    _make(tmp_path / "data" / "train", {"a big dog": 2, "狗": 1})
    assert tool.main([str(tmp_path / "data"), str(tmp_path / "lists")]) == 0
    assert "delimiter" in capsys.readouterr().out
    assert (tmp_path / "lists" / "train_list.txt").read_text(encoding="utf-8").splitlines() == [
        "train/a big dog/0.png\t0",
        "train/a big dog/1.png\t0",
        "train/狗/0.png\t1",
    ]
    listed = _read(tmp_path / "data", tmp_path / "lists", "train")
    assert listed.class_names == ["a big dog", "狗"] and listed[2]["label"] == 1
    arguments = [str(tmp_path / "data"), str(tmp_path / "lists"), "--force", "--separator", "space"]
    assert tool.main(arguments) == 0
    listed = _read(tmp_path / "data", tmp_path / "lists", "train")
    assert listed[1]["label"] == 0


def test_class_of_val_missing_in_training_keeps_numbers(tool, tmp_path):
    _make(tmp_path / "data" / "train", {"a": 1, "b": 1, "c": 1})
    _make(tmp_path / "data" / "val", {"c": 1})
    assert tool.main([str(tmp_path / "data"), str(tmp_path / "lists")]) == 0
    assert (tmp_path / "lists" / "val_list.txt").read_text() == "val/c/0.png 2\n"


def test_val_ratio(tool, tmp_path):
    _make(tmp_path / "data", {"a": 10, "b": 5, "c": 1})
    assert tool.main([str(tmp_path / "data"), str(tmp_path / "lists"), "--val-ratio", "0.2"]) == 0
    train, val = (_read(tmp_path / "data", tmp_path / "lists", split) for split in ("train", "val"))
    assert train.class_counts().tolist() == [8, 4, 1] and val.class_counts().tolist() == [2, 1, 0]
    paths = collections.Counter(s.path(i) for s in (train, val) for i in range(len(s)))
    assert len(paths) == 16 and set(paths.values()) == {1}
    first = (tmp_path / "lists" / "val_list.txt").read_text()
    for seed, same in (("0", True), ("1", False)):
        tool.main(
            [str(tmp_path / "data"), str(tmp_path / "x"), "--val-ratio", "0.2", "--seed", seed, "--force"]
        )
        assert ((tmp_path / "x" / "val_list.txt").read_text() == first) is same
    assert tool.main([str(tmp_path / "data"), str(tmp_path / "all"), "--val-ratio", "0"]) == 0
    assert sorted(os.listdir(tmp_path / "all")) == ["class_id_map.txt", "train_list.txt"]


def test_refuses_to_overwrite(tool, tmp_path, capsys):
    _make(tmp_path / "data" / "train", {"a": 1})
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train_list.txt").write_text("mine")
    assert tool.main([str(tmp_path / "data"), str(tmp_path / "lists")]) == 2
    assert "already holds train_list.txt; add --force" in capsys.readouterr().err
    assert (tmp_path / "lists" / "train_list.txt").read_text() == "mine"
    assert tool.main([str(tmp_path / "data"), str(tmp_path / "lists"), "--force"]) == 0
    assert (tmp_path / "lists" / "train_list.txt").read_text() == "train/a/0.png 0\n"


@pytest.mark.parametrize(
    ("classes", "arguments", "words"),
    [
        ({"a": 1}, [], "give --val-ratio 0.2"),
        ({"a": 1}, ["--val-ratio", "1"], "--val-ratio is 1.0"),
        ({"train/a": 1}, ["--val-ratio", "0.5"], "has no meaning"),
        ({"train/a": 1, "val/b": 1}, [], "class 'b' is in val but not in train"),
        ({"a": 0}, ["--val-ratio", "0.1"], "no images"),
        ({"train/a\nb": 1}, [], "rename it"),
    ],
)
def test_faults(tool, tmp_path, capsys, classes, arguments, words):
    _make(tmp_path / "data", classes)
    assert tool.main([str(tmp_path / "data"), str(tmp_path / "lists"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "lists").exists()


@pytest.mark.slow
def test_command_line(tmp_path):
    _make(tmp_path / "data" / "train", {"a": 1})
    command = [sys.executable, str(_TOOL), str(tmp_path / "data"), str(tmp_path / "lists")]
    environment = {**os.environ, "PYTHONPATH": str(_TOOL.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 images" in done.stdout
    done = subprocess.run(
        [*command, "--val-rato", "1"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 2
