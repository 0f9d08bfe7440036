"""Files that PyTorch itself wrote, and files that it is to read; PyTorch runs in a process of its own."""

import subprocess
import zipfile

import numpy as np
import pytest

from passl_sot.weights import CheckpointError
from passl_sot.weights.find import find_state_dict, read_source

WRITE = """
import argparse, collections, pathlib, sys
import numpy as np, torch
folder = sys.argv[1]
torch.manual_seed(0)
base = torch.arange(24.0).reshape(4, 6)
state = collections.OrderedDict(
    whole=base, turned=base.t(), part=base[1:3, ::2], repeated=torch.tensor([2.0]).expand(3, 4),
    scalar=torch.tensor(7), empty=torch.zeros(0, 3), parameter=torch.nn.Parameter(torch.randn(2, 2)),
    bfloat16=torch.randn(3, 4).bfloat16(), half=torch.randn(5).half(), double=torch.randn(2).double(),
    logical=torch.tensor([True, False]), int8=torch.tensor([-3], dtype=torch.int8),
    uint16=torch.tensor([1, 2], dtype=torch.uint16), complex=torch.randn(2).to(torch.complex64),
)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
optimizer = torch.optim.AdamW(net.parameters())
net(torch.randn(2, 3, 4, 4)).sum().backward()
optimizer.step()
checkpoint = dict(
    epoch=3, state_dict=state, state_dict_ema=net.state_dict(), optimizer=optimizer.state_dict(),
    args=argparse.Namespace(
        lr=1e-3, device=torch.device("cpu"), dtype=torch.float32, path=pathlib.Path("/x"), kinds={1, 2},
        array=np.arange(3), size=torch.Size([1, 2]), metric=np.float64(3.5),
    ),
    best=torch.tensor(81.5), rest=collections.defaultdict(list, {"a": [1]}),
)
torch.save(checkpoint, folder + "/zip.pth")
torch.save(checkpoint, folder + "/legacy.pth.tar", _use_new_zipfile_serialization=False)
torch.save(net, folder + "/model.pth")
torch.save(net, folder + "/model_legacy.pth", _use_new_zipfile_serialization=False)
torch.jit.script(net).save(folder + "/script.pt")
simple = collections.OrderedDict(
    a=torch.arange(6.0).reshape(2, 3), b=torch.arange(4).half(), c=torch.arange(3), d=torch.tensor(True)
)
shared = torch.arange(8.0)
simple["e"], simple["f"] = shared[2:], torch.nn.Parameter(shared.view(2, 4))
simple["g"] = torch.tensor([1.0, -2.5]).bfloat16()
torch.save({"model": simple, "epoch": 3}, folder + "/simple.pth")
torch.save({"model": simple, "epoch": 3}, folder + "/simple_legacy.pth", _use_new_zipfile_serialization=False)
arrays = {k: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy() for k, v in state.items()}
np.savez(folder + "/wanted.npz", **arrays)
"""

READ = """
import sys
import torch
for name in sys.argv[1:]:
    got = torch.load(name, weights_only=True)["model"]
    assert got["a"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] and got["b"].dtype == torch.float16
    assert got["f"].tolist() == [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]] and got["e"].tolist()[0] == 2.0
    assert got["g"].tolist() == [1.0, -2.5] and got["d"].item() is True
"""


def run(python: str, code: str, *arguments: object) -> None:
    command = [python, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(torch_python, tmp_path_factory):
    path = tmp_path_factory.mktemp("torch")
    run(torch_python, WRITE, path)
    return path


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth.tar"])
def test_checkpoints(folder, name):
    source = read_source(folder / name)
    state = find_state_dict(source, "state_dict")
    with np.load(folder / "wanted.npz") as wanted:
        assert set(state.arrays) == set(wanted.files)
        for key in wanted.files:
            assert (
                state.arrays[key].dtype == wanted[key].dtype and state.arrays[key].shape == wanted[key].shape
            )
            np.testing.assert_array_equal(state.arrays[key], wanted[key], err_msg=key)
    assert find_state_dict(source).key == "state_dict_ema"
    assert "1.num_batches_tracked" in find_state_dict(source).arrays
    facts = source.content["args"].state
    assert (facts["lr"], facts["size"], facts["metric"]) == (1e-3, (1, 2), 3.5)


@pytest.mark.parametrize("name", ["model.pth", "model_legacy.pth", "script.pt"])
def test_whole_models_are_refused(folder, name):
    with pytest.raises(CheckpointError, match=r"asks for torch\.nn\.modules|TorchScript"):
        read_source(folder / name)


def simple(writer) -> dict:
    shared = writer.Storage(np.arange(8, dtype="f4"))
    model = writer.OrderedDict(
        a=writer.Tensor.of(np.arange(6, dtype="f4").reshape(2, 3)),
        b=writer.Tensor.of(np.arange(4, dtype="f2")),
        c=writer.Tensor.of(np.arange(3)),
        d=writer.Tensor.of(np.array(True)),
        e=writer.Tensor(shared, 2, (6,), (1,)),
        f=writer.Parameter(shared, 0, (2, 4), (4, 1)),
        g=writer.Tensor.of(np.array([1.0, -2.5], "f4"), "bf16"),
    )
    return {"model": model, "epoch": 3}


def test_our_writer_writes_what_torch_writes(folder, writer, torch_python, tmp_path):
    """The hand-made files of the other tests are PyTorch's, byte for byte where they can be."""
    with zipfile.ZipFile(folder / "simple.pth") as archive:
        theirs = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    assert writer.pickled(simple(writer))[0] == theirs
    data = (folder / "simple_legacy.pth").read_bytes()
    keys = [storage.key for storage in legacy_storages(folder / "simple_legacy.pth")]
    assert writer.legacy_bytes(simple(writer), keys=keys) == data
    zip_file = writer.write_zip(tmp_path / "a.pth", simple(writer))
    legacy = writer.write_legacy(tmp_path / "b.pth", simple(writer))
    run(torch_python, READ, zip_file, legacy)


def legacy_storages(path) -> list:
    """Storages in the order in which the file mentions them."""
    found = []
    for tensor in read_source(path).content["model"].values():
        if tensor.storage.key not in [storage.key for storage in found]:
            found.append(tensor.storage)
    return found
