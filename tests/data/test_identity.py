"""What checkpoints keep of their data, and what is said where the data are others now."""

from __future__ import annotations

import os
import re
import shutil
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from passl_sot import cli
from passl_sot.data import Dataset, ImageFolder, ListFile, PackedImages
from passl_sot.data.datasets import identity
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.errors import WorkerError
from tests.data.conftest import EVAL
from tests.data.for_workers import SilentDisk


def of_list(tmp_path: Path, lines: list[str], **more) -> ListFile:
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return ListFile(dataroot=str(tmp_path), list_file=str(path), transforms=EVAL, **more)


def said(before, now) -> list[str]:
    return now.differences(before.identity(), now.identity())


def test_each_kind_of_difference(folder, tmp_path):
    root = Path(folder({"a": 6, "b": 4}))
    before = ImageFolder(dataroot=str(root), transforms=EVAL)
    kept = before.identity()
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert (
        before.differences(kept, ImageFolder(dataroot=str(tmp_path / "copy"), transforms=EVAL).identity())
        == []
    )
    for i in range(5):
        (root / "a" / f"train_00{i}.png").rename(root / "b" / f"moved_{i}.png")
    (root / "b" / "train_000.png").unlink()
    (root / "b" / "train_001.png").write_bytes(b"other")
    data = bytearray((root / "b" / "train_002.png").read_bytes())
    data[-1] ^= 1
    (root / "b" / "train_002.png").write_bytes(data)
    now = ImageFolder(dataroot=str(root), transforms=EVAL).identity()
    assert before.differences(kept, now) == [
        "5 images added: b/moved_0.png, b/moved_1.png, b/moved_2.png and 2 more",
        "6 images removed: a/train_000.png, a/train_001.png, a/train_002.png and 3 more",
        "2 images changed: b/train_001.png, b/train_002.png",
    ]


def test_labels_order_and_numbers(tmp_path):
    one = of_list(tmp_path, ["a 0", "b 1", "c 2"])
    assert said(one, of_list(tmp_path, ["a 0", "b 2", "c 2"])) == ["1 image with another label: b"]
    order = ["the images stand in another order, or some of them in other numbers"]
    assert said(one, of_list(tmp_path, ["b 1", "a 0", "c 2"])) == order
    assert said(one, of_list(tmp_path, ["a 0", "b 1", "c 2", "c 2"])) == order
    several = of_list(tmp_path, ["a 0", "b 0,1"], multi_label=True)
    assert said(several, of_list(tmp_path, ["a 0", "b 1"], multi_label=True)) == [
        "1 image with another label: b"
    ]
    assert said(several, of_list(tmp_path, ["a 0", "b 0,1"], multi_label=True)) == []


def test_files_that_can_not_be_read_have_an_identity_too(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    lines = ["pipe.png 0", "loop.png 0", "gone.png 0"]
    before = of_list(tmp_path, lines)
    kept = before.identity()
    assert before.differences(kept, of_list(tmp_path, lines).identity()) == []
    (tmp_path / "gone.png").write_bytes(b"found again")
    assert before.differences(kept, before.identity()) == ["1 image changed: gone.png"]


def test_of_many_images_a_sample_is_read_that_stays(tmp_path, monkeypatch):
    """Sizes are those of all; which contents are read depends on names, so that one more image moves few."""
    monkeypatch.setattr(identity, "_SAMPLE", 20)
    names = [f"{i:03d}" for i in range(100)]
    for name in names:
        (tmp_path / name).write_bytes(b"0000")
    before = of_list(tmp_path, [f"{name} 0" for name in names])
    kept = before.identity()
    for name in names:
        (tmp_path / name).write_bytes(b"1111")
    (line,) = before.differences(kept, before.identity())
    assert line.startswith("20 images changed: ")
    more = of_list(tmp_path, [f"{name} 0" for name in ["-", *names]])
    lines = before.differences(kept, more.identity())
    assert lines[0] == "1 image added: -" and re.match("(19|20) images changed: ", lines[1])


def test_large_files_are_read_at_both_ends(tmp_path):
    size = 3 * 128 * 1024
    (tmp_path / "x").write_bytes(bytes(size))
    dataset = of_list(tmp_path, ["x 0"])
    kept = dataset.identity()
    for place, found in ((0, True), (size - 1, True), (size // 2, False)):
        data = bytearray(size)
        data[place] = 1
        (tmp_path / "x").write_bytes(data)
        assert bool(dataset.differences(kept, dataset.identity())) == found


def test_a_packed_copy_tells_by_its_checksums(folder, tmp_path):
    root = Path(folder({"a": 3, "b": 2}))
    command = [str(root), str(tmp_path / "one"), "--processes", "1"]
    assert cli.make_cache(command) == 0
    shutil.copyfile(root / "a" / "train_000.png", root / "b" / "train_001.png")
    command[1] = str(tmp_path / "two")
    assert cli.make_cache(command) == 0
    parts = []
    for part in ("train", "val"):
        options = {"transforms": EVAL, "part": part}
        one, two = (PackedImages(dataroot=str(tmp_path / name), **options) for name in ("one", "two"))
        parts += said(one, two)
    assert parts == ["1 image changed: b/train_001.png"]
    whole = [PackedImages(dataroot=str(tmp_path / name), transforms=EVAL) for name in ("one", "two")]
    assert said(*whole) == ["1 image changed: b/train_001.png"]
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert said(whole[0], PackedImages(dataroot=str(tmp_path / "copy"), transforms=EVAL)) == []


def test_what_was_kept_and_is_damaged(tmp_path):
    dataset = of_list(tmp_path, ["a 0", "b 1"])
    kept = dataset.identity()
    bomb = np.frombuffer(zlib.compress(bytes(10_000_000)), np.uint8)
    for wrong in (
        {"names": np.arange(5, dtype=np.uint8)},
        {"sizes": kept["sizes"][:-3]},
        {"labels": kept["names"]},
        {"contents": bomb},
        {"lengths": kept["sizes"]},
    ):
        (line,) = dataset.differences({**kept, **wrong}, kept)
        assert line.startswith("what was kept of the images can't be read (")
    (line,) = dataset.differences({"names": kept["names"]}, kept)
    assert "can't be read" in line


def test_a_silent_disk_does_not_hold_a_run_for_ever(folder):
    root = folder({"a": 2})
    dataset = SilentDisk(dataroot=root, transforms=EVAL)
    measure = identity.Extent.measure

    def never(self):
        time.sleep(0 if self.path.endswith("0.png") else 600)
        return measure(self)

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(WorkerError, match=r"image 1 \(.*001.png\) was not read"),
    ):
        patch.setattr(identity.Extent, "measure", never)
        dataset.identity(timeout=0.2)


def test_a_dataset_of_another_kind_says_what_its_identity_is():
    class Numbers(Dataset):
        def __init__(self, count):
            self.count = count

        def identity(self, *, timeout=None):
            return {"numbers": np.arange(self.count), "unit": np.zeros(1)}

    assert said(Numbers(3), Numbers(3)) == []
    assert said(Numbers(3), Numbers(4)) == ["other numbers"]
    assert Dataset().identity() == {} and said(Dataset(), Dataset()) == []


def test_a_million_names_take_little_room(monkeypatch):
    count = 1_281_167
    names = StringTable(f"n{i // 1281:08d}/n{i // 1281:08d}_{i * 37 % 99999}.JPEG" for i in range(count))
    sizes = np.random.default_rng(0).gamma(2, 55_000, count).astype(np.int64)
    began = time.process_time()
    kept = identity.keep(names, np.arange(count) // 1281, None, sizes)
    assert time.process_time() - began < 10
    assert sum(array.nbytes for array in kept.values()) < 8 * count
    assert identity.differences("image", kept, kept) == []
