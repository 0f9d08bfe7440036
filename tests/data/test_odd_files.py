"""Pipes, devices, rings of links and sparse giants among the images: bad files like others, wherever met."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from passl_sot import cli
from passl_sot.config import ConfigError
from passl_sot.data import ImageFolder, ListFile, PackedImages, build_dataloader, build_dataset, check_data
from passl_sot.data.errors import DataError
from passl_sot.data.given import collect_images
from passl_sot.engine.schema import load_config
from passl_sot.imageio.errors import ImageError
from tests.data.conftest import EVAL

REASONS = {
    "loop.png": "a link that leads back to itself",
    "pipe.png": "is a pipe (FIFO), not an image file",
    "device.png": "is a device, not an image file",
    "sparse.png": "has 60,000 MB, and files of up to 1,000 MB are read",
}


@pytest.fixture
def odd(folder, write_odd_files) -> Path:
    """Ten images in two classes, and of each kind of odd file one in the first."""
    root = Path(folder({"a": 5, "b": 5}))
    write_odd_files(root / "a")
    (root / "a" / "gone.png").symlink_to("nowhere.png")  # no image at all, and not counted
    (root / "b" / "round").symlink_to("round")
    (root / "around").symlink_to("around")
    return root


def datasets(root: Path) -> list:
    files = ImageFolder(dataroot=str(root), transforms=EVAL)
    lines = [f"{files.paths[i]} {files.labels[i]}\n" for i in range(len(files))]
    (root.parent / "list.txt").write_text("".join(lines))
    listed = ListFile(dataroot=str(root), list_file=str(root.parent / "list.txt"), transforms=EVAL)
    return [files, listed]


def test_the_check_names_them(odd):
    for dataset in datasets(odd):
        assert len(dataset) == 14 and dataset.class_names == (dataset.class_names[:2])
        warnings = check_data(dataset, None, 2)
        assert len(warnings) == 4
        for name, reason in REASONS.items():
            assert any(f"train: unreadable image {odd}/a/{name}: {reason}" in line for line in warnings)
        with pytest.raises(DataError, match="4 of 14 images looked at"):
            check_data(dataset, None, 2, max_bad=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_counts_them(odd, split, workers):
    loader = build_dataloader(split(str(odd), workers=workers, batch_size=7), mode="train", seed=0)
    assert sum(len(batch["label"]) for batch in loader) == 14
    assert {Path(path).name for path in loader.bad_files.reasons} == REASONS.keys()
    for path, reason in loader.bad_files.reasons.items():
        assert reason.startswith(REASONS[Path(path).name])


def test_a_packed_copy_keeps_their_places(odd, tmp_path, capfd):
    out = tmp_path / "out"
    command = [str(odd), str(out), "--processes", "1"]
    assert cli.make_cache(command) == 0
    said = capfd.readouterr().out
    assert "4 files can't be read as images, and are kept as they are:" in said
    for name, reason in REASONS.items():
        assert f"{odd}/a/{name}: {reason}" in said
    copy = PackedImages(dataroot=str(out), transforms=EVAL)
    assert len(copy) == 14
    bad = [i for i in range(14) if os.path.basename(copy.paths[i]) in REASONS]
    for i in bad:
        with pytest.raises(ImageError, match=r"the file is empty \(0 bytes\)"):
            copy.read(i)
    assert cli.make_cache(command) == 0
    assert "14 images are packed already" in capfd.readouterr().out
    (odd / "a" / "pipe.png").unlink()
    (odd / "a" / "pipe.png").write_bytes((odd / "a" / "train_000.png").read_bytes())
    assert cli.make_cache(command) == 2
    assert "1 image changed: a/pipe.png; choose another folder" in capfd.readouterr().err


def test_lists_are_files_or_pipes_of_bounded_size(odd, tmp_path, monkeypatch):
    """An endless device as a list would fill the memory; a shell's `<(...)` is a pipe."""
    with pytest.raises(DataError, match=r"/dev/zero can't be read \(is a device\)"):
        ListFile(dataroot=str(odd), list_file="/dev/zero", transforms=EVAL)
    (tmp_path / "l.txt").touch()
    os.truncate(tmp_path / "l.txt", 60_000_000_000)
    with pytest.raises(DataError, match="has 60,000 MB, and files of up to 1,000 MB are read"):
        ListFile(dataroot=str(odd), list_file=str(tmp_path / "l.txt"), transforms=EVAL)
    with pytest.raises(DataError, match="has 60,000 MB"):
        collect_images([str(tmp_path / "l.txt")])
    read, write = os.pipe()
    os.write(write, b"a/train_000.png 0\n")
    os.close(write)
    assert len(ListFile(dataroot=str(odd), list_file=f"/dev/fd/{read}", transforms=EVAL)) == 1
    os.close(read)


def test_a_config_is_of_bounded_size(tmp_path):
    (tmp_path / "c.yaml").touch()
    os.truncate(tmp_path / "c.yaml", 60_000_000_000)
    with pytest.raises(ConfigError, match="it has more than 10 MB, which no config has"):
        load_config(tmp_path / "c.yaml")


def test_a_wrong_limit_is_one_error(odd, monkeypatch):
    monkeypatch.setenv("PASSL_SOT_MAX_FILE_MB", "1 GB")
    with pytest.raises(ImageError, match="PASSL_SOT_MAX_FILE_MB: must be a number of megabytes, got '1 GB'"):
        build_dataset({"name": "ImageFolder", "dataroot": str(odd), "transforms": EVAL})
