"""PyTorch's formats from hand-made files: what tensors come out, and what is refused."""

import argparse
import os
import pathlib
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from passl_sot.weights import CheckpointError
from passl_sot.weights.find import find_state_dict, read_source

FORMATS = ("zip", "legacy")


@pytest.fixture(params=FORMATS)
def save(request, writer, tmp_path):
    """Writes a file in one of the two formats and gives its path."""

    def write(content, name="a.pth"):
        function = writer.write_zip if request.param == "zip" else writer.write_legacy
        return function(tmp_path / name, content)

    return write


def arrays(path, key=None) -> dict:
    return find_state_dict(read_source(path), key).arrays


@pytest.mark.parametrize("kind", ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "b1", "c8"])
def test_types(save, writer, kind):
    wanted = np.array([[0, 1, 2], [3, 4, 100]]).astype(kind)
    got = arrays(save(OrderedDict(a=writer.Tensor.of(wanted))))["a"]
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)


def test_bfloat16_becomes_float32(save, writer):
    values = np.array([1.0, -2.5, 3.0e38, 1e-40, np.inf], "f4")
    got = arrays(save({"a": writer.Tensor.of(values, "bf16")}))["a"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view("u4"), values.view("u4") & 0xFFFF0000)


def test_views(save, writer):
    base = np.arange(24, dtype="f4")
    storage = writer.Storage(base)
    content = {
        "whole": writer.Tensor(storage, 0, (4, 6), (6, 1)),
        "turned": writer.Tensor(storage, 0, (6, 4), (1, 6)),
        "part": writer.Tensor(storage, 7, (2, 2), (6, 3)),
        "scalar": writer.Tensor(storage, 5, (), ()),
        "repeated": writer.Tensor(storage, 2, (3, 2), (0, 1)),
        "empty": writer.Tensor(storage, 0, (0, 6), (6, 1)),
        "nothing": writer.Tensor(writer.Storage(np.zeros(0, "f4")), 0, (0,), (1,)),
        "parameter": writer.Parameter(storage, 3, (2,), (1,)),
    }
    got = arrays(save(content))
    grid = base.reshape(4, 6)
    wanted = {
        "whole": grid,
        "turned": grid.T,
        "part": grid[1:3, 1:5:3],
        "scalar": np.array(5, "f4"),
        "repeated": np.tile(base[2:4], (3, 1)),
        "empty": np.zeros((0, 6), "f4"),
        "nothing": np.zeros(0, "f4"),
        "parameter": base[3:5],
    }
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].shape == value.shape and got[name].dtype == value.dtype, name
        assert got[name].flags.c_contiguous and got[name].flags.writeable
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_what_hangs_on_a_checkpoint(save, writer):
    weights = OrderedDict(w=writer.Tensor.of(np.ones(3, "f4")))
    weights._metadata = OrderedDict({"": {"version": 1}})  # as module.state_dict() has
    content = {
        "state_dict": weights,
        "epoch": 3,
        "args": argparse.Namespace(lr=1e-3, output=pathlib.PurePosixPath("/out"), kinds={1, 2}),
        "best": np.float64(81.5),
        "history": np.arange(3),
        "optimizer": {"state": {0: {"exp_avg": writer.Tensor.of(np.ones(3, "f4"))}}, "param_groups": []},
    }
    source = read_source(save(content, "model.pth.tar"))
    assert source.content["args"].state["lr"] == 1e-3
    assert source.content["best"] == 81.5
    state = find_state_dict(source)
    assert (state.key, list(state.arrays), state.others) == ("state_dict", ["w"], [])


class Call:
    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        return self.how


def hostile(target, writer) -> dict:
    """Calls at every place where a file could hide one."""
    call = Call(os.system, (f"touch {target}",))
    tensor = writer.Tensor.of(np.ones(2, "f4"))
    storage = writer.Storage(np.ones(2, "f4"))
    return {
        "top": call,
        "entry": {"state_dict": {"w": tensor}, "args": [call]},
        "key": {"w": tensor, (1, call): 2},
        "offset": {"w": writer.Tensor(storage, call, (2,), (1,))},
        "size": {"w": writer.Tensor(storage, 0, (call,), (1,))},
        "attribute": {"w": tensor, "n": argparse.Namespace(x=call)},
        "evaluated": {"w": tensor, "x": Call(eval, (f"open({str(target)!r}, 'w')",))},
    }


@pytest.mark.parametrize("case", ["top", "entry", "key", "offset", "size", "attribute", "evaluated"])
def test_hostile_files_are_refused_by_name_and_not_run(save, writer, tmp_path, case):
    target = tmp_path / "ran"
    path = save(hostile(target, writer)[case])
    name = "builtins.eval" if case == "evaluated" else "posix.system"
    with pytest.raises(CheckpointError, match=rf"{path}.*asks for {name}, .* nothing was run"):
        read_source(path)
    assert not target.exists()


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        (b"(Vmodule\nVNet\nVnet.py\nVsource\ntQ", "refers to a 'module' outside"),
        (b"(Vstorage\ncos\nsystem\nV0\nVcpu\nK\x02t", "asks for os.system"),
        (b"(Vstorage\ncposix\nsystem\n(Vtrue\ntRV0\nVcpu\nK\x02t", "asks for posix.system"),
        (b"(Vstorage\nctorch\nQInt8Storage\nV0\nVcpu\nK\x02t", "asks for torch.QInt8Storage"),
        (b"(Vstorage\nctorch\nfloat32\nV0\nVcpu\nK\x02t", "storage of type torch.float32"),
        (b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nJ\xff\xff\xff\xfft", "is damaged"),
        (b"(Vstorage\nctorch\nFloatStorage\nNVcpu\nK\x02t", "is damaged"),
        (b"Vposix\n", "refers to a 'posix' outside"),
    ],
)
def test_hostile_persistent_identifiers(writer, tmp_path, fmt, identifier, message):
    text = b"\x80\x02" + identifier + b"Q."
    path = tmp_path / "a.pth"
    if fmt == "zip":
        writer.write_zip(path, {}, data__pkl=text)
    else:
        path.write_bytes(writer.legacy_bytes({}).replace(b"\x80\x02}q\x00.", text))
    with pytest.raises(CheckpointError, match=message):
        read_source(path)


def test_unsound_tensors(save, writer):
    storage = writer.Storage(np.ones(6, "f4"))
    for size, stride, offset in (((7,), (1,), 0), ((6,), (1,), 1), ((2, 3), (6, 1), 0), ((2**40,), (0,), 0)):
        path = save({"w": writer.Tensor(storage, offset, size, stride)})
        with pytest.raises(CheckpointError, match=r"w: it (is damaged|has .* bytes and would take)"):
            arrays(path)
    for size, stride, offset in (((-1,), (1,), 0), ((2,), (-1,), 1), ((2, 3), (1,), 0), ((2,), (1,), "0")):
        path = save({"w": writer.Tensor(storage, offset, size, stride)})
        with pytest.raises(CheckpointError, match="is damaged"):
            arrays(path)


def test_a_whole_model_is_refused_with_advice(save, writer):
    path = save(Call(writer.MODULES["torch._utils"]._rebuild_qtensor, ()))
    with pytest.raises(CheckpointError, match=r"asks for torch\._utils\._rebuild_qtensor.*save model\.state"):
        read_source(path)


def test_truncated_files_are_errors_everywhere(save, writer):
    path = save({"state_dict": {f"w{i}": writer.Tensor.of(np.ones(9, "f4")) for i in range(3)}, "epoch": 1})
    data = path.read_bytes()
    cut = path.with_name("cut.pth")
    for length in range(0, len(data), 3):
        cut.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=str(cut)):
            arrays(cut)


def test_bytes_that_fell_over_are_noticed(writer, tmp_path):
    path = writer.write_zip(tmp_path / "a.pth", {"w": writer.Tensor.of(np.full(100, 7.0, "f4"))})
    data = bytearray(path.read_bytes())
    place = data.index(struct.pack("<f", 7.0) * 3)
    data[place + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"w: it is damaged .*CRC"):
        arrays(path)


def test_odd_zip_files(writer, tmp_path):
    content = {"w": writer.Tensor.of(np.ones(3, "f4"))}
    for replaced, message in (
        ({"data_0": None}, "there is no archive/data/0"),
        ({"data_0": b"1234"}, "has 4 bytes of 12"),
        ({"data__pkl": None}, "no data.pkl"),
        ({"code/x.py": b"1"}, "TorchScript"),
    ):
        with pytest.raises(CheckpointError, match=message):
            arrays(writer.write_zip(tmp_path / "a.pth", content, **replaced))
    path = writer.write_zip(tmp_path / "a.pth", content)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="is compressed"):
        arrays(tmp_path / "b.pth")


def test_the_other_byte_order(writer, tmp_path):
    values = np.array([1.0, 2.0, 3.0])
    content = {"w": writer.Tensor.of(values)}
    turned = values.astype(">f8").tobytes()
    path = writer.write_zip(tmp_path / "a.pth", content, byteorder=b"big", data_0=turned)
    np.testing.assert_array_equal(arrays(path)["w"], values)


def test_protocol_4_and_short_files(writer, tmp_path):
    content = {"w": writer.Tensor.of(np.ones(3, "f4"))}
    path = writer.write_legacy(tmp_path / "a.pt", content, protocol=4)
    assert list(arrays(path)) == ["w"]


def test_files_with_wrong_bytes_give_numbers_or_one_kind_of_error(save, writer):
    path = save({"state_dict": {"w": writer.Tensor.of(np.ones((2, 3), "f4"))}, "epoch": 3})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            arrays(path)
        except CheckpointError as error:
            assert str(path) in str(error)
