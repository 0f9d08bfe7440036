"""Small files that ask for much memory are refused before they get it; honest ones are read."""

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from passl_sot.weights import CheckpointError
from passl_sot.weights.budget import LIMIT, Budget
from passl_sot.weights.find import find_state_dict, read_source

# Reads a file in a process of little address space, and prints the error and the growth of its peak, in MB.
READ = """
import resource, sys
from pathlib import Path
from passl_sot.weights import CheckpointError
from passl_sot.weights.checkpoint import read_weights
from passl_sot.weights.find import find_state_dict, read_source

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000

size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 3 * 10**9
resource.setrlimit(resource.RLIMIT_AS, (size, size))
before = peak()
try:
    if sys.argv[1].endswith((".pth", ".npz")):
        find_state_dict(read_source(sys.argv[1]))
    else:
        read_weights(sys.argv[1])
except CheckpointError as error:
    print(error)
print(peak() - before)
"""


def read_in_a_child(path: Path) -> tuple[str, int]:
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    *said, grown = done.stdout.splitlines()
    return "\n".join(said), int(grown)


def pickle_of(shared: bytes, made: bytes, count: int) -> bytes:
    """A list of what `made` leaves on the stack, so many times; `shared` comes first, and leaves nothing."""
    return b"\x80\x02" + shared + b"(" + made * count + b"l."


def calls(name: bytes, argument: bytes) -> bytes:
    """A pickle that calls a function with one memoised argument, over and over."""
    shared = argument + b"\x85q\x010c" + name + b"\nq\x020"
    return pickle_of(shared, b"h\x02h\x01R", 150_000)


def text(length: int) -> bytes:
    return b"X" + length.to_bytes(4, "little") + b"x" * length


def array_states() -> bytes:
    """Arrays of Python 2, whose bytes are a text, all of one memoised text."""
    dtype = b"cnumpy\ndtype\n(Vu1\ntR"
    state = b"(K\x01" + b"J\x40\x42\x0f\x00\x85" + dtype + b"\x89" + text(1_000_000) + b"tq\x010"
    return pickle_of(state, b"cnumpy.core.multiarray\n_reconstruct\n)Rh\x01b", 20_000)


def sets() -> bytes:
    """Of one large list, over and over: each is small, but takes a while to make."""
    shared = b"](" + b"N" * 10**5 + b"e\x85q\x010c__builtin__\nset\nq\x020"
    return pickle_of(shared, b"h\x02h\x01R", 50_000)


def arguments() -> bytes:
    shared = b"(" + b"N" * 10**5 + b"tq\x010cnumpy.core.multiarray\n_reconstruct\nq\x020"
    return pickle_of(shared, b"h\x02h\x01R0", 100_000)


def slices() -> bytes:
    """A parameter that is joined of a thousand slices, which are one array."""
    array = np.zeros(2**18, "f4")
    held = {f"p{n}": array for n in range(1000)}
    plan = {"w": {"slices": list(held), "OriginShape": [1000, 2**18]}}
    return pickle.dumps({**held, "UnpackBigParamInfor@@": plan}, protocol=4)


def dictionaries() -> bytes:
    """Four dictionaries in each other, each a thousand times under other names."""
    inner = b"}q\x010"
    for level in range(4):
        entries = b"".join(b"V%d\nh%c" % (n, level + 1) for n in range(1000))
        inner += b"}(" + entries + b"uq" + bytes([level + 2]) + b"0"
    return b"\x80\x02" + inner + b"h\x05."


@pytest.fixture
def hostile(writer, tmp_path):
    """Writes an attack and gives its path."""

    def npz() -> Path:
        path = tmp_path / "a.npz"
        header = str({"descr": "<f8", "fortran_order": False, "shape": (5 * 10**6,)}).encode()
        member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(40 * 10**6)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for number in range(8):
                archive.writestr(f"{number}.npy", member)
        return path

    def repeated() -> Path:
        storage = writer.Storage(np.ones(6, "f4"))
        views = {f"w{n}": writer.Tensor(storage, 0, (2**14, 2**11 + n), (0, 0)) for n in range(32)}
        return writer.write_zip(tmp_path / "a.pth", views)

    def views() -> Path:
        storage = writer.Storage(np.ones(2**21, "f4"))
        views = {f"w{n}": writer.Tensor(storage, n, (2**21 - 300,), (1,)) for n in range(300)}
        return writer.write_legacy(tmp_path / "a.pth", views)

    def header() -> Path:
        body = b'{"a": [' + b"[]," * 3_000_000 + b"[]]}"
        return write("safetensors", len(body).to_bytes(8, "little") + body)

    def write(suffix: str, data: bytes) -> Path:
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(data)
        return path

    return {
        "copies of a list": lambda: write(
            "pdparams", calls(b"__builtin__\nlist", b"](" + b"N" * 10**5 + b"e")
        ),
        "copies of a text": lambda: write("pdparams", calls(b"_codecs\nencode", text(300_000))),
        "parts of a text": lambda: write("pdparams", calls(b"__builtin__\ntuple", text(300_000))),
        "texts of arrays": lambda: write("pdparams", array_states()),
        "dictionaries": lambda: write("pdparams", dictionaries()),
        "sets of a list": lambda: write("pdparams", sets()),
        "many arguments": lambda: write("pdparams", arguments()),
        "slices of one array": lambda: write("pdparams", slices()),
        "strides of 0": repeated,
        "overlapping views": views,
        "compressed zeros": npz,
        "a long header": header,
    }


@pytest.mark.parametrize(
    "attack",
    [
        "copies of a list",
        "copies of a text",
        "parts of a text",
        "texts of arrays",
        "dictionaries",
        "sets of a list",
        "many arguments",
        "slices of one array",
        "strides of 0",
        "overlapping views",
        "compressed zeros",
        "a long header",
    ],
)
def test_attacks(hostile, attack):
    path = hostile[attack]()
    said, grown = read_in_a_child(path)
    assert str(path) in said
    if attack != "parts of a text":
        assert f"allow more by the environment variable {LIMIT}=GB" in said
    assert grown < 500 + path.stat().st_size // 10**6 * 16


def test_one_view_under_many_names_is_one_array(writer, tmp_path):
    """Tied weights; 300 of them would be too many for the budget of their file as copies."""
    storage = writer.Storage(np.arange(2**21, dtype="f4"))
    tied = {f"w{n}": writer.Tensor(storage, 0, (2**11, 2**10), (2**10, 1)) for n in range(300)}
    path = writer.write_zip(tmp_path / "a.pth", {**tied, "turned": writer.Tensor(storage, 0, (2,), (5,))})
    arrays = find_state_dict(read_source(path)).arrays
    assert all(arrays[name] is arrays["w0"] for name in tied)
    assert arrays["w299"][-1, -1] == 2**21 - 1 and arrays["turned"].tolist() == [0, 5]


def test_views_of_a_fused_state(writer, tmp_path):
    """Parts of one storage that don't overlap take together what the file has."""
    storage = writer.Storage(np.arange(300 * 2**17, dtype="f4"))
    parts = {f"w{n}": writer.Tensor(storage, n * 2**17, (2**17,), (1,)) for n in range(300)}
    path = writer.write_zip(tmp_path / "a.pth", parts)
    arrays = find_state_dict(read_source(path)).arrays
    assert [arrays[f"w{n}"][0] for n in range(300)] == [n * 2**17 for n in range(300)]


def test_honest_files_are_read(writer, tmp_path, monkeypatch):
    """With nothing allowed but a multiple of the size: 16 bits that are widened, and compressed weights."""
    monkeypatch.setattr("passl_sot.weights.budget._FREE", 2**20)
    values = np.random.default_rng(0).standard_normal(10**6).astype("f4")
    for kind in ("bf16", "f2"):
        held = {"w": writer.Tensor.of(values if kind == "bf16" else values.astype("f2"), kind)}
        arrays = find_state_dict(read_source(writer.write_zip(tmp_path / "a.pth", held))).arrays
        assert np.allclose(arrays["w"], values, rtol=0.01)
    values[values < 1] = 0
    np.savez_compressed(tmp_path / "a.npz", w=values)
    np.testing.assert_array_equal(find_state_dict(read_source(tmp_path / "a.npz")).arrays["w"], values)


def test_the_limit_can_be_set(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, w=np.zeros(10**6))
    for limit in ("1", "0.009"):
        monkeypatch.setenv(LIMIT, limit)
        assert find_state_dict(read_source(path)).arrays["w"].shape == (10**6,)
    monkeypatch.setenv(LIMIT, "0.007")
    refusal = rf"a\.npz has .* bytes and would take more than 0\.007 GB .*{LIMIT}=GB"
    with pytest.raises(CheckpointError, match=refusal):
        read_source(path)
    for limit in ("much", "nan", "0", "-1", "inf", ""):
        monkeypatch.setenv(LIMIT, limit)
        with pytest.raises(CheckpointError, match=f"{LIMIT} is '{limit}', not a number of GB"):
            read_source(path)


def test_a_tensor_of_many_axes_is_refused_at_once(tmp_path):
    """Their product alone would take hours."""
    entry = {"dtype": "F32", "shape": [2**62] * 60_000, "data_offsets": [0, 4]}
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match=r"is damaged \('a' has 60,000 axes\)"):
        read_source(path)


def test_a_compression_whose_pieces_have_no_bound_is_refused(tmp_path):
    """Python's zipfile unpacks bzip2 and LZMA by whole pieces of the file, however large they become."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", bytes(1000))
    with pytest.raises(CheckpointError, match="compressed in a way that NumPy never does"):
        read_source(path)


def test_an_array_is_no_magic_number(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps(np.ones(3), protocol=5))
    with pytest.raises(CheckpointError, match=r"a pickle that torch\.save didn't write"):
        read_source(path)


def test_the_machines_memory_is_a_limit(monkeypatch):
    monkeypatch.setattr("passl_sot.weights.budget.machine_memory", lambda: 10**6)
    with pytest.raises(CheckpointError, match=r"more than 0\.001 GB"):
        Budget(0).take(10**6 + 1)
