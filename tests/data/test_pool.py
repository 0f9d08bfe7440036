"""Worker processes, the memory that batches travel through, and what is left of both."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import types
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl_sot.data import DataError, ItemError, build_dataloader, build_dataset, check_data
from passl_sot.data.errors import WorkerError
from passl_sot.data.loader import worker_pool
from passl_sot.data.loader.loader import DataLoader
from passl_sot.data.loader.shared_buffers import progress_in
from passl_sot.data.samplers import ShardedBatchSampler
from passl_sot.data.schema import LoaderSection
from tests.data.for_workers import Sequences, SilentDisk

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
# A hang would show as this; nothing here is expected to take any time near it.
LONG = 60


def _gone(pid: int) -> bool:
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def _workers(loader: DataLoader) -> list[int]:
    return [worker.process.pid for worker in loader.pool._workers]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _python(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        timeout=10 * LONG,
    )


# -- memory -----------------------------------------------------------------------------------------
def test_batches_may_be_kept(folder, split):
    """More of them than there is room for: each keeps its own pixels, whoever made it."""
    root = folder({"a": 60})
    kept = list(build_dataloader(split(root, workers=2, batch_size=2), mode="train", seed=0))
    fresh = build_dataloader(split(root, workers=0, batch_size=2), mode="train", seed=0)
    assert len(kept) == 30
    for batch, expected in zip(kept, fresh, strict=True):
        for name in ("image", "label", "index"):
            np.testing.assert_array_equal(batch[name].numpy(), expected[name].numpy())


def test_memory_is_used_again(folder, split):
    loader = build_dataloader(split(folder({"a": 40}), workers=2, batch_size=2), mode="train", seed=0)
    places = set()
    for _ in range(3):
        for batch in loader:
            places.add(batch["image"].data_ptr())
            kept = batch["image"]
        del batch
    free = loader.pool.buffers.free
    assert len(places) <= 6 and len(free) == 5
    pixels = kept.numpy().copy()
    for _ in loader:
        np.testing.assert_array_equal(kept.numpy(), pixels)
    del kept, _
    gc.collect()
    assert len(free) == 6


def test_batches_of_unknown_size_travel_too(folder, split):
    transforms = [{"name": "Resize", "size": 16}, {"name": "Normalize"}]
    loader = build_dataloader(split(folder({"a": 8}), workers=1, transforms=transforms), mode="val", seed=0)
    assert loader.dataset.output_hw is None
    assert sum(len(batch["label"]) for batch in loader) == 8


@pytest.mark.parametrize("room", [0, 4096])
def test_any_dict_of_arrays_travels(room):
    """Of any length, through pipes (no room) or shared memory; unreadable items are replaced and named."""
    seen = {}
    for workers in (0, 2):
        dataset = Sequences(room)
        sampler = ShardedBatchSampler(num_samples=12, batch_size=4, shuffle=True, drop_last=True, seed=1)
        loader = DataLoader(dataset, sampler, LoaderSection(num_workers=workers), training=True)
        seen[workers] = [{name: value.numpy() for name, value in batch.items()} for batch in loader]
        assert loader.bad_files.reasons == {"Sequences[3]": "it is left out"}
    for mine, expected in zip(seen[2], seen[0], strict=True):
        assert list(mine) == ["steps", "index"]
        for name in mine:
            np.testing.assert_array_equal(mine[name], expected[name])
    indices = sorted(int(i) for batch in seen[0] for i in batch["index"])
    assert indices == sorted([0, 1, 2, 4, 4, *range(5, 12)])
    with pytest.raises(ItemError, match="Sequences\\[3\\]: it is left out"):
        list(DataLoader(dataset, sampler, LoaderSection(num_workers=0), training=False))


_SOAK = """
import json, multiprocessing, os, sys
from pathlib import Path
from passl_sot.data import build_dataloader

def state(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    files = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").glob("*") if os.path.lexists(path)]
    return int(status.partition("VmRSS:")[2].split()[0]), [name for name in files if "/dev/shm" in name]

loader = build_dataloader(json.loads(sys.argv[1]), mode="train", seed=0)
for epoch in range(20):
    loader.sampler.set_epoch(epoch)
    for number, batch in enumerate(loader):
        if number == 7:
            workers = [process.pid for process in multiprocessing.active_children()]
            found = [state(pid) for pid in (os.getpid(), *workers)]
    print(json.dumps([found, number + 1, len(os.listdir("/proc/self/fd"))]))
"""


@pytest.mark.slow
def test_twenty_epochs_take_no_more_memory_than_five(tmp_path, photos, split):
    """Of the process that trains and of its worker; nothing lies in /dev/shm, no file stays open."""
    for number in range(64):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos[number % 4][:96, :96]).save(path)
    crop = {"name": "RandomResizedCrop", "size": 48}
    transforms = [crop, {"name": "RandomHorizontalFlip"}, {"name": "RandAugment"}]
    section = split(str(tmp_path / "photos"), batch_size=8, workers=1, transforms=transforms)
    mixed = [{"name": "Mixup", "num_classes": 2}, {"name": "Normalize"}, {"name": "RandomErasing"}]
    section["dataset"]["batch_transforms"] = mixed
    (tmp_path / "soak.py").write_text(_SOAK)
    done = _python(tmp_path / "soak.py", json.dumps(section))
    assert done.returncode == 0, done.stderr
    epochs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(epochs) == 20 and {batches for _, batches, _ in epochs} == {8}
    assert len({files for _, _, files in epochs[1:]}) == 1
    for process in range(2):
        sizes = [found[process][0] for found, _, _ in epochs]
        assert max(sizes[5:]) - max(sizes[:5]) < 4096, sizes  # kB
        assert not any(found[process][1] for found, _, _ in epochs)


# -- processes --------------------------------------------------------------------------------------
def test_workers_are_small_and_no_signal_to_the_whole_job_ends_them(folder, split):
    """They know nothing of Paddle, have nothing open in /dev/shm, and read on after Ctrl-C and SIGTERM."""
    loader = build_dataloader(split(folder({"a": 40}), workers=1), mode="train", seed=0)
    seen = 0
    for batch in loader:
        (pid,) = _workers(loader)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
            os.kill(_parent(pid), number)  # the server, for whose end they would not live on
        if not seen:
            maps = Path(f"/proc/{pid}/maps").read_text()
            status = Path(f"/proc/{pid}/status").read_text()
        seen += len(batch["label"])
    assert seen == 40
    assert "numpy" in maps and "paddle" not in maps and "/dev/shm" not in maps
    assert int(status.partition("VmHWM:")[2].split()[0]) < 200_000  # kB


def test_breaking_off_leaves_nothing_behind(folder, split):
    """However often: no process, no memory, no open file."""
    loader = build_dataloader(split(folder({"a": 40}), workers=2), mode="train", seed=0)
    seen = []
    pids = set()
    for _ in range(4):
        for number, _ in enumerate(loader):
            if number == 2:
                pids |= set(_workers(loader))
                break
        del _
        gc.collect()
        seen.append((len(loader.pool.buffers.free), len(os.listdir("/proc/self/fd"))))
    assert seen[1:] == [(6, seen[0][1])] * 3
    assert len(pids) == 8 and all(_gone(pid) for pid in pids)
    assert [len(batch["label"]) for batch in loader] == [4] * 10


def test_workers_stay_for_the_next_epoch(folder, split):
    loader = build_dataloader(split(folder({"a": 16}), workers=2), mode="train", seed=0)
    expected = [len(batch["label"]) for batch in loader]
    pids = _workers(loader)
    assert [len(batch["label"]) for batch in loader] == expected and _workers(loader) == pids
    os.kill(pids[0], signal.SIGKILL)  # between epochs: others come in its place
    assert _gone(pids[0])
    assert [len(batch["label"]) for batch in loader] == expected
    assert not set(_workers(loader)) & set(pids) and all(_gone(pid) for pid in pids)
    pids = _workers(loader)
    del loader
    gc.collect()
    assert all(_gone(pid) for pid in pids)


def test_a_dataset_changed_between_epochs_is_read_as_it_is_now(folder, split):
    loader = build_dataloader(split(folder({"a": 8, "b": 8}), workers=1), mode="train", seed=0)
    before = {int(i): int(c) for batch in loader for i, c in zip(batch["index"], batch["label"], strict=True)}
    pids = _workers(loader)
    loader.dataset.labels[3] = 1
    after = {int(i): int(c) for batch in loader for i, c in zip(batch["index"], batch["label"], strict=True)}
    assert {i for i in before if before[i] != after[i]} == {3} and not set(_workers(loader)) & set(pids)
    assert all(_gone(pid) for pid in pids)


def test_passes_inside_of_each_other(folder, split):
    loader = build_dataloader(split(folder({"a": 12}), workers=1), mode="val", seed=0)
    seen = [int(i) for outer in loader for inner in loader for i in inner["index"]]
    assert seen == [*range(12)] * 3


def test_a_killed_worker_is_named_with_its_signal(folder, split):
    """Though the main process is busy with something else; the next pass has others in its place."""
    loader = build_dataloader(split(folder({"a": 80}), workers=2), mode="train", seed=0)
    batches = iter(loader)
    next(batches)
    first = min(_workers(loader))
    os.kill(first, signal.SIGSEGV)
    words = rf"a data worker process died: worker [01] \(pid {first}\) was ended by SIGSEGV; it "
    with pytest.raises(WorkerError, match=words):
        list(batches)
    assert sum(len(batch["label"]) for batch in loader) == 80


@pytest.mark.slow
def test_a_killed_server_of_workers_is_named(folder, split):
    """As the system may choose it for want of memory; its workers end with it, and others come."""
    loader = build_dataloader(split(folder({"a": 200}), workers=2), mode="train", seed=0)
    words = r"worker [01] \(pid \d+\) ended with the server of all workers, which"
    with pytest.raises(WorkerError, match=words):
        for number, _ in enumerate(loader):
            if number == 1:
                pids = _workers(loader)
                os.kill(_parent(pids[0]), signal.SIGKILL)
    assert all(_gone(pid) for pid in pids)
    assert sum(len(batch["label"]) for batch in loader) == 200


@pytest.fixture
def silent(folder, split):
    """A loader over 16 images, on a disk that is silent for the one in the second place of `b`; its path."""
    paths = []

    def make(workers: int, **more):
        root = folder({"a": 8, "b": 8}, name=f"set{workers}")
        config = split(root, workers=workers, shuffle=False)
        config["loader"].update(more)
        dataset = build_dataset(config["dataset"])
        dataset.__class__ = SilentDisk
        path = Path(dataset.path(9))
        path.unlink()
        os.mkfifo(path)
        paths.append(path)
        return build_dataloader(config, mode="train", seed=0, dataset=dataset), path

    yield make
    for path in paths:
        # Threads of this process that still wait there come to an end.
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    for thread in threading.enumerate():
        if "passl_sot reader" in thread.name:
            thread.join(5)


def test_a_file_that_never_answers(silent):
    loader, path = silent(0, timeout=0.5)
    words = rf"no batch came for 0.5 s: the thread that reads images had been reading image 9 \({path}\) for"
    with pytest.raises(WorkerError, match=words):
        list(loader)
    with pytest.raises(WorkerError, match=rf"image 9 \({path}\) was not read within 0.5 s"):
        check_data(loader.dataset, None, 2, timeout=0.5)  # the check before a run does not wait either
    loader, path = silent(2, timeout=None)
    batches = iter(loader)
    next(batches)
    loader.pool._timeout = 0.5  # now that workers have begun, however long that took
    pids = _workers(loader)
    words = r"no batch came for 0.5 s: worker [01] \(pid \d+\) had been reading image 9 "
    with pytest.raises(WorkerError, match=words + rf"\({path}\) for"):
        list(batches)
    assert len(pids) == 2 and all(_gone(pid) for pid in pids)


def test_leaving_while_a_worker_hangs(silent):
    """What ends the loop is another matter, such as a signal; the worker must not hold it back."""
    loader, _ = silent(1, timeout=None)
    for _ in loader:  # one of four; by now the worker has been told of the third
        until = time.monotonic() + LONG
        while progress_in(loader.pool.buffers.shared.buffer, 0)[0] != 1 + 9:
            assert time.monotonic() < until
            time.sleep(0.01)
        (pid,) = _workers(loader)
        break
    assert _gone(pid)


@pytest.mark.slow
def test_a_suspended_job_has_not_waited(folder, split):
    """As by a scheduler that gives the machine to another job for a while, longer than the timeout."""
    config = split(folder({"a": 40}), workers=1)
    config["loader"]["timeout"] = 3
    code = (
        "import multiprocessing, os, subprocess, time\nfrom passl_sot.data import build_dataloader\n"
        f"loader = build_dataloader({config!r}, mode='train', seed=0)\n"
        "for number, _ in enumerate(loader, 1):\n"
        "    if number == 2:\n"
        "        own, worker = os.getpid(), multiprocessing.active_children()[0].pid\n"
        "        stop = f'kill -STOP {worker}; sleep 0.3; kill -STOP {own}; sleep 3.5; '\n"
        "        subprocess.Popen(['sh', '-c', f'{stop} kill -CONT {own}; sleep 0.2; kill -CONT {worker}'])\n"
        "        time.sleep(0.2)\n"
        "print(number)\n"
    )
    began = time.monotonic()
    done = _python("-c", code)
    assert done.stdout == "10\n", done.stderr
    assert time.monotonic() - began > 3.5


def _end_server(*, kill: bool) -> None:
    server = forkserver._forkserver._forkserver_pid
    if kill:
        os.kill(server, signal.SIGKILL)
    os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)


@pytest.mark.slow
def test_a_server_that_does_not_start(folder, split, monkeypatch):
    loader = build_dataloader(split(folder({"a": 8}), workers=2), mode="train", seed=0)
    assert len(list(loader)) == 2
    _end_server(kill=True)  # while its workers wait for the next pass
    with monkeypatch.context() as patch:
        patch.setattr(forkserver.spawn, "get_executable", lambda: b"/bin/false")
        with pytest.raises(WorkerError, match="data workers can't be started, see above"):
            list(loader)
    _end_server(kill=False)
    assert len(list(loader)) == 2


@pytest.mark.parametrize(
    ("accident", "error", "said"),
    [
        ("raise RuntimeError('why')", DataError, r"a data worker failed:[\s\S]*RuntimeError: why"),
        ("time.sleep(10_000)", WorkerError, "no batch came for 0.5 s: worker"),
    ],
)
def test_workers_that_never_begin(folder, split, tmp_path, monkeypatch, accident, error, said):
    """A module of the user's that fails, or hangs, where a worker imports it."""
    name = f"theirs_{error.__name__}"
    (tmp_path / f"{name}.py").write_text(
        "import os, time\n\nclass Theirs:\n    def __call__(self, image, rng):\n        return image\n\n"
        f"seen = {str(tmp_path / 'seen')!r}\nif not os.path.exists(seen):\n    open(seen, 'w').close()\n"
        f"else:\n    {accident}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = split(folder({"a": 8}), workers=2)
    config["loader"]["timeout"] = 0.5
    loader = build_dataloader(config, mode="train", seed=0)
    loader.dataset.transforms.transforms[0] = importlib.import_module(name).Theirs()
    with pytest.raises(error, match=said):
        list(loader)


SCRIPT = """
import multiprocessing, sys, time
from passl_sot.data import TRANSFORMS, build_dataloader

@TRANSFORMS.register()
class Mine:
    def __call__(self, image, rng):
        return 255 - image

def main():
    transforms = [{"name": "RandomCrop", "size": 8}, {"name": "Mine"}, {"name": "Normalize"}]
    dataset = {"name": "ImageFolder", "dataroot": sys.argv[1], "transforms": transforms}
    config = {"loader": {"num_workers": 1}, "sampler": {"batch_size": 2}, "dataset": dataset}
    loader = build_dataloader(config, mode="train", seed=0)
    for batch in loader:
        print("batch", multiprocessing.active_children()[0].pid, flush=True)
        if sys.argv[2:]:
            time.sleep(10_000)

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_transforms_of_a_script(folder, tmp_path):
    """A run ends though multiprocessing would wait for its workers, in which SIGTERM is blocked."""
    (tmp_path / "mine.py").write_text(SCRIPT)
    done = _python(tmp_path / "mine.py", folder({"a": 6}))
    assert done.returncode == 0 and done.stdout.count("batch") == 3, done.stderr
    assert _gone(int(done.stdout.split()[1]))


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_behind(folder, tmp_path):
    (tmp_path / "mine.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "mine.py"), folder({"a": 6}), "wait"]
    (tmp_path / "t").mkdir()
    environment = {**ENVIRONMENT, "TMPDIR": str(tmp_path / "t")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        worker = int(process.stdout.readline().split()[1])
        server = _parent(worker)
        process.kill()
    assert _gone(worker) and _gone(server)
    assert os.listdir(tmp_path / "t") == []  # where the server's socket was


def test_a_script_without_a_main_guard(folder, split, tmp_path, monkeypatch):
    """It needs one where it defines a part of the dataset, alone."""
    class_text = "class Mine:\n    def __call__(self, image, rng):\n        return image\n"
    main = types.ModuleType("__main__")
    exec(class_text, vars(main))
    monkeypatch.setitem(sys.modules, "__main__", main)
    loader = build_dataloader(split(folder({"a": 8}), workers=1), mode="train", seed=0)
    loader.dataset.transforms.transforms.insert(0, main.Mine())
    # Without a file there is nothing that workers could import.
    with pytest.raises(DataError, match="can't see what is defined in a notebook or on a command line: move"):
        list(loader)
    main.__file__ = str(tmp_path / "mine.py")
    (tmp_path / "mine.py").write_text(
        class_text + "from passl_sot.data.loader.worker import start_server\nstart_server()\n"
    )
    with pytest.raises(DataError, match="a data worker can't have data workers of its own") as caught:
        list(loader)
    assert 'below `if __name__ == "__main__":`' in str(caught.value)
    loader.dataset.transforms.transforms.pop(0)
    assert len(list(loader)) == 2


def test_what_can_not_be_sent_is_named(folder, split):
    loader = build_dataloader(split(folder({"a": 8}), workers=1), mode="train", seed=0)
    loader.dataset.transforms.transforms[0] = lambda image, rng: image
    with pytest.raises(DataError, match=r"can't be given a part of the dataset \(.*lambda.*\): move it"):
        list(loader)


@pytest.mark.parametrize("folder", ["kept", "nowhere"])
def test_a_first_batch_that_compiles_says_so(folder, tmp_path, monkeypatch, caplog):
    """While any process of the machine compiles, or where all must; once, however long it takes."""
    cache = pytest.importorskip("passl_sot.imageio.kernels.cache")
    file = tmp_path / "compiling.lock"
    lock = cache._Lock(file if folder == "kept" else None)
    monkeypatch.setattr(cache, "_lock", lambda: lock)
    monkeypatch.setattr(worker_pool, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(logging.getLogger("passl_sot"), "propagate", True)
    caplog.set_level(logging.INFO, logger="passl_sot.data")
    worker_pool._say_once.cache_clear()
    assert not lock.is_held()
    with lock.scope():
        assert lock.take() == (folder == "kept")
        for _, seconds in zip(range(9), worker_pool._waits(None), strict=False):
            time.sleep(seconds)
        # pytest hears a logger that kept its lines to itself when the test began twice.
        said = " ".join({id(record): record.getMessage() for record in caplog.records}.values())
    words = {"kept": "being compiled, once on this machine", "nowhere": "set NUMBA_CACHE_DIR to one that can"}
    assert said.count("the loops that prepare images") == 1 and words[folder] in said
    assert not lock.is_held()
    worker_pool._say_once.cache_clear()
    caplog.clear()
    if folder == "kept":  # a disk that is slow, and nothing compiled
        assert len(list(zip(range(9), worker_pool._waits(None), strict=False))) == 9 and not caplog.records
