from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time

import pytest

from passl_sot.data import DataError, build_dataset, check_data
from passl_sot.data.datasets.list_files import ListFile
from passl_sot.data.validate import _shared_files

_EVAL = [{"name": "Resize", "size": 18}, {"name": "CenterCrop", "size": 16}, {"name": "Normalize"}]


def _set(root: str):
    return build_dataset({"name": "ImageFolder", "dataroot": root, "transforms": _EVAL})


def _list(tmp_path, root: str, name: str, text: str, names: str | None = None):
    (tmp_path / f"{name}.txt").write_text(text)
    config = {
        "name": "ListFile",
        "dataroot": root,
        "list_file": str(tmp_path / f"{name}.txt"),
        "transforms": _EVAL,
    }
    if names is not None:
        (tmp_path / "names.txt").write_text(names)
        config["class_names"] = str(tmp_path / "names.txt")
    return build_dataset(config)


def _faults(*args, **kwargs) -> list[str]:
    with pytest.raises(DataError) as caught:
        check_data(*args, **kwargs)
    for fault in caught.value.faults:
        assert any("\u4e00" <= c <= "\u9fff" for c in fault), f"no Chinese hint in {fault!r}"
    return [fault.rpartition(" / ")[0] for fault in caught.value.faults]


def test_good_data(folder):
    train, val = _set(folder({"a": 5, "b": 5})), _set(folder({"a": 2, "b": 2}, name="val"))
    assert check_data(train, val, 2) == []
    assert check_data(train, None, 2, sample="all") == []
    assert check_data(None, val, None, progress=True) == []


def test_all_faults_at_once(folder):
    """Every kind of fault in one pair of folders; each is told with its exact place."""
    train = folder({"cat": 4, "dog": 3, "fox": 2})
    val = folder({"cat": 2, "dogs": 2, "emu": 1}, name="val")
    os.makedirs(f"{train}/gnu")
    with open(f"{val}/cat/val_001.png", "wb") as file:
        file.write(b"")
    faults = _faults(_set(train), _set(val), 1000)
    assert faults == [
        f"class 'dogs' is in val ({val}) but not in train (nearest: 'dog')",
        f"class 'emu' is in val ({val}) but not in train",
        f"class 'dog' is in train ({train}) but not in val (nearest: 'dogs')",
        f"class 'fox' is in train ({train}) but not in val",
        f"class 'gnu' is in train ({train}) but not in val",
        f"the model's head has 1000 classes, the data ({train}) have 4: write model.head.num_classes=4",
        f"train: 1 class folders hold no images: {train}/gnu",
        f"val: unreadable image {val}/cat/val_001.png: the file is empty (0 bytes)",
    ]


def test_message_lists_and_counts(folder):
    with pytest.raises(DataError, match=r"2 faults in the data:\n  1\. class .*\n  2\. class "):
        check_data(_set(folder({"a": 1, "b": 1})), _set(folder({"a": 1, "c": 1}, name="val")), 2)


def test_many_missing_classes_are_cut_short(folder):
    train = _set(folder({f"c{i}": 1 for i in range(15)}))
    faults = _faults_raw(train, _set(folder({"c0": 1}, name="val")), 15)
    assert len(faults) == 11 and faults[-1] == "and 4 more classes that only train has"


def _faults_raw(*args) -> list[str]:
    with pytest.raises(DataError) as caught:
        check_data(*args)
    return caught.value.faults


def test_different_order_of_classes(folder, tmp_path):
    root = folder({"a": 1, "b": 1})
    rows = "a/train_000.png 0\nb/train_000.png 1\n"
    train = _list(tmp_path, root, "train", rows, "a\nb\n")
    val = _list(tmp_path, root, "val", rows, "b\na\n")
    faults = _faults(train, val, 2)
    assert faults == [
        "train and val number their classes differently: label 0 is 'a' in train and 'b' in val; "
        "give both the same class_names file"
    ]


def test_labels_from_one_with_names(folder, tmp_path):
    root = folder({"a": 1, "b": 1})
    rows = "a/train_000.png 1\nb/train_000.png 2\n"
    faults = _faults(_list(tmp_path, root, "train", rows, "a\nb\n"), None, 2)
    assert faults[0] == (
        f"train: 1 labels are not in 0 to 1 (2 classes), the first is 2 of {root}/b/train_000.png; "
        "labels seem to count from 1: subtract 1 from each"
    )


def test_labels_from_one_without_names(folder, tmp_path):
    root = folder({"a": 1, "b": 1})
    rows = "a/train_000.png 1\nb/train_000.png 2\n"
    faults = _faults(_list(tmp_path, root, "train", rows), None, None)
    assert faults == [
        "train: no image has label 0, so labels seem to count from 1 (up to 2): subtract 1 from each in "
        f"{tmp_path}/train.txt"
    ]


def test_val_list_without_class_0_is_only_warned_of(folder, tmp_path):
    root, val_root = folder({"a": 1, "b": 1}), folder({"b": 1}, name="val")
    train = _list(tmp_path, root, "train", "a/train_000.png 0\nb/train_000.png 1\n")
    warnings = check_data(train, _list(tmp_path, val_root, "val", "b/val_000.png 1\n"), 2)
    assert len(warnings) == 1 and "no image has label 0" in warnings[0]


def test_lists_without_names_are_compared_by_count(folder, tmp_path):
    root, val_root = folder({"a": 1, "b": 1}), folder({"a": 1, "b": 1}, name="val")
    train = _list(tmp_path, root, "train", "a/train_000.png 0\nb/train_000.png 1\n")
    assert check_data(train, _list(tmp_path, val_root, "val", "a/val_000.png 0\n"), 2) == []
    faults = _faults(train, _list(tmp_path, val_root, "val", "a/val_000.png 0\nb/val_000.png 2\n"), 2)
    assert faults == [f"val ({val_root}) has labels up to 2, train ({root}) has 2 classes"]


def test_empty_class_in_a_list(folder, tmp_path):
    root = folder({"a": 1, "b": 1})
    train = _list(tmp_path, root, "train", "a/train_000.png 0\nb/train_000.png 2\n", "a\nz\nb\n")
    assert _faults(train, None, 3) == ["train: 1 classes have no images: z"]


def test_bad_training_files_below_the_cap_are_warnings(folder, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("passl_sot"), "propagate", True)
    root = folder({"a": 30})
    for i in range(12):
        with open(f"{root}/a/train_{i:03d}.png", "wb") as file:
            file.write(b"text")
    train = _set(root)
    warnings = check_data(train, None, 1, sample="all", max_bad=12)
    assert len(warnings) == 11
    assert f"unreadable image {root}/a/train_000.png: not an image but a text file" in warnings[0]
    assert warnings[0] in caplog.text
    faults = _faults_raw(train, None, 1)
    assert "12 of 30 images looked at (30 in all) are unreadable, more than the 10" in faults[-1]


def test_sample_is_spread_evenly(folder, monkeypatch):
    train = _set(folder({"a": 20, "b": 20}))
    seen = []
    monkeypatch.setattr(type(train), "read", lambda self, index: seen.append(index))
    check_data(train, None, 2, sample=5)
    assert sorted(seen) == [0, 10, 20, 29, 39]
    seen.clear()
    check_data(train, None, 2, sample="all")
    assert sorted(seen) == list(range(40))


def test_files_in_both_sets(folder, tmp_path):
    train, val = folder({"a": 3}), folder({"a": 2}, name="val")
    shutil.copy(f"{train}/a/train_000.png", f"{val}/a/train_000.png")  # another file of that name
    assert check_data(_set(train), _set(val), 1) == []
    os.symlink(f"{train}/a/train_001.png", f"{val}/a/train_001.png")
    (warning,) = check_data(_set(train), _set(val), 1)
    assert warning.startswith(f"1 files are in train and in val, such as {train}/a/train_001.png")
    (warning,) = check_data(_set(train), _set(train), 1)
    assert warning.startswith("3 files are in train and in val")
    (tmp_path / "linked").mkdir()
    os.symlink(f"{train}/a", tmp_path / "linked" / "a")
    (warning,) = check_data(_set(train), _set(os.fspath(tmp_path / "linked")), 1)
    assert warning.startswith("3 files are in train and in val")


def test_long_lists_are_compared_quickly(tmp_path):
    """Of no path a Python object is made unless its name is in both lists."""
    for name, count in (("train", 200_000), ("val", 20_000)):
        lines = [f"n{i % 100}/{name}_{i:08d}.JPEG {i % 100}\n" for i in range(count)]
        (tmp_path / f"{name}.txt").write_text("".join([*lines, "n0/both.JPEG 0\n"]))
    began = time.process_time()
    train, val = (
        ListFile(dataroot="/data", list_file=str(tmp_path / f"{name}.txt"), transforms=_EVAL)
        for name in ("train", "val")
    )
    (warning,) = _shared_files(train, val)
    assert time.process_time() - began < 1
    assert warning.startswith("1 files are in train and in val, such as /data/n0/both.JPEG")


def test_checks_start_without_paddle(folder):
    config = {"name": "ImageFolder", "dataroot": folder({"a": 1}), "transforms": _EVAL}
    code = (
        "import sys; from passl_sot.data import build_dataset, check_data; "
        f"check_data(build_dataset({config!r}), None, 1); assert 'paddle' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.getcwd())
