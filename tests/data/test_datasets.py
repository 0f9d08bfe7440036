from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from passl_sot.data import DataError, build_dataset
from passl_sot.data.datasets.folders import ImageFolder
from passl_sot.data.datasets.list_files import ListFile
from passl_sot.data.datasets.string_table import StringTable, natural_key
from passl_sot.imageio.errors import ImageError

_EVAL = [{"name": "Resize", "size": 18}, {"name": "CenterCrop", "size": 16}, {"name": "Normalize"}]
_TRAIN = [{"name": "RandomResizedCrop", "size": 16}, {"name": "Normalize"}]


def _folder(root: str, **more) -> ImageFolder:
    return build_dataset({"name": "ImageFolder", "dataroot": root, "transforms": _EVAL, **more})


# -- strings ----------------------------------------------------------------------------------------
def test_string_table():
    strings = ["a", "", "a folder/狗.jpg", os.fsdecode(b"bad\xff.jpg")]
    table = StringTable(strings)
    assert len(table) == 4
    assert [table[i] for i in range(4)] == strings == [pickle.loads(pickle.dumps(table))[i] for i in range(4)]
    assert table[-1] == strings[-1] and list(table) == strings
    with pytest.raises(IndexError):
        table[4]
    assert len(StringTable([])) == 0


def test_codes_of_names():
    """Equal for what follows the last slash, whatever stands before it and wherever in the table."""
    rng = np.random.default_rng(0)
    names = [f"{'a' * (i % 7)}{i // 3:x}.png" for i in rng.integers(0, 60_000, 40_000)] + ["", "ü", "a", "aa"]
    table = StringTable(
        "/".join(["x", "train/y", ""][: i % 4]) + "/" * (i % 4 > 0) + name for i, name in enumerate(names)
    )
    assert [os.path.basename(entry) for entry in table] == names
    _, expected = np.unique(names, return_inverse=True)
    _, found = np.unique(table.name_codes(), return_inverse=True)
    pairs = np.unique(np.stack([expected, found]), axis=1)
    assert pairs.shape[1] == expected.max() + 1 == found.max() + 1
    assert len(StringTable([]).name_codes()) == 0
    assert len(set(StringTable(["a", "b", "ab", "ba"]).name_codes().tolist())) == 4


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2", "10", "234"],
        ["class2", "class10", "class10a", "class10b"],
        ["1", "1a", "2", "a", "a1", "狗", "狗2", "狗10"],
        ["n01440764", "n01443537", "n15075141"],
        ["01", "1", "2"],
    ],
)
def test_natural_order(names):
    assert sorted(set(names), key=natural_key) == names


# -- folders ----------------------------------------------------------------------------------------
def test_folder_classes_in_natural_order(folder):
    dataset = _folder(folder({"10": 1, "2": 2, "1": 1, "0": 3}))
    assert dataset.class_names == ["0", "1", "2", "10"]
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 0, 0, 1, 2, 2, 3]
    assert dataset.class_counts().tolist() == [3, 1, 2, 1]
    assert dataset.path(0).endswith("train/0/train_000.png")


def test_folder_names_are_kept(folder):
    dataset = _folder(folder({"a class": 1, "狗 dog": 1}))
    assert dataset.class_names == ["a class", "狗 dog"]
    assert dataset[1]["image"].shape == (3, 16, 16)


def test_folder_walks_nested_and_linked_folders_and_counts_the_rest(folder, tmp_path):
    root = folder({"cat": 2, "dog": 1})
    other = folder({"more": 2}, name="other")
    os.makedirs(f"{root}/cat/inner/deep")
    os.rename(f"{root}/cat/train_001.png", f"{root}/cat/inner/deep/B.PNG")
    os.symlink(f"{other}/more", f"{root}/dog/linked")
    os.symlink(root, f"{root}/dog/round")  # a loop
    os.symlink(f"{other}/more", f"{root}/fox")
    os.symlink("/nowhere.png", f"{root}/dog/broken.png")
    for name in ("cat/.hidden.png", "cat/Thumbs.db", "dog/notes.txt", "cat/.DS_Store"):
        (tmp_path / "train" / name).write_text("x")
    os.makedirs(f"{root}/.ipynb_checkpoints")
    dataset = _folder(root)
    assert dataset.class_names == ["cat", "dog", "fox"]
    cats = [dataset.path(i) for i in np.flatnonzero(dataset.labels == 0)]
    assert [os.path.relpath(path, root) for path in cats] == ["cat/train_000.png", "cat/inner/deep/B.PNG"]
    assert dataset.ignored_files >= 5
    assert {dataset[i]["label"] for i in range(len(dataset))} == {0, 1, 2}


def test_folder_extensions(folder):
    root = folder({"a": 2})
    os.rename(f"{root}/a/train_000.png", f"{root}/a/x.picture")
    assert len(_folder(root)) == 1
    assert len(_folder(root, extensions=[".PNG", "picture"])) == 2


def test_folder_missing_says_the_layout(tmp_path):
    with pytest.raises(DataError, match=r"dataroot .*none doesn't exist") as caught:
        _folder(str(tmp_path / "none"))
    assert "data/train/<class>/*.jpg" in str(caught.value)
    assert "类别" in str(caught.value)


def test_folder_empty(tmp_path):
    with pytest.raises(DataError, match="is empty: no class folders"):
        _folder(str(tmp_path))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds 1 class folders but no images.* 1 other files"):
        _folder(str(tmp_path))


def test_folder_flat(folder):
    root = folder({"a": 3})
    with pytest.raises(DataError, match=r"holds 3 images \(such as train_000.png\) but no class folders"):
        _folder(f"{root}/a")


def test_folder_above_the_splits(folder, tmp_path):
    folder({"a": 1})
    folder({"a": 1}, name="val")
    with pytest.raises(DataError, match=r"are splits, not classes: write dataroot: .*/train in place of"):
        _folder(str(tmp_path))


def test_folder_is_a_file(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(DataError, match="is a file, not a folder"):
        _folder(str(tmp_path / "f"))


# -- samples ----------------------------------------------------------------------------------------
def test_sample(folder):
    dataset = _folder(folder({"a": 2, "b": 2}))
    sample = dataset[3]
    assert set(sample) == {"image", "label", "index"}
    assert (sample["label"], sample["index"]) == (1, 3)
    assert sample["image"].dtype == np.float32
    assert dataset[-1]["index"] == 3
    with pytest.raises(IndexError):
        dataset[4]


def test_randomness_depends_on_seed_epoch_and_index_alone(folder):
    root = folder({"a": 3})
    dataset = _folder(root, transforms=_TRAIN)
    first = {(e, i): dataset[(e, i)]["image"] for e in range(2) for i in range(3)}
    again = _folder(root, transforms=_TRAIN)
    for (e, i), image in reversed(first.items()):
        np.testing.assert_array_equal(again[(e, i)]["image"], image)
    np.testing.assert_array_equal(again[2]["image"], first[(0, 2)])
    assert not np.array_equal(first[(0, 1)], first[(1, 1)])
    again.seed = 1
    assert not np.array_equal(again[(0, 1)]["image"], first[(0, 1)])


def test_unreadable_file_raises(folder):
    root = folder({"a": 2})
    with open(f"{root}/a/train_001.png", "wb") as file:
        file.write(b"")
    dataset = _folder(root)
    with pytest.raises(ImageError, match=r"train_001.png: the file is empty"):
        dataset[1]


def test_transforms_must_normalize(folder):
    with pytest.raises(ValueError, match=r"must hold {name: Normalize}"):
        _folder(folder({"a": 1}), transforms=[{"name": "CenterCrop", "size": 4}])


def test_other_class_names(folder):
    root = folder({"b": 1, "d": 2})
    config = {"name": "ImageFolder", "dataroot": root, "transforms": _EVAL}
    dataset = build_dataset(config, class_names=["d", "c", "b", "a"])
    assert dataset.labels.tolist() == [2, 0, 0]
    assert dataset.class_names == ["d", "c", "b", "a"]
    assert dataset.found_classes == ["b", "d"]
    with pytest.raises(DataError, match="holds class 'd', which is not among the 2 known classes"):
        build_dataset(config, class_names=["a", "b"])


# -- list files -------------------------------------------------------------------------------------
def _list(root: str, tmp_path, text: str | bytes, **more) -> ListFile:
    path = tmp_path / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return build_dataset(
        {"name": "ListFile", "dataroot": root, "list_file": str(path), "transforms": _EVAL, **more}
    )


def test_list(folder, tmp_path):
    root = folder({"a b": 2, "狗": 2})
    text = (
        "\ufeff# images\r\n\r\n狗/train_000.png 1\r\na b/train_001.png 0\r\na b/train_000.png\t2\r\n"
        f"{root}/狗/train_001.png   1  \r\na b\\train_001.png 0"
    )
    dataset = _list(root, tmp_path, text)
    assert dataset.labels.tolist() == [1, 0, 2, 1, 0]
    assert dataset.class_names == ["0", "1", "2"]
    assert [dataset[i]["label"] for i in range(5)] == [1, 0, 2, 1, 0]
    assert dataset.path(3) == f"{root}/狗/train_001.png"


def test_list_without_names_takes_those_of_a_checkpoint(tmp_path):
    dataset = _list(".", tmp_path, "a.jpg 0\nb.jpg 2\n")
    assert not dataset.named
    dataset.use_class_names(["cat", "dog", "fox", "gnu"])
    assert dataset.class_names == ["cat", "dog", "fox", "gnu"] and dataset.labels.tolist() == [0, 2]
    with pytest.raises(DataError, match="labels go up to 2, but there are 2 classes"):
        dataset.use_class_names(["cat", "dog"])


def test_list_faults_have_lines(tmp_path):
    with pytest.raises(DataError) as caught:
        _list(".", tmp_path, "a.jpg 0\nb.jpg\n\nc.jpg x\nd.jpg -1\ne.jpg 1.0\nf.jpg 20251231\ng.jpg\t\n")
    where = tmp_path / "list.txt"
    starts = [fault.split(" / ")[0] for fault in caught.value.faults]
    assert starts == [
        f"{where}:2: no label in 'b.jpg'; a line is 'path label'",
        f"{where}:4: label 'x' is not a whole number",
        f"{where}:5: label -1 is below 0; labels are 0 to classes-1",
        f"{where}:6: label '1.0' is not a whole number",
        f"{where}:7: label 20251231 is too large to be a class number",
        f"{where}:8: label '' is not a whole number",
    ]


def test_list_many_faults_are_cut_short(tmp_path):
    with pytest.raises(DataError, match="and 15 more lines"):
        _list(".", tmp_path, "x\n" * 25)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "lists no images"),
        ("a.jpg 0\n狗.jpg 1\n".encode("gbk"), "list.txt:2: not UTF-8; .*iconv -f GBK"),
    ],
)
def test_list_unusable(tmp_path, data, words):
    with pytest.raises(DataError, match=words):
        _list(".", tmp_path, data)


def test_list_missing(tmp_path):
    with pytest.raises(DataError, match="can't be read"):
        build_dataset({"name": "ListFile", "dataroot": ".", "list_file": "/none.txt", "transforms": _EVAL})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat\nbig dog\n狗", ["cat", "big dog", "狗"]),
        ("1 big dog\n0 cat\n", ["cat", "big dog"]),
        ("0\n1\n2\n", ["0", "1", "2"]),
        ("0 0\n1 1\n2 10\n", ["0", "1", "10"]),
        ("3 musketeers\n7 samurai\n", ["3 musketeers", "7 samurai"]),
    ],
)
def test_class_names_file(tmp_path, text, expected):
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    dataset = _list(".", tmp_path, "a.jpg 0\n", class_names=str(tmp_path / "names.txt"))
    assert dataset.class_names == expected


def test_class_names_file_twice(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(DataError, match=r"class names \['cat'\] more than once"):
        _list(".", tmp_path, "a.jpg 0\n", class_names=str(tmp_path / "names.txt"))


def test_large_list_stays_small_and_fast(tmp_path):
    import time

    text = "".join(f"n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG {i % 1000}\n" for i in range(200_000))
    started = time.perf_counter()
    dataset = _list("data", tmp_path, text)
    assert time.perf_counter() - started < 3
    assert len(dataset) == 200_000 and len(dataset.class_names) == 1000
    assert len(pickle.dumps(dataset)) < 200_000 * 50
    assert dataset.path(123_456) == "data/n00000456/n00000456_123456.JPEG"
