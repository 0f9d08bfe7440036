"""Packed copies against the files that they were made of, and everything that can happen to them."""

from __future__ import annotations

import fcntl
import io
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl_sot import cli
from passl_sot.data import DataError, ImageError, ImageFolder, ListFile, PackedImages, build_dataloader
from passl_sot.data.datasets.digits import write_digits
from passl_sot.data.datasets.folders import find_splits
from passl_sot.data.packed import origins, shard, writer
from passl_sot.data.packed.format import read_index, write_index
from passl_sot.data.packed.record import Item, Recipe
from passl_sot.data.packed.shard import Job
from passl_sot.data.packed.sources import open_source, splits_of
from passl_sot.data.packed.writer import make_job, pack, verify
from passl_sot.imageio import jpeg
from passl_sot.imageio.decode import decode, resize
from passl_sot.utils.files import replace_atomically

ROOT = Path(__file__).parents[2]
NORMALIZE = [{"name": "Normalize"}]
CROP = [{"name": "RandomResizedCrop", "size": 48}, {"name": "RandomHorizontalFlip"}]
TILES = Recipe(kind="files", short_side=None)
SMALLER = Recipe(kind="files", short_side=80, quality=90)
PIXELS = Recipe(kind="pixels", short_side=72)
AS_THEY_ARE = Recipe(kind="pixels", short_side=400)
RECIPES = {"tiles": TILES, "smaller": SMALLER, "pixels": PIXELS}
BAD = {"empty.jpg", "text.jpg", "half.jpg"}


def packed(
    data: str | Path, out: Path, recipe: Recipe = TILES, *, processes: int = 1, **options
) -> list[str]:
    """Packs, and gives what was said."""
    said: list[str] = []
    job = make_job(open_source(str(data), **options), str(out), recipe)
    pack(job, processes=processes, command="the command", say=said.append)
    return said


@pytest.fixture(scope="module")
def source(photos, tmp_path_factory) -> Path:
    """Three classes with every kind of file: JPEG of all samplings, other formats, turned, unreadable."""
    root = tmp_path_factory.mktemp("source") / "a source"
    folders = [root / "n 2", root / "n 10", root / "猫"]
    for folder in folders:
        folder.mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    images = [Image.fromarray(photo) for photo in photos]
    for i, image in enumerate(images):
        image.save(
            folders[0] / f"a {i}.JPEG", subsampling=("4:2:0", "4:2:2", "4:4:4", "4:2:0")[i], quality=93
        )
        image.save(folders[1] / f"turned {i}.jpg", exif=turned, optimize=True)
        image.save(folders[2] / f"b{i}.png")
    images[0].convert("L").save(folders[0] / "grey.jpg")
    images[1].save(folders[0] / "progressive.jpg", progressive=True)
    images[1].convert("CMYK").save(folders[1] / "cmyk.jpg")
    images[0].convert("RGBA").save(folders[1] / "alpha.png")
    images[2].save(folders[1] / "turned.tif", exif=turned)
    images[2].save(folders[1] / "turned.png", exif=turned)
    images[3].quantize(16).save(folders[2] / "palette.gif")
    images[0].resize((20, 30)).save(folders[2] / "small.jpg")
    Image.fromarray(np.arange(120 * 100, dtype=np.uint16).reshape(120, 100) * 5).save(
        folders[2] / "16 bit.png"
    )
    (folders[1] / "text.jpg").write_text("no image")
    (folders[2] / "empty.jpg").touch()
    whole = (folders[0] / "a 0.JPEG").read_bytes()
    (folders[0] / "half.jpg").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="module")
def copies(source, tmp_path_factory) -> dict[str, Path]:
    """A packed copy of the source for each recipe."""
    root = tmp_path_factory.mktemp("copies")
    for name, recipe in RECIPES.items():
        packed(source, root / name, recipe)
    return {name: root / name for name in RECIPES}


def folder_of(source, **more) -> ImageFolder:
    return ImageFolder(dataroot=str(source), transforms=CROP, batch_transforms=NORMALIZE, **more)


def copy_of(root, transforms=CROP, **more) -> PackedImages:
    return PackedImages(dataroot=str(root), transforms=transforms, batch_transforms=NORMALIZE, **more)


def name_of(dataset, index) -> str:
    return dataset.paths[index]


def readable(dataset) -> list[int]:
    return [i for i in range(len(dataset)) if os.path.basename(dataset.paths[i]) not in BAD]


@pytest.mark.parametrize("kind", RECIPES)
def test_the_same_dataset_as_the_folder(source, copies, kind):
    files, copy = folder_of(source), copy_of(copies[kind])
    assert len(copy) == len(files) == 24
    assert copy.class_names == copy.found_classes == files.class_names == ["n 2", "n 10", "猫"]
    assert copy.named and copy.multi_hot is None
    np.testing.assert_array_equal(copy.labels, files.labels)
    np.testing.assert_array_equal(copy.class_counts(), files.class_counts())
    assert [name_of(copy, i) for i in range(24)] == [name_of(files, i) for i in range(24)]
    assert copy.path(3) == f"{copies[kind]}/shard-00000.bin[3] (n 2/a 3.JPEG)"
    assert sorted(os.listdir(copies[kind])) == ["index.bin", "shard-00000.bin"]
    copy.use_class_names(["x", "猫", "n 10", "n 2"])
    assert copy.labels[0] == 3
    with pytest.raises(IndexError):
        copy[24]


@pytest.mark.parametrize("apply_exif", [True, False])
@pytest.mark.parametrize("channels", [3, 1])
def test_tiles_give_the_same_pixels(source, copies, apply_exif, channels):
    files = folder_of(source, apply_exif=apply_exif, channels=channels)
    copy = copy_of(copies["tiles"], apply_exif=apply_exif, channels=channels)
    for i in readable(files):
        np.testing.assert_array_equal(copy.read(i), files.read(i), err_msg=name_of(files, i))
        for epoch in range(2):
            ours, theirs = copy[(epoch, i)], files[(epoch, i)]
            np.testing.assert_array_equal(ours["image"], theirs["image"], err_msg=name_of(files, i))
            assert (ours["label"], ours["index"]) == (theirs["label"], theirs["index"])


def test_what_tiles_change(source, copies):
    pytest.importorskip("numba")
    kept, tiled = set(), set()
    copy = copy_of(copies["tiles"])
    for i in range(len(copy)):
        data = bytes(copy.packed.view(i))
        name = name_of(copy, i)
        (kept if data == (source / name).read_bytes() else tiled).add(os.path.basename(name))
        header = jpeg.read_header(data)
        assert os.path.basename(name) not in tiled or header.interval > 0
    more = {"grey.jpg", "small.jpg"}
    assert tiled == {*(f"a {i}.JPEG" for i in range(4)), *(f"turned {i}.jpg" for i in range(4)), *more}
    assert kept >= {"progressive.jpg", "cmyk.jpg", "b0.png", "palette.gif", *BAD}


@pytest.mark.parametrize("apply_exif", [True, False])
def test_pixels_are_those_of_decode_and_resize(source, copies, apply_exif):
    copy = copy_of(copies["pixels"], apply_exif=apply_exif)
    for i in readable(copy):
        path = source / name_of(copy, i)
        expected = decode(path, apply_exif=False)
        h, w = expected.shape[:2]
        if min(h, w) > 72:
            expected = resize(expected, (72, 72 * w // h) if h < w else (72 * h // w, 72))
        with Image.open(path) as image:
            # Pillow turns TIFF files whether they are to be turned or not.
            turned = apply_exif and image.format != "TIFF" and image.getexif().get(0x0112) == 6
        image = copy.read(i)
        np.testing.assert_array_equal(
            image, np.rot90(expected, -1) if turned else expected, err_msg=str(path)
        )
        assert not image.flags.owndata and not image.flags.writeable  # the mapped file itself


def test_pixels_turn_as_files_do(photos, tmp_path):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        (tmp_path / "in" / "c").mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos[3][:40]).save(tmp_path / "in" / "c" / f"{orientation}.png", exif=exif)
    packed(tmp_path / "in", tmp_path / "out", PIXELS)
    files, copy = folder_of(tmp_path / "in"), copy_of(tmp_path / "out")
    for i in range(8):
        np.testing.assert_array_equal(copy.read(i), files.read(i))
        np.testing.assert_array_equal(copy[(1, i)]["image"], files[(1, i)]["image"])


def test_smaller_files(source, copies):
    files, copy = folder_of(source), copy_of(copies["smaller"])
    for i in readable(files):
        expected, image = files.read(i), copy.read(i)
        if min(expected.shape[:2]) <= 80:
            np.testing.assert_array_equal(image, expected)
            continue
        assert min(image.shape[:2]) == 80
        scaled = resize(expected, image.shape[:2])
        error = np.mean((scaled.astype(float) - image) ** 2)
        assert 10 * np.log10(255**2 / max(error, 1e-9)) > 29, name_of(files, i)
        data = bytes(copy.packed.view(i))
        header = jpeg.read_header(data)
        assert header.interval > 0 and header.sequential
        assert header.mcu_hw == (
            (8, 8) if name_of(files, i).endswith(("grey.jpg", "16 bit.png")) else (16, 16)
        )
    assert (copies["smaller"] / "shard-00000.bin").stat().st_size < (
        copies["tiles"] / "shard-00000.bin"
    ).stat().st_size


@pytest.mark.parametrize("kind", RECIPES)
def test_unreadable_images_stay_and_are_named(source, copies, kind, tmp_path):
    files, copy = folder_of(source), copy_of(copies[kind])
    bad = sorted(set(range(24)) - set(readable(files)))
    for i in bad:
        with pytest.raises(ImageError) as theirs:
            files[i]
        with pytest.raises(ImageError) as ours:
            copy[i]
        assert ours.value.path == copy.path(i)
        assert ours.value.reason == theirs.value.reason
    said = packed(source, tmp_path / "out", RECIPES[kind])
    assert "3 files can't be read as images, and are kept as they are:" in said[-1]
    assert f"{source}/n 10/text.jpg: not an image but a text file" in said[-1]


def test_what_is_said_before_and_after(source, tmp_path):
    first, second, third, *_ = packed(source, tmp_path / "out", SMALLER)
    what = r"packing 24 images into .*/out \(JPEG of quality 90 in tiles, short side 80\): about \d+ kB in 1"
    assert re.match(what, first)
    assert re.match(r"about \d+ s with 1 process\(es\)", second)
    assert re.match(r".*/out: 24 images, \d+ kB, all checksums right", third)
    again = packed(source, tmp_path / "out", SMALLER)
    assert again == [f"{tmp_path}/out: 24 images are packed already / 已打包完成"]


def test_the_time_is_what_the_slowest_process_takes(source, tmp_path, monkeypatch):
    """Four shards are two for each of three processes at most; what is compiled at first doesn't count."""
    job = make_job(open_source(str(source)), str(tmp_path), TILES)
    seen = []

    def store(data, name, recipe):
        time.sleep(0.02 if seen else 0.3)
        seen.append(name)
        return Item(data=data)

    monkeypatch.setattr(shard, "pack_image", store)
    sample = shard.measure(job, 1, 3)
    assert len(sample.sizes) == 8 and len(set(seen)) == 8
    assert 0.02 <= sample.seconds < 0.05
    assert os.listdir(tmp_path) == []
    shards = Job(source=range(1000), folder=str(tmp_path), recipe=TILES, fingerprint="")
    said: list[str] = []
    samples = [shard.Sample(sizes=[10, 30], seconds=seconds) for seconds in (1, 2, 3)]
    writer._announce(shards, [[0, 3], [1], [2]], samples, said.append)
    assert "about 20 kB in 4 file(s)" in said[0]
    assert said[1].startswith("about 16 min with 3 process(es)")  # 488 images of 2 s
    writer._announce(shards, [[1]], samples, said.append)
    assert said[2].endswith("in 4 file(s), of which 744 images are there already")


def test_the_same_bytes_from_any_number_of_processes(photos, tmp_path):
    many_files(photos, tmp_path / "in", 600, side=40)
    for processes in (1, 2):
        said = packed(tmp_path / "in", tmp_path / f"{processes}", PIXELS, processes=processes)
        assert re.match(r"packing 600 images into .* short side 72\): about 3 MB in 3 file\(s\)$", said[0])
        assert re.match(rf"about \d+ s with {processes} process\(es\); it may be interrupted", said[1])
    names, others = (sorted(os.listdir(tmp_path / folder)) for folder in "12")
    assert names == others == ["index.bin", *(f"shard-0000{i}.bin" for i in range(3))]
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    copy = copy_of(tmp_path / "2")
    assert copy.path(511).startswith(f"{tmp_path}/2/shard-00001.bin[255] (")
    assert copy.path(512).startswith(f"{tmp_path}/2/shard-00002.bin[0] (")
    np.testing.assert_array_equal(copy.read(599), folder_of(tmp_path / "in").read(599))


def many_files(photos, root: Path, count: int, side: int | None = None) -> None:
    """Photographs under many names, in two classes."""
    for label, photo in enumerate((photos[0], photos[1])):
        folder = root / f"c{label}"
        folder.mkdir(parents=True)
        Image.fromarray(photo[:side, :side]).save(folder / "0000.png")
        for i in range(1, count // 2):
            os.link(folder / "0000.png", folder / f"{i:04d}.png")
    lines = [f"c{label}/{i:04d}.png {label}\n" for label in range(2) for i in range(count // 2)]
    (root / "list.txt").write_text("".join(lines))


@pytest.mark.parametrize(
    ("images", "shards"), [(1, 1), (257, 2), (60_000, 64), (1_281_167, 157), (20_000_000, 512)]
)
def test_number_of_shards(images, shards):
    """Enough to share the work; few enough to be open all at once where 1,024 files may be."""
    job = Job(source=range(images), folder="", recipe=TILES, fingerprint="")
    assert job.shards == shards
    assert sum(len(job.images(number)) for number in range(shards)) == images


# What may have happened to a packed copy


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


@pytest.fixture
def spoilt(copies, tmp_path):
    """A copy of a packed copy, to be spoilt."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(copies[kind], tmp_path / "spoilt"))

    return copy


@pytest.mark.parametrize("kind", RECIPES)
def test_a_changed_byte_is_found(spoilt, kind):
    root = spoilt(kind)
    flip(root / "shard-00000.bin", 2000)
    copy = copy_of(root)
    reason = "its bytes aren't those that were packed"
    with pytest.raises(ImageError, match=reason) as caught:
        copy.read(0)
    assert caught.value.path == f"{root}/shard-00000.bin[0] (n 2/a 0.JPEG)"
    if kind != "pixels":  # of which training reads a part alone, without its checksum
        with pytest.raises(ImageError, match=reason):
            copy[(0, 0)]
    assert copy.read(1).shape
    with pytest.raises(DataError, match=re.escape(f"{root}/shard-00000.bin[0] (n 2/a 0.JPEG): {reason}")):
        verify(str(root))


def test_a_changed_index_is_found(spoilt):
    root = spoilt("tiles")
    flip(root / "index.bin", 500)
    with pytest.raises(DataError, match=rf"{root}/index.bin is damaged \(its checksum differs\)"):
        copy_of(root)
    (root / "index.bin").write_bytes(b"something else, of some length")
    with pytest.raises(DataError, match=r"index.bin isn't an index that tools/make_cache.py wrote"):
        copy_of(root)


def test_a_newer_version_is_refused(spoilt):
    root = spoilt("tiles")
    data = bytearray((root / "index.bin").read_bytes())
    data[16] = 2
    (root / "index.bin").write_bytes(data)
    with pytest.raises(DataError, match="has format 2, and this version of passl_sot reads format 1: update"):
        copy_of(root)


def test_a_shard_that_is_missing_or_short(spoilt):
    root = spoilt("tiles")
    shard = root / "shard-00000.bin"
    size = shard.stat().st_size
    os.truncate(shard, size - 1)
    with pytest.raises(DataError, match=rf"{shard} has {size - 1} bytes instead of {size}: copy the whole"):
        copy_of(root)
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard} is missing"):
        copy_of(root)


def test_what_is_no_packed_copy(source, copies, tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/none doesn't exist"):
        copy_of(tmp_path / "none")
    with pytest.raises(
        DataError, match=r"isn't a packed copy \(no index.bin\): tools/make_cache.py DATA OUT"
    ):
        copy_of(source)
    shutil.copytree(copies["tiles"], tmp_path / "train")
    with pytest.raises(DataError, match=rf"holds the packed splits train: write dataroot: {tmp_path}/train"):
        copy_of(tmp_path)


def test_an_index_keeps_what_it_is_given(tmp_path):
    arrays = {
        "a": np.arange(5, dtype=np.int64),
        "b": np.zeros((0, 3), np.uint8),
        "c": np.eye(3, dtype=np.uint8),
    }
    header = {"names": ["猫", os.fsdecode(b"\xff\xfe"), ""], "n": 1}
    write_index(str(tmp_path / "i"), header, arrays)
    read, found = read_index(str(tmp_path / "i"))
    assert read == header
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    replace_atomically(path, lambda file: file.writelines([b"old"]))

    def fail(file):
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replace_atomically(path, fail)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    replace_atomically(path, lambda file: file.writelines([b"new"]))
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]


# Interruptions


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(what, seconds: float = 60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return found


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


PACK = """
import os
import sys
import time
from passl_sot.data.errors import DataError
from passl_sot.data.packed import shard
from passl_sot.data.packed.record import Recipe
from passl_sot.data.packed.sources import open_source, splits_of
from passl_sot.data.packed.writer import make_job, pack

pack_image = shard.pack_image

def pack_what_is_not_held(data, name, recipe):
    while os.path.exists(f"{name}.held"):
        time.sleep(0.01)
    return pack_image(data, name, recipe)

shard.pack_image = pack_what_is_not_held  # in each of the processes
if __name__ == "__main__":
    recipe = Recipe(kind="pixels", short_side=400)
    source = open_source(sys.argv[1] + "/list.txt", dataroot=sys.argv[1])
    job = make_job(source, sys.argv[2], recipe)
    try:
        pack(job, processes=2, command="make it", say=print)
    except DataError as error:
        sys.exit(f"error: {error}")
"""


@pytest.fixture
def packer(tmp_path):
    """A real process that packs with two others."""
    (tmp_path / "packer.py").write_text(PACK)
    command = [sys.executable, str(tmp_path / "packer.py"), str(tmp_path / "in"), str(tmp_path / "out")]
    options = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options["env"] = {**os.environ, "PYTHONPATH": str(ROOT)}
    return lambda **more: subprocess.Popen(command, **options, **more)


def finished(out: Path) -> dict[str, int]:
    """Shards that are whole, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.bin")}


def held(folder: Path) -> list[Path]:
    """Marks an image in the third and one in the fourth shard: who packs them waits until the mark goes."""
    marks = [folder / "c1" / "0100.png.held", folder / "c1" / "0400.png.held"]
    for mark in marks:
        mark.touch()
    return marks


@pytest.mark.parametrize("whom", ["the command", "one of its processes"])
def test_killed(photos, tmp_path, packer, whom):
    many_files(photos, tmp_path / "in", 1000, side=64)
    marks, out = held(tmp_path / "in"), tmp_path / "out"
    running = packer()
    wait_for(lambda: len(finished(out)) == 2)
    kept = finished(out)
    workers = children(running.pid)
    os.kill(running.pid if whom == "the command" else workers[-1], signal.SIGKILL)
    status, error = running.wait(), running.stderr.read()
    wait_for(lambda: not any(map(alive, workers)))
    assert finished(out) == kept
    assert not (out / "index.bin").exists()
    if whom == "the command":
        assert status == -signal.SIGKILL
    else:
        assert status == 1
        assert "a packing process has ended (exit code -9" in error
    with pytest.raises(DataError, match=r"unfinished packed copy: run the same command again.*: make it /"):
        copy_of(out)
    for mark in marks:
        mark.unlink()
    images, options = tmp_path / "in" / "list.txt", {"dataroot": str(tmp_path / "in")}
    with pytest.raises(DataError, match=r"unfinished packed copy of other data, .* begun by: make it"):
        packed(images, out, TILES, **options)
    said = packed(images, out, AS_THEY_ARE, **options)
    assert re.search(r"in 4 file\(s\), of which 512 images are there already", said[0])
    assert finished(out).items() >= kept.items()
    packed(images, tmp_path / "at once", AS_THEY_ARE, **options)
    names = sorted(os.listdir(out))
    assert names == ["index.bin", *(f"shard-0000{i}.bin" for i in range(4))]
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()


def test_a_shard_that_was_damaged_in_between_is_packed_again(source, tmp_path, monkeypatch):
    """Power fails after the rename: the file has its name, but not all of its bytes."""
    with monkeypatch.context() as here:
        here.setattr(writer, "_finish", lambda job, say: None)
        packed(source, tmp_path / "out")
    os.truncate(tmp_path / "out" / "shard-00000.bin", 1000)
    packed(source, tmp_path / "out")
    assert verify(str(tmp_path / "out")) == 24


def test_a_shard_that_goes_before_the_index_is_written(photos, tmp_path, monkeypatch):
    many_files(photos, tmp_path / "in", 600, side=40)
    out = tmp_path / "out"
    finish = writer._finish

    def remove_first(job, say):
        (out / "shard-00001.bin").unlink()
        finish(job, say)

    with monkeypatch.context() as here:
        here.setattr(writer, "_finish", remove_first)
        with pytest.raises(DataError, match=f"{out}/shard-00001.bin was written and has gone or changed"):
            packed(tmp_path / "in", out, PIXELS)
    assert not (out / "index.bin").exists()
    assert "of which 344 images are there already" in packed(tmp_path / "in", out, PIXELS)[0]
    assert verify(str(out)) == 600


def test_two_runs_at_a_time(source, tmp_path):
    (tmp_path / "out").mkdir()
    held = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(DataError, match=f"another process is packing into {tmp_path}/out"):
        packed(source, tmp_path / "out")
    os.close(held)
    assert packed(source, tmp_path / "out")


def test_a_full_disk(photos, tmp_path, packer):
    """A limit on the size of files stands in for a small disk: it fails in the same place."""
    import resource

    many_files(photos, tmp_path / "in", 600, side=64)
    limit = 1_000_000  # a shard takes three times that
    running = packer(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, error = running.communicate()
    assert running.returncode == 1
    assert re.match(
        rf"error: {tmp_path}/out: File too large; \d+.* GB are free. Finished shards are kept", error
    )
    assert not (tmp_path / "out" / "index.bin").exists()
    said = packed(tmp_path / "in" / "list.txt", tmp_path / "out", AS_THEY_ARE, dataroot=str(tmp_path / "in"))
    assert "600 images, 7 MB" in said[-1]
    assert verify(str(tmp_path / "out")) == 600


def test_too_little_room_is_said_before(source, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=r"out: 24 images take about \d+ kB, and 1 kB are free: make room"):
        packed(source, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["packing.json"]


def test_folders_that_are_not_touched(source, copies, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match=r"holds other files, such as mine.txt: choose a new folder"):
        packed(source, tmp_path)
    words = r"holds a packed copy of other data, or with other settings \(pixels, short side 72\)"
    with pytest.raises(DataError, match=words):
        packed(source, copies["pixels"], TILES)


def test_other_data_of_the_same_names(source, tmp_path):
    """Not the folder counts, but what is in its files."""
    shutil.copytree(source, tmp_path / "same")
    packed(source, tmp_path / "out")
    assert "packed already" in packed(tmp_path / "same", tmp_path / "out")[0]
    flip(tmp_path / "same" / "n 10" / "text.jpg", 3)
    with pytest.raises(DataError, match="holds a packed copy of other data, or with other settings"):
        packed(tmp_path / "same", tmp_path / "out")


def swap(one: Path, other: Path) -> None:
    """Gives two files each other's content, and the times that they had."""
    times = [(path.stat().st_atime_ns, path.stat().st_mtime_ns) for path in (one, other)]
    contents = [path.read_bytes() for path in (one, other)]
    for path, content, when in zip((other, one), contents, times[::-1], strict=True):
        path.write_bytes(content)
        os.utime(path, ns=when)


def test_swapped_pictures_of_one_name_size_and_time(photos, tmp_path, capfd):
    for label, photo in enumerate(photos[:2]):
        (tmp_path / "in" / f"c{label}").mkdir(parents=True)
        for i in range(80):
            Image.fromarray(photo[i : i + 30, :30]).save(tmp_path / "in" / f"c{label}" / f"{i}.bmp")
    out, command = tmp_path / "out", [str(tmp_path / "in"), str(tmp_path / "out"), "--processes", "1"]
    assert cli.make_cache(command) == 0
    for i in range(20, 28):  # of which none may be among those that a sample takes
        swap(tmp_path / "in" / "c0" / f"{i}.bmp", tmp_path / "in" / "c1" / f"{i}.bmp")
    capfd.readouterr()
    for more in ([], ["--verify"]):
        assert cli.make_cache([*command, *more]) == 2
        said = capfd.readouterr().err
        assert "16 images changed: c0/20.bmp, c0/21.bmp, c0/22.bmp and 13 more" in said
        assert ("isn't a copy of what" in said) == bool(more)
    assert verify(str(out)) == 160  # the copy itself is whole


def test_folders_that_were_swapped(source, tmp_path):
    shutil.copytree(source, tmp_path / "in")
    one, other = tmp_path / "in" / "one", tmp_path / "in" / "other"
    for folder, seed in ((one, 0), (other, 1)):
        folder.mkdir()
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "x.bmp")
        os.utime(folder / "x.bmp", ns=(0, 0))
    packed(tmp_path / "in", tmp_path / "out")
    one.rename(tmp_path / "in" / "third")
    other.rename(one)
    (tmp_path / "in" / "third").rename(other)
    with pytest.raises(DataError, match=r"2 images changed: one/x.bmp, other/x.bmp; choose another"):
        packed(tmp_path / "in", tmp_path / "out")


def test_what_is_read_to_compare(source, tmp_path, monkeypatch):
    """Nothing of untouched files; head and tail of copies; all of those that were written since."""
    read: list[int | None] = []
    read_digest = origins.read_digest

    def count(extent, end=None):
        read.append(end)
        return read_digest(extent, end)

    monkeypatch.setattr(origins, "read_digest", count)
    packed(source, tmp_path / "out")
    assert "packed already" in packed(source, tmp_path / "out")[0] and read == []
    shutil.copytree(source, tmp_path / "with times")
    assert "packed already" in packed(tmp_path / "with times", tmp_path / "out")[0]
    assert read == [4096] * 24
    read.clear()
    shutil.copytree(source, tmp_path / "without", copy_function=shutil.copyfile)
    assert "packed already" in packed(tmp_path / "without", tmp_path / "out")[0]
    assert read == [None] * 24
    read.clear()
    monkeypatch.setattr(origins, "_MOST_EDITED", 10)
    assert "packed already" in packed(tmp_path / "without", tmp_path / "out")[0]
    assert read == [4096] * 24
    # What no cheap digest tells, all of the file does.
    path = tmp_path / "with times" / "n 2" / "a 0.JPEG"
    times = path.stat().st_mtime_ns
    flip(path, path.stat().st_size // 2)
    os.utime(path, ns=(times, times))
    assert "packed already" in packed(tmp_path / "with times", tmp_path / "out")[0]
    with pytest.raises(DataError, match=r"holds now: 1 image changed: n 2/a 0.JPEG"):
        writer.compare(open_source(str(tmp_path / "with times")), str(tmp_path / "out"))


def test_an_interrupted_run_goes_on_with_other_files(photos, tmp_path, monkeypatch):
    """Shards whose files have changed are packed again: the copy is of one source, that of today."""
    many_files(photos, tmp_path / "in", 600, side=40)
    write_shard = shard.write_shard

    def stop_at_the_second(job, number, tell):
        if number == 1:
            raise KeyboardInterrupt
        write_shard(job, number, tell)

    with monkeypatch.context() as here:
        here.setattr(shard, "write_shard", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            packed(tmp_path / "in", tmp_path / "out", PIXELS)
    assert (tmp_path / "out" / "shard-00000.note").exists()
    shutil.rmtree(tmp_path / "in")
    many_files(photos[2:], tmp_path / "in", 600, side=40)
    said = packed(tmp_path / "in", tmp_path / "out", PIXELS)
    assert said[0].startswith(
        "256 images changed since: c0/0000.png, c0/0001.png, c0/0002.png and 253 more: 1 of 1"
    )
    packed(tmp_path / "in", tmp_path / "at once", PIXELS)
    for name in ("index.bin", "shard-00000.bin"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()
    assert packed(tmp_path / "in", tmp_path / "out", PIXELS) == [
        f"{tmp_path}/out: 600 images are packed already / 已打包完成"
    ]


def test_a_copy_of_an_earlier_version(source, copies, spoilt, capfd):
    """It is read as before; nothing was noted of its files, so they can't be compared."""
    root = spoilt("tiles")
    header, arrays = read_index(str(root / "index.bin"))
    write_index(str(root / "index.bin"), header, {k: v for k, v in arrays.items() if k != "origins"})
    np.testing.assert_array_equal(copy_of(root)[3]["image"], copy_of(copies["tiles"])[3]["image"])
    (line,) = packed(source, root)
    assert (
        "24 images are packed already; an earlier version packed them and noted nothing of the files" in line
    )
    assert cli.make_cache([str(source), str(root), "--verify"]) == 0
    assert "an earlier version packed them and noted nothing" in capfd.readouterr().out
    plan = '{"version": 1, "fingerprint": "", "command": "make it"}'
    (root / "index.bin").unlink()
    (root / "packing.json").write_text(plan)
    with pytest.raises(DataError, match=r"isn't from this version of tools/make_cache.py: remove its folder"):
        packed(source, root)


# Lists and tar files


@pytest.fixture
def listed(source, tmp_path):
    """Writes a list of the source's images with any labels."""

    def write(labels) -> str:
        files = folder_of(source)
        lines = [f"{name_of(files, i)}\t{labels(i)}\n" for i in range(len(files))]
        (tmp_path / "list.txt").write_text("".join(lines), encoding="utf-8")
        return str(tmp_path / "list.txt")

    return write


def test_a_list(source, listed, tmp_path):
    path = listed(lambda i: i % 4)
    (tmp_path / "names.txt").write_text("a b\nc\nd\ne\n")
    for names in (None, str(tmp_path / "names.txt")):
        out = tmp_path / f"out {names is None}"
        packed(path, out, dataroot=str(source), class_names=names)
        copy = copy_of(out)
        files = ListFile(dataroot=str(source), list_file=path, transforms=NORMALIZE, class_names=names)
        assert (copy.class_names, copy.named) == (files.class_names, files.named)
        np.testing.assert_array_equal(copy.labels, np.arange(24) % 4)
        np.testing.assert_array_equal(copy.read(0), files.read(0))
    with pytest.raises(DataError, match=r"labels are not in 0 to 3, the first is 4 of .*a 0.JPEG"):
        packed(listed(lambda i: 4), tmp_path / "no", dataroot=str(source), class_names=names)
    with pytest.raises(ImageError, match=r"n 2/a 0.JPEG: no such file"):
        packed(listed(lambda i: 1), tmp_path / "no", dataroot=str(tmp_path))


@pytest.mark.parametrize("several", [True, "multi_hot"])
def test_a_list_of_several_labels(source, listed, tmp_path, several):
    labels = (lambda i: "-" if i == 3 else f"{i % 3},5") if several is True else (lambda i: f"{i % 2},1,0")
    path = listed(labels)
    packed(path, tmp_path / "out", PIXELS, dataroot=str(source), multi_label=several)
    copy = copy_of(tmp_path / "out")
    files = ListFile(dataroot=str(source), list_file=path, transforms=NORMALIZE, multi_label=several)
    np.testing.assert_array_equal(copy.multi_hot, files.multi_hot)
    np.testing.assert_array_equal(copy.class_counts(), files.class_counts())
    np.testing.assert_array_equal(copy[1]["label"], files.multi_hot[1].astype(np.float32))
    with pytest.raises(
        DataError, match="several labels per image, so no share of each class can be held out"
    ):
        copy_of(tmp_path / "out", part="val")


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_tar_files(source, tmp_path):
    """As WebDataset writes them, packed, are the folder that they were made of."""
    files = folder_of(source)
    members: dict[str, bytes] = {}
    for i in range(len(files)):
        name = name_of(files, i)
        members[f"a folder/{i:06d}.cls"] = str(files.labels[i]).encode()
        members[f"a folder/{i:06d}{os.path.splitext(name)[1]}"] = (source / name).read_bytes()
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "a.tar", members)
    (tmp_path / "tars" / "class_names.txt").write_text("".join(f"{name}\n" for name in files.class_names))
    packed(tmp_path / "tars", tmp_path / "out")
    copy = copy_of(tmp_path / "out")
    assert copy.class_names == files.class_names and copy.named
    np.testing.assert_array_equal(copy.labels, files.labels)
    for i in readable(files):
        np.testing.assert_array_equal(copy.read(i), files.read(i), err_msg=name_of(files, i))


def test_tar_files_of_others(source, tmp_path):
    """Other members, any order inside of a sample, a pattern of names, no names of classes."""
    image = (source / "n 2" / "a 3.JPEG").read_bytes()
    first = {"./x/1.json": b'{"w": 3}', "./x/1.cls": b"2\n", "./x/1.jpg": image, "./x/1.txt": b"caption"}
    write_tar(tmp_path / "a-2.tar", first)
    write_tar(tmp_path / "a-10.tar", {"2.JPG": image, "2.cls": b"0", "readme.txt": b""})
    write_tar(tmp_path / "b-1.tar", {"3.jpg": image, "3.cls": b"7"})
    found = open_source(str(tmp_path / "a-*.tar"))
    assert found.labels.tolist() == [2, 0]
    assert (found.class_names, found.named) == (["0", "1", "2"], False)
    assert found.stored(1) == image
    assert found.path(1) == f"{tmp_path}/a-10.tar (2.JPG)"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"1.jpg": b"x", "2.cls": b"1"}, "sample 1 has no .cls"),
        ({"1.jpg": b"x", "1.png": b"x", "1.cls": b"1"}, "sample 1 has two images"),
        ({"1.jpg": b"x", "1.cls": b"cat"}, "1.cls holds b'cat' instead of a class number"),
        ({"1.txt": b"x"}, "no images"),
        ({"a.png": b"x", "a.cls": b"99999999999999999999"}, "a.cls holds .* instead of a class number"),
        ({"a.png": b"x", "a.cls": b"1000000000000"}, "a.cls holds .* instead of a class number"),
    ],
)
def test_tar_files_that_do_not_serve(tmp_path, members, words):
    path = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=words):
        open_source(str(path))


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../x", "a/..", "a\nb", "..", "\x1b[2J"])
def test_names_that_lead_out_of_a_tar_file(tmp_path, name, capfd):
    path = write_tar(tmp_path / "a.tar", {f"{name}/1.jpg": b"x", f"{name}/1.cls": b"1"})
    assert cli.make_cache([str(path), str(tmp_path / "out")]) == 2
    said = capfd.readouterr().err
    assert f"{path}: member {f'{name}/1.jpg'!r} is refused: a name must not begin with '/'" in said
    assert not (tmp_path / "out").exists()


def test_names_with_dots_are_kept(tmp_path):
    names = ["./a/1", "a..b/2", "..c/3", "d../4", "猫/5", os.fsdecode(b"\xff/6")]
    members = {f"{name}{ending}": b"0" for name in names for ending in (".jpg", ".cls")}
    found = open_source(str(write_tar(tmp_path / "a.tar", members)))
    assert [name_of(found, i) for i in range(6)] == [f"{name}.jpg" for name in names]


def test_a_giant_in_a_tar_file_and_a_pipe_for_one(source, tmp_path):
    image = (source / "n 2" / "a 3.JPEG").read_bytes()
    path = write_tar(tmp_path / "a.tar", {"1.jpg": image, "1.cls": b"0", "2.cls": b"1", "2.jpg": image})
    with tarfile.open(path) as tar:
        info = tar.getmember("2.jpg")
    info.size = 60_000_000_000
    with path.open("r+b") as file:
        file.seek(info.offset)
        file.write(info.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, info.offset_data + info.size + 1024)
    said = packed(path, tmp_path / "out")
    assert f"{path} (2.jpg): has 60,000 MB, and files of up to 1,000 MB are read" in said[-1]
    np.testing.assert_array_equal(
        copy_of(tmp_path / "out").read(0), decode(source / "n 2" / "a 3.JPEG", apply_exif=True)
    )
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(DataError, match=r"pipe.tar is no regular file"):
        open_source(str(tmp_path / "pipe.tar"))


def test_compressed_or_missing_tar_files(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"1.jpg": b"x", "1.cls": b"1"}, "w:gz")
    with pytest.raises(DataError, match="isn't a plain tar file, or it is damaged"):
        open_source(str(path))
    with pytest.raises(DataError, match="no such tar file"):
        open_source(str(tmp_path / "none-*.tar"))


def test_pixels_are_no_source(copies):
    with pytest.raises(DataError, match=r"holds pixels \(--raw\), not files"):
        open_source(str(copies["pixels"]))


# Training


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The digits as files, and packed by the command; digits as they are, since none is larger than that."""
    root = tmp_path_factory.mktemp("digits")
    write_digits(str(root / "files"))
    assert cli.make_cache([str(root / "files"), str(root / "packed"), "--processes", "1"]) == 0
    return root


def batches(split, **more) -> list[dict[str, np.ndarray]]:
    loader = build_dataloader(split, mode="train", seed=3, **more)
    return [{key: np.asarray(batch[key]) for key in ("image", "label", "index")} for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_reads_what_it_would_from_files(digits, split, workers):
    transforms = [{"name": "RandomResizedCrop", "size": 16}, {"name": "Normalize"}]
    found = []
    for folder, name in (("files", "ImageFolder"), ("packed", "PackedImages")):
        section = split(str(digits / folder / "val"), workers=workers, batch_size=50, transforms=transforms)
        section["dataset"]["name"] = name
        found.append(batches(section))
    assert len(found[0]) == len(found[1]) == 7
    for theirs, ours in zip(*found, strict=True):
        for key in theirs:
            np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.mark.parametrize("mode", ["train", "val"])
def test_ranks_share_an_epoch(digits, split, mode):
    seen = []
    for rank in range(3):
        section = split(str(digits / "packed" / "val"), batch_size=16, drop_last=mode == "train")
        section["dataset"].update(
            name="PackedImages", transforms=[{"name": "Resize", "size": [8, 8]}, *NORMALIZE]
        )
        loader = build_dataloader(section, mode=mode, seed=1, rank=rank, world_size=3)
        seen += [int(index) for batch in loader for index in np.asarray(batch["index"])]
    if mode == "val":
        assert sorted(seen) == list(range(359))
    else:
        assert len(seen) == len(set(seen)) == 359 // 48 * 48


def test_held_out_images_are_those_of_the_folder(digits):
    for part in ("train", "val"):
        files = folder_of(digits / "files" / "val", part=part, val_share=0.3)
        copy = copy_of(digits / "packed" / "val", part=part, val_share=0.3)
        assert [name_of(copy, i) for i in range(len(copy))] == [name_of(files, i) for i in range(len(files))]
        np.testing.assert_array_equal(copy.labels, files.labels)
        np.testing.assert_array_equal(copy[5]["image"], files[5]["image"])
        assert copy.path(5).endswith(f"({name_of(files, 5)})")


def test_another_process_maps_the_files_itself(copies):
    copy = copy_of(copies["tiles"])
    copy[0]
    data = pickle.dumps(copy.packed)
    assert len(data) < 1000
    assert bytes(pickle.loads(data).view(4)) == bytes(copy.packed.view(4))


def test_images_that_would_be_enlarged(copies, caplog):
    copy_of(copies["pixels"])
    assert not caplog.records
    copy_of(copies["pixels"], [{"name": "RandomResizedCrop", "size": 80}])
    assert "of a short side of 72 pixels at most, and the transforms give 80x80: pack the data" in caplog.text


@pytest.mark.parametrize("folder", ["packed", "packed/val"])
def test_data_of_the_command_line(digits, folder, capfd):
    config = [
        "-c",
        str(ROOT / "configs" / "sot" / "sot_digits.yaml"),
        "--data",
        str(digits / folder),
        "--dry-run",
    ]
    assert cli.train([*config, "-o", "dataloader.train.dataset.transforms.0.ratio=[1.0, 1.0]"]) == 0
    said = capfd.readouterr().out
    if folder == "packed":
        assert f"data: validation in {digits}/packed/val" in said
        assert "1438 training, 359 validation images, 10 classes" in said
    else:
        assert "some of each class are held out" in said
        assert "289 training, 70 validation images, 10 classes" in said


def test_where_the_time_goes(digits, capfd):
    node = f"{{name: PackedImages, dataroot: {digits}/packed/train, transforms: [{{name: Normalize}}]}}"
    config = ["-c", str(ROOT / "configs" / "sot" / "sot_digits.yaml"), "--mode", "data", "--repeats", "1"]
    command = [*config, "-o", f"dataloader.train.dataset={node}"]
    assert cli.benchmark(command) == 0
    assert re.search(r"^read \(us/image\) +[\d.]+$", capfd.readouterr().out, re.M)
    assert cli.benchmark([*command, "--compare", "timm"]) == 2
    assert "--compare timm reads files, and" in capfd.readouterr().err


# The command


def test_the_command(source, tmp_path, capfd):
    out = tmp_path / "out"
    command = [str(source), str(out), "--raw", "--short-side", "64", "--processes", "1"]
    assert cli.make_cache(command) == 0
    said = capfd.readouterr().out
    assert "(pixels, short side 64)" in said and "24 images" in said
    assert min(copy_of(out).read(0).shape[:2]) == 64
    assert cli.make_cache(command) == 0
    assert "packed already" in capfd.readouterr().out
    assert cli.make_cache([*command, "--verify"]) == 0
    said = capfd.readouterr().out
    assert f"{out}: all 24 images have their checksums" in said
    assert f"{out}: all files in {source} are those that were packed" in said
    assert cli.make_cache([str(tmp_path / "gone"), str(out), "--verify"]) == 0
    assert (
        f"{out}: only its checksums were compared, as {tmp_path}/gone isn't there" in capfd.readouterr().out
    )
    flip(out / "shard-00000.bin", 7)
    assert cli.make_cache([*command, "--verify"]) == 2
    assert "[0] (n 2/a 0.JPEG): its bytes aren't those that were packed" in capfd.readouterr().err
    assert cli.make_cache([str(source), str(source / "out")]) == 2
    assert "lies inside of" in capfd.readouterr().err


def test_the_script_and_its_splits(digits, tmp_path):
    """Packed anew from a packed copy by two processes of the script, which needs no Paddle."""
    script = """
import runpy, sys
sys.modules["paddle"] = None
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-c", script, "tools/make_cache.py", digits / "packed", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--processes", "2"], capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"out/train: 1,438 images, .*out/val: 359 images", done.stdout, re.S)
    source, files = (
        open_source(str(tmp_path / "out" / "val")),
        folder_of(digits / "files" / "val"),
    )
    assert source.class_names == files.class_names and source.named
    assert source.stored(7) == (digits / "files" / "val" / name_of(files, 7)).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tile-only", "--quality", "80"], "--tile-only leaves pixels as they are"),
        (["--raw", "--quality", "80"], "--raw stores pixels"),
        (["--raw", "--tile-only"], "not allowed with argument"),
        (["--short-side", "0"], "--short-side must be at least 1"),
        (["--quality", "101"], "--quality must be from 1 to 100"),
        (["--processes", "0"], "--processes must be at least 1"),
    ],
)
def test_arguments_that_do_not_go_together(capsys, arguments, words):
    with pytest.raises(SystemExit):
        cli.make_cache(["a", "b", *arguments])
    assert words in capsys.readouterr().err


def test_tiles_need_numba(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("passl_sot.imageio.kernels.jit.available", lambda: False)
    assert cli.make_cache([str(source), str(tmp_path / "out"), "--tile-only"]) == 2
    assert "pip install 'passl_sot[fast]'" in capsys.readouterr().err


def test_images_too_long_for_jpeg_are_kept_as_they_are(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("L", (82, 70_000), 9).save(tmp_path / "in" / name / "1.png")
    packed(tmp_path / "in", tmp_path / "out", SMALLER)
    assert copy_of(tmp_path / "out").read(0).shape == (70_000, 82, 3)


def test_packed_training_data_beside_plain_validation_data(photos, tmp_path):
    """Neither is left out without a word."""
    for split in ("plain/train", "plain/val"):
        many_files(photos, tmp_path / split, 8, side=40)
        (tmp_path / split / "list.txt").unlink()
    packed(tmp_path / "plain" / "train", tmp_path / "both" / "train")
    shutil.copytree(tmp_path / "plain" / "val", tmp_path / "both" / "val")
    assert [name for name, _ in splits_of(str(tmp_path / "both"), str(tmp_path / "o"))] == ["train", "val"]
    with pytest.raises(DataError, match=r"both/train is a packed copy and .*both/val isn.t: pack it too"):
        find_splits(str(tmp_path / "both"))
