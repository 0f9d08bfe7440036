"""Files that aren't what their names say: none of them is opened, and each is refused with its reason."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest

from passl_sot.imageio.decode import decode, decode_multichannel
from passl_sot.imageio.errors import ImageError, NoImageFile
from passl_sot.imageio.files import read_file


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def long_loop(path: Path) -> None:
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


def bound_socket(path: Path) -> None:
    # The name of a socket may have 108 letters at most.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def giant(path: Path) -> None:
    path.touch()
    os.truncate(path, 60_000_000_000)


ODD = {
    "is a folder, not an image file": Path.mkdir,
    r"is a pipe \(FIFO\), not an image file": os.mkfifo,
    "is a device, not an image file": lambda path: path.symlink_to("/dev/zero"),
    "is a socket, not an image file": bound_socket,
    "a link that leads back to itself$": loop,
    "a link that leads back to itself": long_loop,
    r"the file is empty \(0 bytes\)": Path.touch,
    r"has 60,000 MB, and files of up to 1,000 MB are read \(environment variable PASSL_SOT_MAX": giant,
}


@pytest.mark.parametrize("reason", ODD)
@pytest.mark.parametrize("read", [lambda path: decode(path, apply_exif=True), decode_multichannel])
def test_what_is_no_file_of_an_image(tmp_path, reason, read):
    path = tmp_path / "x.png"
    ODD[reason](path)
    with pytest.raises(NoImageFile, match=reason) as caught:
        read(path)
    assert caught.value.path == str(path)
    again = pickle.loads(pickle.dumps(caught.value))  # as it comes from a worker
    assert isinstance(again, NoImageFile) and str(again) == str(caught.value)


def test_what_is_not_there(tmp_path):
    for name in ("none.png", "zero\0.png"):
        with pytest.raises(ImageError, match="no such file"):
            read_file(str(tmp_path / name))
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=r"can't be opened \(Not a directory\)"):
        read_file(str(tmp_path / "file" / "x.png"))


def test_the_limit_can_be_set(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(bytes(1_000_001))
    assert read_file(str(path)) == bytes(1_000_001)
    monkeypatch.setenv("PASSL_SOT_MAX_FILE_MB", "1")
    with pytest.raises(NoImageFile, match="has 1 MB, and files of up to 1 MB are read"):
        read_file(str(path))
    os.truncate(path, 1_000_000)
    assert len(read_file(str(path))) == 1_000_000
    for wrong in ("", "0", "1e3", "-5", "²"):
        monkeypatch.setenv("PASSL_SOT_MAX_FILE_MB", wrong)
        with pytest.raises(
            ImageError, match=f"PASSL_SOT_MAX_FILE_MB: must be a number of megabytes, got '{wrong}'"
        ):
            read_file(str(path))
