"""Kinds of files, and which state dict is taken out of them."""

import gzip
import json
import pickle
import tarfile

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from passl_sot.weights import CheckpointError
from passl_sot.weights.checkpoint import write_checkpoint
from passl_sot.weights.find import find_state_dict, read_source

W = {"w": np.ones((2, 3), "f4"), "b": np.arange(2, dtype="i8")}


@pytest.fixture
def content(writer):
    """A file's content, with NumPy arrays made tensors."""

    def make(value):
        if isinstance(value, dict):
            return {name: make(entry) for name, entry in value.items()}
        return writer.Tensor.of(value) if isinstance(value, np.ndarray) else value

    return make


def other(factor: float) -> dict:
    return {name: (value * factor).astype(value.dtype) for name, value in W.items()}


@pytest.mark.parametrize(
    ("held", "key", "others", "factor"),
    [
        (other(2), "", [], 2),
        ({"model": other(2), "epoch": 1}, "model", [], 2),
        ({"state_dict": other(2), "state_dict_ema": other(3)}, "state_dict_ema", ["state_dict"], 3),
        ({"model": other(2), "model_ema": other(3)}, "model", ["model_ema"], 2),
        ({"model": {"state_dict": other(2)}, "optimizer": {}}, "model.state_dict", [], 2),
        (
            {"model": {"optimizer": other(3), "state_dict": other(2)}},
            "model.state_dict",
            ["model.optimizer"],
            2,
        ),
        ({"ema": {"module": other(2), "decay": 0.5}, "optim": other(3)}, "ema.module", ["optim"], 2),
        ({"model": other(2), "ema": other(3)}, "model", ["ema"], 2),
        (
            {"state_dict": other(3), "state_dict_ema": {"module": other(2)}},
            "state_dict_ema.module",
            ["state_dict"],
            2,
        ),
        (
            {"model_state_dict": other(2), "ema_state_dict": other(3)},
            "model_state_dict",
            ["ema_state_dict"],
            2,
        ),
        ({"a": {"b": {"c": other(2)}}}, "a.b.c", [], 2),
        ({"net": {"model": {"module": other(2)}}, "rng_state": np.arange(9)}, "net.model.module", [], 2),
        ({"weights": other(2), "rng_state": np.arange(9, dtype="u1")}, "weights", [], 2),
        ({"weights": other(2), "best": np.array(1.0)}, "weights", [], 2),
        ({"state_dict": other(2), "best": np.array(1.0)}, "state_dict", [], 2),
    ],
)
def test_the_usual_places(writer, content, tmp_path, held, key, others, factor):
    path = writer.write_zip(tmp_path / "a.pth", content(held))
    state = find_state_dict(read_source(path))
    assert (state.key, state.others) == (key, others)
    np.testing.assert_array_equal(state.arrays["w"], W["w"] * factor)
    assert (key or "bare state dict") in str(state)
    if others:
        assert f"also there: {others[0]} (choose with --key)" in str(state)
        assert find_state_dict(read_source(path), others[0]).key == others[0]


def test_keys_that_are_not_there(writer, content, tmp_path):
    path = writer.write_zip(tmp_path / "a.pth", content({"student": W, "teacher": W}))
    with pytest.raises(CheckpointError, match=r"several state dicts: choose one with --key student\|teacher"):
        find_state_dict(read_source(path))
    with pytest.raises(CheckpointError, match="has no state dict 'model'; it has student, teacher"):
        find_state_dict(read_source(path), "model")
    assert find_state_dict(read_source(path), "teacher").arrays.keys() == W.keys()
    path = writer.write_zip(tmp_path / "a.pth", content({"epoch": 3}))
    with pytest.raises(CheckpointError, match=r"holds no tensors by name: it is PyTorch .* the keys epoch"):
        find_state_dict(read_source(path))
    path = writer.write_zip(tmp_path / "a.pth", [1])
    with pytest.raises(CheckpointError, match="with a list"):
        find_state_dict(read_source(path))


def test_entries_that_are_no_tensors_are_named(writer, content, tmp_path):
    path = writer.write_zip(tmp_path / "a.pth", content({**W, "epoch": 3, "note": "x"}))
    assert find_state_dict(read_source(path)).skipped == [("epoch", "int"), ("note", "str")]


def test_numpy(tmp_path):
    np.savez(tmp_path / "a.npz", **W)
    source = read_source(tmp_path / "a.npz")
    assert source.layout == "torch"
    np.testing.assert_array_equal(find_state_dict(source).arrays["w"], W["w"])
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    with pytest.raises(CheckpointError, match="refused"):
        read_source(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?"])
def test_safetensors(tmp_path, dtype):
    wanted = np.array([[0, 1, 3], [1, 0, 1]]).astype(dtype)
    save_file(
        {"a": wanted, "s": np.array(1, dtype), "e": np.zeros((0, 2), dtype)}, tmp_path / "a.safetensors"
    )
    source = read_source(tmp_path / "a.safetensors")
    got = find_state_dict(source).arrays
    assert source.layout == "torch" and got["a"].dtype == dtype and got["s"].shape == ()
    assert got["e"].shape == (0, 2)
    np.testing.assert_array_equal(got["a"], wanted)


def safetensors(path, entry, data):
    header = json.dumps({"a": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def test_safetensors_by_hand(tmp_path):
    path = tmp_path / "a.safetensors"
    entry = {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}
    safetensors(path, entry, b"\x80\x3f\x00\xc0")
    np.testing.assert_array_equal(find_state_dict(read_source(path)).arrays["a"], np.array([1, -2], "f4"))
    for change, message in (
        ({"dtype": "F4"}, "type 'F4', which is not read here"),
        ({"dtype": ["F4"]}, "damaged"),
        ({"shape": [3]}, "has 4 bytes"),
        ({"data_offsets": [2, 6]}, "beyond its end"),
        ({"data_offsets": [-4, 0]}, "damaged"),
        ({"shape": "x"}, "damaged"),
        ({"shape": [2**70, 0], "data_offsets": [0, 0]}, "damaged"),
        ({"shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}, "damaged"),
        ({"shape": [1] * 40, "data_offsets": [0, 2]}, "damaged"),
        ({"shape": [1], "data_offsets": [2, 4]}, "overlap"),
        ({"shape": [1e400]}, "damaged"),
    ):
        safetensors(path, {**entry, **change}, b"\x80\x3f\x00\xc0")
        with pytest.raises(CheckpointError, match=message):
            read_source(path)
    data = safetensors(path, entry, b"\x80\x3f\x00\xc0").read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=str(path)):
            find_state_dict(read_source(path))


@pytest.mark.parametrize("mark", [b"\x80", b"PK", b"\x1f\x8b", b"<"])
def test_safetensors_whose_length_looks_like_another_kind(tmp_path, mark):
    length = int.from_bytes(mark, "little") + (1024 if len(mark) == 1 else 0)
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
    path = tmp_path / "a.pth"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert path.read_bytes().startswith(mark)
    assert find_state_dict(read_source(path)).arrays["a"] == 0


def test_files_of_this_project_and_of_paddle(tmp_path):
    raw, ema = {"model.w": W["w"]}, {"ema.w": W["w"] * 2, "optimizer.w|m": W["w"]}
    write_checkpoint(tmp_path / "a.safetensors", {**raw, **ema}, {"best_by": "ema"})
    source = read_source(tmp_path / "a.safetensors")
    state = find_state_dict(source)
    assert (source.layout, state.key, state.others) == ("paddle", "ema", ["model"])
    np.testing.assert_array_equal(state.arrays["w"], W["w"] * 2)
    tensors = {name: paddle.to_tensor(value) for name, value in W.items()}
    paddle.save(tensors, str(tmp_path / "a.pdparams"))
    source = read_source(tmp_path / "a.pdparams")
    assert source.layout == "paddle" and find_state_dict(source).key == ""
    paddle.save({"epoch": 3, "state_dict": tensors}, str(tmp_path / "epoch_3.pd"))  # PASSL's checkpoints
    state = find_state_dict(read_source(tmp_path / "epoch_3.pd"))
    assert state.key == "state_dict"
    np.testing.assert_array_equal(state.arrays["w"], W["w"])


def test_other_files(tmp_path):
    tar = tmp_path / "real.pth.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(__file__, "x")
    for name, data, message in (
        ("a.pth", b"", "is empty"),
        ("a.pth", b"hello", "is damaged, or no .pth"),
        ("a.pth", b"\n<!DOCTYPE html>", "a web page: the download failed"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS"),
        ("a.pth", gzip.compress(b"1"), "compressed by gzip"),
        ("a.pth", b"PK\x03\x04", "damaged or cut short"),
        ("a.pth", pickle.dumps({"w": np.ones(2)}), "a pickle that torch.save didn't write"),
        ("a.safetensors", b"\x00" * 20, "cut short"),
        ("real.pth.tar", None, "a tar archive: unpack it first"),
    ):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(CheckpointError, match=message) as caught:
            read_source(path)
        assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError, match=r"no file .*nothing.pth; .* has a.pth, a.safetensors, real"):
        read_source(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match="no file"):
        read_source(tmp_path)
