from __future__ import annotations

import collections
import logging
import os
import re
import subprocess
import sys
import threading

import numpy as np
import paddle
import pytest
from PIL import Image

import passl_sot.data.loader.loader as loader_module
from passl_sot.config import ConfigError
from passl_sot.data import DataError, build_dataloader, build_dataset
from passl_sot.data.schema import bad_file_limit
from passl_sot.data.transforms.compose import Compose
from passl_sot.imageio.errors import ImageError
from passl_sot.imageio.kernels import jit
from tests.data.for_workers import fail

_EVAL = [{"name": "Resize", "size": 18}, {"name": "CenterCrop", "size": 16}, {"name": "Normalize"}]


def _spoil(root: str, *names: str) -> list[str]:
    for name in names:
        with open(f"{root}/{name}", "wb") as file:
            file.write(b"<html>404</html>")
    return [f"{root}/{name}" for name in names]


def _epoch(loader, epoch: int = 0) -> list[tuple[np.ndarray, ...]]:
    loader.sampler.set_epoch(epoch)
    return [tuple(batch[key].numpy() for key in ("image", "label", "index")) for batch in loader]


def _equal(a, b) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


@pytest.fixture
def warnings_of(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("passl_sot"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="passl_sot.data")
    return caplog


# -- what comes out ---------------------------------------------------------------------------------
def test_batches(folder, split):
    loader = build_dataloader(split(folder({"a": 5, "b": 5})), mode="train", seed=0)
    assert len(loader) == 2 and loader.dataset.class_names == ["a", "b"] and len(loader.dataset) == 10
    for batch in loader:
        assert set(batch) == {"image", "label", "index"}
        assert batch["image"].shape == [4, 3, 16, 16] and "float32" in str(batch["image"].dtype)
        assert "int64" in str(batch["label"].dtype) and "int64" in str(batch["index"].dtype)
        np.testing.assert_array_equal(batch["label"].numpy(), loader.dataset.labels[batch["index"].numpy()])
    assert loader.wait_seconds > 0
    assert len(loader.bad_files) == 0


def test_independent_of_workers(folder, split):
    root = folder({"a": 9, "b": 8})
    results = {}
    for workers in (0, 1, 2, 4):
        loader = build_dataloader(split(root, workers=workers), mode="train", seed=3)
        assert loader.num_workers == workers
        results[workers] = [_epoch(loader, epoch) for epoch in (0, 1)]
    assert all(_equal(results[0][e], results[w][e]) for w in (1, 2, 4) for e in (0, 1))
    assert not _equal(results[0][0], results[0][1])
    other = build_dataloader(split(root), mode="train", seed=4)
    assert not _equal(_epoch(other), results[0][0])


def test_without_shared_memory(folder, split):
    root = folder({"a": 6})
    config = split(root, workers=1)
    config["loader"]["use_shared_memory"] = False
    assert _equal(
        _epoch(build_dataloader(config, mode="train", seed=0)),
        _epoch(build_dataloader(split(root), mode="train", seed=0)),
    )
    more = split(folder({"b": 40}), workers=2, batch_size=2)
    more["loader"]["use_shared_memory"] = False
    loader = build_dataloader(more, mode="train", seed=0)
    for _ in loader:
        assert all(worker.asked for worker in loader.pool._workers)  # both have work
        break


def test_two_processes_are_one(folder, split):
    root = folder({"a": 9, "b": 8})
    one = _epoch(build_dataloader(split(root, batch_size=6), mode="train", seed=3), 1)
    two = [
        _epoch(build_dataloader(split(root, batch_size=3), mode="train", seed=3, rank=r, world_size=2), 1)
        for r in (0, 1)
    ]
    joined = [
        tuple(np.concatenate(pair) for pair in zip(a, b, strict=True)) for a, b in zip(*two, strict=True)
    ]
    assert _equal(joined, one)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_mid_epoch(folder, split, workers):
    root = folder({"a": 20})
    loader = build_dataloader(split(root, workers=workers), mode="train", seed=0)
    whole = _epoch(loader, 2)
    for number, _ in enumerate(loader, 1):
        if number == 2:
            break
    state = loader.sampler.state_dict()
    assert (state["epoch"], state["consumed"]) == (2, 2)  # not what workers have prepared ahead
    again = build_dataloader(split(root, workers=workers), mode="train", seed=0)
    again.sampler.load_state_dict(state)
    assert _equal(_epoch(again, 2), whole[2:])
    assert _equal(_epoch(again, 3), _epoch(loader, 3))


def test_iterating_twice_gives_the_epoch_twice(folder, split):
    loader = build_dataloader(split(folder({"a": 9})), mode="train", seed=0)
    assert _equal(_epoch(loader), _epoch(loader))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_is_exact(folder, split, world_size):
    root = folder({"a": 6, "b": 7})
    seen = collections.Counter()
    for rank in range(world_size):
        config = split(root, transforms=_EVAL, workers=rank % 2)
        loader = build_dataloader(config, mode="val", seed=0, rank=rank, world_size=world_size)
        batches = _epoch_of_val(loader)
        assert len(batches) == len(loader)
        seen.update(int(i) for _, _, index in batches for i in index)
    assert seen == collections.Counter(range(13))


def _epoch_of_val(loader) -> list[tuple[np.ndarray, ...]]:
    return [tuple(batch[key].numpy() for key in ("image", "label", "index")) for batch in loader]


# -- configuration ----------------------------------------------------------------------------------
def test_wrong_keys_are_all_told(folder, split):
    config = split(folder({"a": 4}))
    config["loader"]["num_worker"] = 2
    config["sampler"]["batchsize"] = 2
    config["dataset"]["data_root"] = "x"
    with pytest.raises(ConfigError) as caught:
        build_dataloader(config, mode="train", seed=0)
    text = str(caught.value)
    assert "num_workers" in text and "batch_size" in text and "dataroot" in text


@pytest.mark.parametrize("key", ["shuffle", "drop_last"])
def test_evaluation_refuses_what_loses_images(folder, split, key):
    with pytest.raises(DataError, match=f"val.sampler.{key} is true"):
        build_dataloader(split(folder({"a": 4}), transforms=_EVAL, **{key: True}), mode="val", seed=0)
    build_dataloader(split(folder({"a": 4}, name="v"), transforms=_EVAL, **{key: False}), mode="val", seed=0)


def test_defaults(folder, split):
    config = split(folder({"a": 4}))
    del config["loader"]
    loader = build_dataloader(config, mode="train", seed=0)
    assert loader.sampler.shuffle and loader.sampler.drop_last
    cores = len(os.sched_getaffinity(0))
    assert loader.num_workers == min(8, cores - 1)
    with pytest.raises(ValueError, match=r"num_workers: must lie in \[0, 1024\], got -1"):
        build_dataloader(split(folder({"a": 4}, name="b"), workers=-1), mode="train", seed=0)


def test_class_names_and_ready_dataset(folder, split):
    config = split(folder({"b": 4}), transforms=_EVAL)
    loader = build_dataloader(config, mode="val", seed=0, class_names=["a", "b"])
    assert loader.dataset.class_names == ["a", "b"]
    assert _epoch_of_val(loader)[0][1].tolist() == [1, 1, 1, 1]
    dataset = build_dataset(config["dataset"])
    assert build_dataloader(config, mode="val", seed=0, dataset=dataset).dataset is dataset


def test_images_of_different_sizes(folder, split):
    from PIL import Image

    root = folder({"a": 4})
    Image.new("RGB", (90, 40)).save(f"{root}/a/train_002.png")
    transforms = [{"name": "Resize", "size": 16}, {"name": "Normalize"}]
    for workers in (0, 1):
        loader = build_dataloader(split(root, workers=workers, transforms=transforms), mode="val", seed=0)
        with pytest.raises(DataError, match=r"differ in size .*\[3, 16, 24\] .*\[3, 16, 36\] \(image 2\)"):
            _epoch_of_val(loader)


# -- bad files --------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
def test_training_skips_counts_and_names_bad_files(folder, split, workers, warnings_of):
    root = folder({"a": 10, "b": 10})
    spoiled = _spoil(root, "a/train_003.png", "a/train_004.png", "b/train_009.png")
    loader = build_dataloader(split(root, workers=workers), mode="train", seed=0)
    for epoch in range(3):
        batches = _epoch(loader, epoch)
        assert [len(batch[0]) for batch in batches] == [4] * 5
        used = sorted(int(i) for _, _, index in batches for i in index)
        # 3 and 4 are replaced by 5, the last by the first.
        assert used == sorted([*range(3), 5, 5, 5, *range(6, 19), 0])
        for _, labels, index in batches:
            np.testing.assert_array_equal(labels, loader.dataset.labels[index])
    assert len(loader.bad_files) == 3
    assert set(loader.bad_files.reasons) == set(spoiled)
    assert all("HTML" in reason for reason in loader.bad_files.reasons.values())
    for path in spoiled:  # named once, not once an epoch
        assert sum(path in record.getMessage() for record in warnings_of.records) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_files_stop_training(folder, split, workers):
    root = folder({"a": 30})
    spoiled = _spoil(root, *(f"a/train_{i:03d}.png" for i in range(0, 28, 2)))
    config = split(root, workers=workers)
    with pytest.raises(
        DataError, match=r"1\d unreadable images, more than the 10 that may be skipped"
    ) as caught:
        _epoch(build_dataloader(config, mode="train", seed=0))
    assert len(caught.value.faults) == 11
    assert all(any(path in fault for path in spoiled) for fault in caught.value.faults[1:])
    config["loader"]["max_bad"] = 14
    assert len(_epoch(build_dataloader(config, mode="train", seed=0))) == 7
    config["loader"]["max_bad"] = 0
    with pytest.raises(DataError, match="more than the 0 that may be skipped"):
        _epoch(build_dataloader(config, mode="train", seed=0))


def test_several_processes_count_each_bad_file_once(folder, split, warnings_of):
    root = folder({"a": 30})
    files = [build_dataloader(split(root), mode="train", seed=0).bad_files for _ in range(2)]
    for rank, own in enumerate(files):
        own.shared = True
        own.add([[7, "no image"], [rank, "no image"]])
        assert len(own) == 0 and len(own.pending) == 2
    both = [entry for own in files for entry in own.pending]
    for rank, own in enumerate(files):
        own.settle(both, name=rank == 0)
        own.add([[0, "no image"], [8, "no image"]])  # another epoch, in which they are dealt out otherwise
        assert own.pending == [[8, "no image"]]
        assert list(own.reasons) == [f"{root}/a/train_{i:03d}.png" for i in (7, 0, 1)]
    assert len(warnings_of.records) == 3
    with pytest.raises(DataError, match="12 unreadable images, more than the 10 that may be skipped"):
        files[1].settle([[i, "no image"] for i in range(12)])


def test_no_readable_file_at_all(folder, split):
    root = folder({"a": 4})
    _spoil(root, *(f"a/train_{i:03d}.png" for i in range(4)))
    with pytest.raises(DataError, match="4 images in a row can't be read"):
        _epoch(build_dataloader(split(root), mode="train", seed=0))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_stops_at_a_bad_file_and_names_it(folder, split, workers):
    root = folder({"a": 6, "b": 6})
    (spoiled,) = _spoil(root, "b/train_001.png")
    loader = build_dataloader(split(root, workers=workers, transforms=_EVAL), mode="val", seed=0)
    with pytest.raises(ImageError, match="not an image but an HTML") as caught:
        _epoch_of_val(loader)
    assert caught.value.path == spoiled


@pytest.mark.parametrize("workers", [0, 1])
def test_any_error_of_a_worker_reaches_the_user_with_the_path(folder, split, workers):
    root = folder({"a": 8})
    loader = build_dataloader(split(root, workers=workers), mode="train", seed=0)
    loader.dataset.transforms = Compose([fail, *loader.dataset.transforms.transforms])
    with pytest.raises(DataError, match="a transform's own trouble") as caught:
        _epoch(loader)
    assert f"({root}/a/train_" in str(caught.value) and "Traceback" in str(caught.value)


@pytest.mark.parametrize(
    ("size", "max_bad", "limit"),
    [(100, None, 10), (5000, None, 50), (100, 0, 0), (100, 7, 7), (1000, 0.05, 50), (1000, 0.0, 0)],
)
def test_limit(size, max_bad, limit):
    assert bad_file_limit(size, max_bad) == limit


@pytest.mark.parametrize("max_bad", [-1, 1.0, 1.5, -0.1])
def test_limit_out_of_range(folder, split, max_bad):
    config = split(folder({"a": 4}))
    config["loader"]["max_bad"] = max_bad
    with pytest.raises(ConfigError, match=r"loader.max_bad: must be a count"):
        build_dataloader(config, mode="train", seed=0)


def test_what_would_be_faster_is_said(folder, split, monkeypatch, warnings_of):
    warnings_of.set_level(logging.INFO, logger="passl_sot.data")
    root = folder({"a": 4})
    build_dataloader(split(root), mode="train", seed=0)
    assert not warnings_of.records
    monkeypatch.setattr(jit, "available", lambda: False)
    build_dataloader(split(root), mode="train", seed=0)
    build_dataloader(split(root, transforms=_EVAL), mode="val", seed=0)
    (record,) = warnings_of.records
    assert "numba not installed: images are prepared by Pillow, the same but slower" in record.getMessage()


@pytest.mark.parametrize("workers", [0, 1])
def test_the_cheapest_advice_for_waiting(folder, split, workers, monkeypatch):
    config = split(folder({"a": 40}), workers=workers, batch_size=2)
    monkeypatch.setattr(loader_module, "usable_cores", lambda: 4)
    loader = build_dataloader(config, mode="train", seed=0)
    assert loader.advice(1e9) == ""
    list(loader)
    words = r"one core prepares (\d+) images/s, and the model could take 1000000000: set "
    rate = int(re.match(words, loader.advice(1e9)).group(1))
    assert 10 < rate < 100_000
    assert loader.advice(1e9).endswith("set dataloader.train.loader.num_workers: 4")
    if not workers:
        assert loader.advice(rate / 2).endswith("num_workers: 1")
    loader.num_workers = 4
    assert ", so 4 workers wait for files" in loader.advice(rate / 2)
    assert "tools/benchmark.py --mode data shows" in loader.advice(1e9)
    monkeypatch.setattr(jit, "available", lambda: False)
    assert loader.advice(1e9).endswith("pip install 'passl_sot[fast]' (numba not installed)")


def test_the_advice_where_an_epoch_is_one_batch(folder, split):
    """More workers wouldn't help: one makes the batch, and all else waits."""
    loader = build_dataloader(split(folder({"a": 4}), batch_size=4), mode="train", seed=0)
    for _ in range(16):
        (_,) = loader
    assert loader.advice(1e9).endswith(
        "an epoch is one batch, which one worker makes while all else waits: a smaller "
        "dataloader.train.sampler.batch_size lets batches be read ahead"
    )


def test_tensors_elsewhere_than_in_main_memory_are_copies(monkeypatch):
    """No GPU here: what is tested is that this way runs, too."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    shared = loader_module.as_tensor(array)
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    copied = loader_module.as_tensor(array)
    array[0, 0] = 9
    assert (shared.numpy()[0, 0], copied.numpy()[0, 0], copied.dtype) == (9, 0, paddle.float32)


def test_breaking_off_without_workers_waits_for_nothing(folder, split, monkeypatch):
    loader = build_dataloader(split(folder({"a": 40})), mode="train", seed=0)
    read, hangs, go_on = loader.dataset.sample, threading.Event(), threading.Event()
    done = []

    def sample(key, out):
        if len(done) == 4:  # the next batch, which is read ahead
            hangs.set()
            go_on.wait(60)
        done.append(key)
        return read(key, out)

    monkeypatch.setattr(loader.dataset, "sample", sample)
    for _ in loader:
        assert hangs.wait(60)
        break
    assert len(done) == 4
    go_on.set()


_PIXELS = """
import hashlib, sys
from passl_sot.data import build_dataset
from passl_sot.data.loader.worker import BatchReader

def digests(root):
    normalize = {"name": "Normalize"}
    crop = [{"name": "RandomResizedCrop", "size": 64}, {"name": "RandAugment"}]
    view = [{"name": "Resize", "size": 64, "crop_pct": 0.875}, {"name": "CenterCrop", "size": 64}, normalize]
    dataset = {"name": "ImageFolder", "dataroot": root}
    train = {**dataset, "transforms": crop, "batch_transforms": [normalize, {"name": "RandomErasing"}]}
    for node in (train, {**dataset, "transforms": view}):
        read = BatchReader(build_dataset(node), replace=False)
        for first in (0, 6):
            yield hashlib.sha1(read([(0, i) for i in range(first, first + 6)])["image"].tobytes()).hexdigest()
"""
_WITHOUT_EXTRA = """
import logging, sys
sys.modules["numba"] = sys.modules["simplejpeg"] = None
logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
dataset = {"name": "ImageFolder", "dataroot": sys.argv[1], "transforms": [{"name": "Normalize"}]}
for training in (True, False):
    build_dataset(dataset).prepare(training=training)
print(*digests(sys.argv[1]))
"""


def test_without_the_extra_all_pixels_are_the_same_and_the_log_says_it(tmp_path, photos):
    """Where neither numba nor simplejpeg can be imported, Pillow and NumPy do all, not a bit differently."""
    pytest.importorskip("numba")
    pytest.importorskip("simplejpeg")
    for number in range(12):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(photos[number % 4])
        photo.save(path, subsampling=number % 3, progressive=number == 7)
    root = str(tmp_path / "photos")
    command = [sys.executable, "-c", _PIXELS + _WITHOUT_EXTRA, root]
    absent = subprocess.run(command, capture_output=True, text=True, check=False)
    assert absent.returncode == 0, absent.stderr
    present: dict = {}
    exec(_PIXELS, present)
    assert absent.stdout.split() == list(present["digests"](root))
    line = (
        "numba and simplejpeg not installed: images are prepared by Pillow, the same but slower; "
        "pip install 'passl_sot[fast]' / 安装 [fast] 可加快数据读取"
    )
    assert [text for text in absent.stderr.splitlines() if "not installed" in text] == [line]
