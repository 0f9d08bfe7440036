"""Checkpoints: whole or not at all, verified, and nothing in them is ever run."""

import copy
import errno
import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save

from passl_sot import Predictor
from passl_sot.tasks.base import check_card
from passl_sot.weights import checkpoint as ckpt
from passl_sot.weights.checkpoint import CheckpointError, read_checkpoint, read_weights, write_checkpoint

TENSORS = {
    "model.a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "ema.a": np.ones((2, 3), np.float32),
    "model.b": np.zeros((0,), np.float32),
    "optimizer.a|_m": np.float32([1]),
}
META = {
    "class_names": ["猫", "b"],
    "best_by": "ema",
    "config": {"model": {"architecture": {"name": "SoT"}, "head": {"name": "LinearHead", "num_classes": 2}}},
    "preprocessing": {"transforms": []},
    "progress": {"epoch": 1},
}


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, TENSORS, META)
    return path


def test_round_trip(file):
    saved = read_checkpoint(file)
    assert saved.meta["class_names"] == ["猫", "b"]
    assert saved.tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(saved.tensors[name], value)
    assert list(file.parent.iterdir()) == [file]


def test_weights_of_the_kind_asked_for(file):
    np.testing.assert_array_equal(read_weights(file)[0]["a"], TENSORS["ema.a"])
    np.testing.assert_array_equal(read_weights(file, "raw")[0]["a"], TENSORS["model.a"])
    only_raw = file.with_name("raw.safetensors")
    write_checkpoint(only_raw, {"model.a": TENSORS["model.a"]}, {})
    with pytest.raises(CheckpointError, match="no ema weights; it holds raw"):
        read_weights(only_raw, "ema")


@pytest.mark.parametrize("cut", [1, 7, 100, 400])
def test_truncated(file, cut):
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match=r"last\.safetensors is damaged"):
        read_checkpoint(file)


def test_one_flipped_bit(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="don't match the checksum"):
        read_checkpoint(file)


def rewrite(path: Path, change) -> None:
    """Writes the file anew with its JSON text changed but the old checksum, as a fault of a disk would."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["passl_sot"] = change(header["__metadata__"]["passl_sot"])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_the_checksum_covers_the_json_text_and_the_shapes(file):
    before = file.read_bytes()
    rewrite(file, lambda text: text)
    assert read_checkpoint(file).meta["class_names"] == ["猫", "b"]
    rewrite(file, lambda text: text.replace('"b"', '"c"'))
    with pytest.raises(CheckpointError, match="don't match the checksum"):
        read_checkpoint(file)
    file.write_bytes(before.replace(b"[2,3]", b"[3,2]", 1))
    with pytest.raises(CheckpointError, match="don't match the checksum"):
        read_checkpoint(file)
    file.write_bytes(before)
    rewrite(file, lambda text: text.replace('"format": 2', '"format": 1'))
    with pytest.raises(CheckpointError, match="don't match the checksum"):
        read_checkpoint(file)


def test_format_1_is_still_read(tmp_path):
    total = hashlib.sha256()
    for name in sorted(TENSORS):
        total.update(name.encode())
        total.update(TENSORS[name].tobytes())
    header = {"passl_sot": json.dumps({"format": 1, **META}), "sha256": total.hexdigest()}
    path = tmp_path / "old.safetensors"
    path.write_bytes(save(TENSORS, metadata=header))
    assert read_checkpoint(path).meta["class_names"] == ["猫", "b"]
    np.testing.assert_array_equal(read_weights(path)[0]["a"], TENSORS["ema.a"])


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ('"format": 3', r"last\.safetensors is of format 3, written by a newer version"),
        ('"format": "x"', r"last\.safetensors is damaged: its header has no format number"),
        ('"form": 2', r"last\.safetensors is damaged: its header has no format number"),
        ('"format": 2,', r"last\.safetensors is damaged: its header is no JSON text"),
    ],
)
def test_headers_that_are_not_ours(file, new, message):
    rewrite(file, lambda text: text.replace('"format": 2', new))
    for read in (read_checkpoint, read_weights):
        with pytest.raises(CheckpointError, match=message):
            read(file)
    file.write_bytes(save({"a": np.ones(1)}, metadata={"passl_sot": "[" * 100_000, "sha256": ""}))
    with pytest.raises(CheckpointError, match="is no JSON text"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("config", None, "has no config$"),
        ("config.model", None, r"has no config\.model$"),
        ("config.model.head.num_classes", None, r"has no config\.model\.head\.num_classes$"),
        ("config.model.head", [1], r"config\.model\.head in its header is a list, not a dict"),
        ("class_names", None, "has no class_names$"),
        ("class_names", [1, 2], "class_names in its header holds something else than names"),
        ("class_names", ["a"], r"class_names in its header has 1 entries, but its model 2 classes"),
        ("preprocessing", None, "has no preprocessing$"),
        ("preprocessing.transforms", None, r"has no preprocessing\.transforms$"),
        ("progress", None, "has no progress$"),
    ],
)
def test_what_is_missing_is_named(file, key, value, message):
    meta = copy.deepcopy(META)
    *way, last = key.split(".")
    node = meta
    for part in way:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    write_checkpoint(file, TENSORS, meta)
    for read in (lambda path: read_checkpoint(path, check_card), Predictor):
        with pytest.raises(CheckpointError, match=message) as caught:
            read(file)
        assert "last.safetensors" in str(caught.value)
    with pytest.raises(CheckpointError, match="can be read"):
        ckpt.find_latest(file.parent, lambda _: None, check_card)


def test_an_unknown_choice_of_weights(file):
    write_checkpoint(file, TENSORS, {**META, "best_by": "swa"})
    with pytest.raises(CheckpointError, match="best_by in its header is 'swa'"):
        read_weights(file)


def test_the_suffix_may_be_left_out(file):
    assert read_checkpoint(file.with_suffix("")).path == file
    assert read_checkpoint(str(file.with_suffix(""))).path == file


def test_missing_names_the_neighbours(file):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*bset\.safetensors; .* has last\.safetensors"):
        read_checkpoint(file.with_name("bset.safetensors"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_failed_write_leaves_the_old_one(file, monkeypatch, number):
    before = file.read_bytes()

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ckpt.os, "fsync", fail)
    with pytest.raises(CheckpointError, match=r"can't write checkpoint .*The previous one is untouched"):
        write_checkpoint(file, {"model.a": np.ones(9, np.float32)}, {})
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_really_full_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(mount)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine doesn't allow mounting")
    try:
        path = mount / "last.safetensors"
        write_checkpoint(path, TENSORS, {})
        with pytest.raises(CheckpointError, match="No space left on device"):
            write_checkpoint(path, {"model.a": np.zeros(100_000, np.float32)}, {})
        assert read_checkpoint(path).tensors.keys() == TENSORS.keys()
    finally:
        subprocess.run(["umount", str(mount)], check=True)


# Forks a writer for each line on its standard input, so that imports are waited for only once.
WRITER = """
import itertools, os, sys, numpy as np
from pathlib import Path
from passl_sot.weights.checkpoint import write_checkpoint
for line in sys.stdin:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        print("ended", flush=True)
        continue
    for i in itertools.count():
        write_checkpoint(Path(sys.argv[1]), {"model.a": np.full(4_000_000, i, np.float32)}, {"i": i})
        print(os.getpid(), flush=True)
"""


def test_kill_in_the_middle_of_writing(tmp_path):
    """A writer is killed many times at random moments; the file is whole every time."""
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    path = tmp_path / "last.safetensors"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, script, path], **pipes) as process:
        for number in range(5):
            process.stdin.write("write\n")
            process.stdin.flush()
            pid = int(process.stdout.readline())
            time.sleep(0.013 * number)
            os.kill(pid, signal.SIGKILL)
            while process.stdout.readline() != "ended\n":
                pass
            saved = read_checkpoint(path)
            assert (saved.tensors["model.a"] == saved.meta["i"]).all()
        process.stdin.close()
    (tmp_path / ".metrics.jsonl.0a1b2c3d.tmp").touch()  # as a kill leaves one of the other records
    ckpt.remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"writer.py", "last.safetensors"}


def test_temporary_names_cannot_be_foreseen(file, monkeypatch):
    seen = set()
    link, fsync = os.link, os.fsync

    def note(handle):
        seen.update(path.name for path in file.parent.glob("*.tmp"))
        fsync(handle)

    def note_link(source, target):
        seen.add(target.name)
        link(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "link", note_link)
    for _ in range(3):
        write_checkpoint(file, TENSORS, META, previous=file.with_name("previous.safetensors"))
        ckpt.copy_checkpoint(file, file.with_name("best.safetensors"))
    assert len(seen) == 9
    assert all(re.fullmatch(r"\.(last|previous|best)\.safetensors\.[0-9a-f]{16}\.tmp", name) for name in seen)


@pytest.mark.parametrize("links", [True, False])
def test_no_link_is_followed(file, tmp_path, monkeypatch, links):
    """Links to a file of the user's, at the old foreseeable name and, were it guessed, at the new one."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(os, "urandom", bytes)
    if not links:  # such as FAT

        def refuse(*_):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    best = tmp_path / "best.safetensors"
    for path in (file, best):
        (tmp_path / f"{path.name}.{os.getpid()}.tmp").symlink_to(victim)
        (tmp_path / f".{path.name}.{'00' * 8}.tmp").symlink_to(victim)
    for attempt in (lambda: write_checkpoint(file, {}, {}), lambda: ckpt.copy_checkpoint(file, best)):
        with pytest.raises(CheckpointError, match="File exists"):
            attempt()
    monkeypatch.undo()
    write_checkpoint(file, TENSORS, META)
    ckpt.copy_checkpoint(file, best)
    assert victim.read_text() == "precious" and not best.is_symlink()
    ckpt.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"victim", file.name, best.name}


def test_damaged_latest_falls_back_and_says_so(file):
    ckpt.copy_checkpoint(file, file.with_name("epoch_0003.safetensors"))
    ckpt.copy_checkpoint(file, file.with_name("epoch_0012.safetensors"))
    file.unlink()
    file.write_bytes(b"\x10\x00\x00")
    said: list[str] = []
    saved = ckpt.find_latest(file.parent, said.append)
    assert saved.path.name == "epoch_0012.safetensors"
    assert "last.safetensors is damaged" in said[0]
    for path in file.parent.glob("epoch*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read"):
        ckpt.find_latest(file.parent, said.append)
    file.unlink()
    assert ckpt.find_latest(file.parent, said.append) is None


def test_pdparams_are_read_without_running_them(tmp_path):
    layer = paddle.nn.Linear(3, 2)
    path = tmp_path / "weights.pdparams"
    paddle.save(layer.state_dict(), str(path))
    for name in (path, tmp_path / "weights"):  # the suffix may be left out
        arrays, meta = read_weights(name)
        assert meta == {}
        np.testing.assert_array_equal(arrays["weight"], layer.weight.numpy())


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_pickle_that_asks_for_more_is_refused_by_name(tmp_path):
    path, target = tmp_path / "evil.pdparams", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"a": np.ones(2), "b": Evil(target)}))
    with pytest.raises(CheckpointError, match=r"asks for posix\.system"):
        read_weights(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdparams", pickle.dumps([1, 2]), "holds a list, not a state dict"),
        ("a.pdparams", pickle.dumps({"a": "text"}), "entry 'a' is a str, not an array"),
        ("a.pdparams", pickle.dumps({"a": np.ones(50)})[:-20], "is damaged"),
        ("a.pdparams", pickle.dumps({"a": np.ones(2), 3: np.ones(2)}), "entry 3 has a int for its name"),
        ("a.safetensors", b"", "is damaged"),
        ("a.pth", b"PK\x03\x04", "PyTorch file: convert it"),
        ("a.pdparams", b"PK\x03\x04", "PyTorch file: convert it"),
    ],
)
def test_other_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("mark", [b"\x80", b"PK"])
def test_a_length_that_looks_like_another_kind_of_file(tmp_path, mark):
    """The header's length comes first in the file; its bytes may be a pickle's or a zip's mark."""
    path = tmp_path / "a.safetensors"
    for padding in range(0, 20000, 8):
        write_checkpoint(path, TENSORS, {"note": "x" * padding, "best_by": "raw"})
        if path.read_bytes().startswith(mark):
            break
        if mark == b"PK":  # straight to the length that begins so
            length = int.from_bytes(path.read_bytes()[:8], "little")
            write_checkpoint(path, TENSORS, {"note": "x" * (0x4B50 - length), "best_by": "raw"})
            break
    assert path.read_bytes().startswith(mark)
    arrays, _ = read_weights(path)
    np.testing.assert_array_equal(arrays["a"], TENSORS["model.a"])
