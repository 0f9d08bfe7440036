from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from PIL import Image

from passl_sot.data import DataError, build_dataset, check_data
from passl_sot.data.datasets.digits import write_digits

pytest.importorskip("sklearn")
_EVAL = [{"name": "Resize", "size": [8, 8]}, {"name": "Normalize"}]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> str:
    root = str(tmp_path_factory.mktemp("digits") / "data" / "digits")
    assert write_digits(root) == 1797
    return root


def _stamps(root: str) -> dict[str, int]:
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    return {path: os.stat(path).st_mtime_ns for path in paths}


def _splits(root: str):
    return [
        build_dataset({"name": "ImageFolder", "dataroot": f"{root}/{split}", "transforms": _EVAL})
        for split in ("train", "val")
    ]


def test_layout(written):
    train, val = _splits(written)
    assert train.class_names == val.class_names == [str(i) for i in range(10)]
    assert (len(train), len(val)) == (1438, 359)
    share = val.class_counts() / (train.class_counts() + val.class_counts())
    np.testing.assert_allclose(share, 0.2, atol=0.004)
    assert check_data(train, val, 10, sample="all") == []
    assert os.listdir(os.path.dirname(written)) == ["digits"]


def test_pixels(written):
    from sklearn.datasets import load_digits

    digits = load_digits()
    seen = set()
    for dataset in _splits(written):
        for i in range(len(dataset)):
            place = int(os.path.basename(dataset.path(i))[6:10])
            seen.add(place)
            assert digits.target[place] == dataset.labels[i]
            with Image.open(dataset.path(i)) as image:
                assert (image.mode, image.size, image.format) == ("L", (8, 8), "PNG")
                np.testing.assert_array_equal(np.asarray(image), np.rint(digits.images[place] * 255 / 16))
    assert seen == set(range(1797))


def test_note(written):
    with open(f"{written}/README.txt") as file:
        text = file.read()
    assert "scikit-learn" in text and "archive.ics.uci.edu" in text and "E. Alpaydin" in text


def test_second_call_does_nothing(written):
    before = _stamps(written)
    assert write_digits(written) == 0
    assert _stamps(written) == before


def test_half_written_set_is_completed(written):
    before = _stamps(written)
    names = sorted(path for path in before if path.endswith(".png"))
    os.unlink(names[0])
    with open(names[1], "wb") as file:
        file.write(b"\x89PNG")
    Image.new("L", (8, 8)).save(names[2])
    os.unlink(f"{written}/README.txt")
    assert write_digits(written) == 3
    assert set(_stamps(written)) == set(before)
    assert write_digits(written) == 0


def test_interrupted_write_leaves_no_folder(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        write_digits(str(tmp_path / "digits"))
    assert os.listdir(tmp_path) == []


def test_foreign_files_are_refused(tmp_path):
    os.makedirs(tmp_path / "train" / "0")
    Image.new("L", (8, 8)).save(tmp_path / "train" / "0" / "mine.png")
    with pytest.raises(DataError, match=r"holds train/0/mine.png, which isn't of the digits"):
        write_digits(str(tmp_path))
    assert os.listdir(tmp_path) == ["train"]


def test_another_seed_is_another_split(written, tmp_path):
    with pytest.raises(DataError, match="with this seed"):
        write_digits(written, seed=1)
    assert write_digits(str(tmp_path / "other"), seed=1) == 1797
    one, other = (
        {os.path.basename(s.path(i)) for i in range(len(s))}
        for s in (_splits(written)[1], _splits(str(tmp_path / "other"))[1])
    )
    assert one != other


def test_missing_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        write_digits(str(tmp_path / "digits"))
