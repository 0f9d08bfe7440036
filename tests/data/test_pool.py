"""Worker processes, the memory that batches travel through, and what is left of both."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl_sot.data import DataError, build_dataloader, build_dataset, check_data
from passl_sot.data.errors import WorkerError
from passl_sot.data.loader import fork_server as nursery

ROOT = Path(__file__).parents[2]


def _gone(pid: int, seconds: float = 10.0) -> bool:
    for _ in range(int(seconds / 0.05)):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _pids(loader) -> list[int]:
    return sorted(loader.pool.pids.values())


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
    loader = build_dataloader(split(folder({"a": 60}), workers=2, batch_size=2), mode="train", seed=0)
    places = set()
    for _ in range(3):
        for batch in loader:
            places.add(batch["image"].data_ptr())
            kept = batch["image"]
        del batch
    ring = loader.pool.ring
    assert len(places) <= 6 and len(ring.free) == 5
    pixels = kept.numpy().copy()
    for _ in loader:
        np.testing.assert_array_equal(kept.numpy(), pixels)
    del kept, _
    gc.collect()
    assert len(ring.free) == 6


def test_batches_of_unknown_size_travel_too(folder, split):
    transforms = [{"name": "Resize", "size": 16}, {"name": "Normalize"}]
    loader = build_dataloader(split(folder({"a": 8}), workers=1, transforms=transforms), mode="val", seed=0)
    assert loader.dataset.output_hw is None
    assert sum(len(batch["label"]) for batch in loader) == 8


_SOAK = """
import json, os, sys
from pathlib import Path
from passl_sot.data import build_dataloader

def state(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    files = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").glob("*") if os.path.lexists(path)]
    return int(status.partition("VmRSS:")[2].split()[0]), [name for name in files if "/dev/shm" in name]

if __name__ == "__main__":
    loader = build_dataloader(json.loads(sys.argv[1]), mode="train", seed=0)
    for epoch in range(20):
        loader.sampler.set_epoch(epoch)
        for number, batch in enumerate(loader):
            if number == 7:
                found = [state(pid) for pid in (os.getpid(), *loader.pool.pids.values())]
        print(json.dumps([found, number + 1, len(os.listdir("/proc/self/fd"))]))
"""


def test_twenty_epochs_take_no_more_memory_than_five(tmp_path, photos, split):
    """Of the process that trains and of its worker; nothing lies in /dev/shm, no file stays open."""
    for number in range(64):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos[number % 4]).save(path)
    crop = {"name": "RandomResizedCrop", "size": 96}
    transforms = [crop, {"name": "RandomHorizontalFlip"}, {"name": "RandAugment"}]
    section = split(str(tmp_path / "photos"), batch_size=8, workers=1, transforms=transforms)
    mixed = [{"name": "Mixup", "num_classes": 2}, {"name": "Normalize"}, {"name": "RandomErasing"}]
    section["dataset"]["batch_transforms"] = mixed
    program = tmp_path / "soak.py"
    program.write_text(_SOAK)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), json.dumps(section)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    epochs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(epochs) == 20 and {batches for _, batches, _ in epochs} == {8}
    assert len({files for _, _, files in epochs[1:]}) == 1
    for process in range(2):
        sizes = [found[process][0] for found, _, _ in epochs]
        assert max(sizes[5:]) - max(sizes[:5]) < 4096, sizes  # kB
        assert not any(found[process][1] for found, _, _ in epochs)


# -- processes --------------------------------------------------------------------------------------
def test_workers_know_nothing_of_paddle(folder, split):
    loader = build_dataloader(split(folder({"a": 40}), workers=1), mode="train", seed=0)
    for _ in loader:
        (pid,) = _pids(loader)
        maps = Path(f"/proc/{pid}/maps").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
        break
    assert "numpy" in maps and "paddle" not in maps
    assert int(status.partition("VmHWM:")[2].split()[0]) < 200_000  # kB


def test_breaking_off_leaves_nothing_behind(folder, split):
    loader = build_dataloader(split(folder({"a": 40}), workers=2), mode="train", seed=0)
    started = time.perf_counter()
    pids = set()
    for _ in range(3):
        for number, _ in enumerate(loader):
            if number == 2:
                pids |= set(_pids(loader))
                opened = [
                    link.readlink() for pid in _pids(loader) for link in Path(f"/proc/{pid}/fd").glob("*")
                ]
                break
    assert len(pids) == 6 and time.perf_counter() - started < 20
    assert all(_gone(pid) for pid in pids)
    assert opened and not any("/dev/shm" in str(path) for path in opened)
    assert [len(batch["label"]) for batch in loader] == [4] * 10


def test_workers_stay_for_the_next_epoch(folder, split):
    loader = build_dataloader(split(folder({"a": 40}), workers=2), mode="train", seed=0)
    expected = [len(batch["label"]) for batch in loader]
    pids = _pids(loader)
    assert [len(batch["label"]) for batch in loader] == expected and _pids(loader) == pids
    os.kill(pids[0], signal.SIGKILL)  # between epochs: others come in its place
    assert _gone(pids[0])
    assert [len(batch["label"]) for batch in loader] == expected
    assert not set(_pids(loader)) & set(pids) and all(_gone(pid) for pid in pids)
    pids = _pids(loader)
    del loader
    gc.collect()
    assert all(_gone(pid) for pid in pids)


def test_a_dataset_changed_between_epochs_is_read_as_it_is_now(folder, split):
    loader = build_dataloader(split(folder({"a": 8, "b": 8}), workers=1), mode="train", seed=0)
    before = {int(i): int(c) for batch in loader for i, c in zip(batch["index"], batch["label"], strict=True)}
    pids = _pids(loader)
    loader.dataset.labels[3] = 1
    after = {int(i): int(c) for batch in loader for i, c in zip(batch["index"], batch["label"], strict=True)}
    assert {i for i in before if before[i] != after[i]} == {3} and not set(_pids(loader)) & set(pids)
    assert all(_gone(pid) for pid in pids)


def test_breaking_off_again_and_again_loses_nothing(folder, split):
    loader = build_dataloader(split(folder({"a": 60}), workers=2, batch_size=4), mode="train", seed=0)
    seen = []
    for _ in range(6):
        for number, _ in enumerate(loader):
            if number == 3:
                break
        del _
        gc.collect()
        seen.append((len(loader.pool.ring.free), len(os.listdir("/proc/self/fd"))))
    assert seen[1:] == [(6, seen[0][1])] * 5


def test_passes_inside_of_each_other(folder, split):
    loader = build_dataloader(split(folder({"a": 16}), workers=1), mode="val", seed=0)
    seen = [int(i) for outer in loader for inner in loader for i in inner["index"]]
    assert seen == [*range(16)] * 4


def test_signals_to_a_whole_job_leave_workers_reading(folder, split):
    loader = build_dataloader(split(folder({"a": 40}), workers=1), mode="train", seed=0)
    seen = 0
    for batch in loader:
        (pid,) = _pids(loader)
        assert os.getpgid(pid) != os.getpgid(0)
        os.kill(pid, signal.SIGTERM)
        seen += len(batch["label"])
    assert seen == 40


def test_a_killed_worker_is_named_with_what_it_read(folder, split):
    loader = build_dataloader(split(folder({"a": 400}), workers=1), mode="train", seed=0)
    with pytest.raises(WorkerError, match=r"a data worker process died: worker 0 \(pid \d+\) "):
        for _ in loader:
            for pid in _pids(loader):
                os.kill(pid, signal.SIGKILL)
    assert sum(len(batch["label"]) for batch in loader) == 400  # with others in its place


def test_a_killed_server_of_workers_is_named(folder, split):
    """As the system may choose it for want of memory; its workers end with it."""
    loader = build_dataloader(split(folder({"a": 400}), workers=2), mode="train", seed=0)
    began = time.monotonic()
    with pytest.raises(
        WorkerError, match=r"worker [01] \(pid \d+\) ended with the server of all workers, which"
    ):
        for number, _ in enumerate(loader):
            if number == 1:
                os.kill(_parent(_pids(loader)[0]), signal.SIGKILL)
    assert time.monotonic() - began < 20
    assert all(_gone(pid) for pid in _pids(loader))
    assert sum(len(batch["label"]) for batch in loader) == 400  # there is another server


@pytest.fixture
def silent(folder, split):
    """A loader over 16 images of which the one in the second place of `b` never answers; its path."""
    paths = []

    def make(workers: int, **more):
        root = folder({"a": 8, "b": 8}, name=f"set{workers}")
        config = split(root, workers=workers, shuffle=False)
        config["loader"].update(more)
        dataset = build_dataset(config["dataset"])
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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_never_answers(silent, workers):
    loader, path = silent(workers, timeout=1)
    who = r"worker [01] \(pid \d+\)" if workers else "the thread that reads images"
    began = time.monotonic()
    with pytest.raises(
        WorkerError, match=rf"no batch came for 1 s: {who} had been reading image 9 \({path}\) for"
    ):
        list(loader)
    assert time.monotonic() - began < 12
    assert not workers or all(_gone(pid) for pid in loader.pool.pids.values())


def test_leaving_while_a_worker_hangs(silent):
    """What ends the loop is another matter, such as a signal; the worker must not hold it back."""
    loader, _ = silent(1, timeout=None)
    for _ in loader:  # one of four; by now the worker has been told of the third
        until = time.monotonic() + 10
        while loader.pool.ring.whereabouts(0)[0] != 9:
            assert time.monotonic() < until
            time.sleep(0.01)
        began = time.monotonic()
        break
    assert time.monotonic() - began < 5
    assert all(_gone(pid) for pid in loader.pool.pids.values())


def test_the_check_before_a_run_does_not_wait_either(silent):
    loader, path = silent(0)
    with pytest.raises(WorkerError, match=rf"image 9 \({path}\) was not read within 0.5 s"):
        check_data(loader.dataset, None, 2, timeout=0.5)


def test_a_worker_that_dies_while_the_main_process_is_busy(folder, split):
    """No error where the main thread happens to be; the next batch that is asked for tells."""
    loader = build_dataloader(split(folder({"a": 100}), workers=2), mode="train", seed=0)
    batches = iter(loader)
    next(batches)
    first = min(loader.pool.pids.values())
    os.kill(first, signal.SIGSEGV)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        sum(range(1000))
    with pytest.raises(WorkerError, match=rf"worker [01] \(pid {first}\) was ended by SIGSEGV; it "):
        list(batches)


def test_a_suspended_job_has_not_waited(folder, split):
    """As by a scheduler that gives the machine to another job for a while."""
    config = split(folder({"a": 60}), workers=1)
    config["loader"]["timeout"] = 3
    code = (
        "import os, subprocess, time\nfrom passl_sot.data import build_dataloader\n"
        f"loader = build_dataloader({config!r}, mode='train', seed=0)\n"
        "for number, _ in enumerate(loader, 1):\n"
        "    if number == 2:\n"
        "        (worker,), own = loader.pool.pids.values(), os.getpid()\n"
        "        stop = f'kill -STOP {worker}; sleep 0.5; kill -STOP {own}; sleep 4.5; '\n"
        "        subprocess.Popen(['sh', '-c', f'{stop} kill -CONT {own}; sleep 0.2; kill -CONT {worker}'])\n"
        "        time.sleep(0.2)\n"
        "print(number)\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "15\n", done.stderr
    assert time.monotonic() - began > 5


def test_a_server_that_is_gone_is_started_anew(folder, split):
    loader = build_dataloader(split(folder({"a": 8}), workers=1), mode="train", seed=0)
    assert len(list(loader)) == 2
    server = nursery.nursery()
    os.kill(server._process.pid, signal.SIGKILL)
    server._process.wait()
    assert len(list(loader)) == 2


def test_the_end_of_a_stranger_is_not_waited_for_without_end():
    server = nursery.Nursery()
    began = time.monotonic()
    assert server.how_it_ended(1) == "left with status 0"  # not known: no worker of this server
    assert time.monotonic() - began < 20
    server._control.close()
    assert server._process.wait(10) == 0


def test_a_server_that_does_not_start(folder, split, monkeypatch):
    monkeypatch.setattr(nursery, "_BOOT", "raise SystemExit(3)")
    nursery._nursery.cache_clear()
    loader = build_dataloader(split(folder({"a": 8}), workers=2), mode="train", seed=0)
    with pytest.raises(WorkerError, match=r"can't be started, see above|never began, see above"):
        list(loader)
    monkeypatch.undo()
    nursery._nursery.cache_clear()


FAULTY = """
import sys, time
sys.path.insert(0, sys.argv[2])
from passl_sot.data import build_dataloader
import theirs

def main():
    transforms = [{"name": "Theirs"}, {"name": "Normalize"}]
    dataset = {"name": "ImageFolder", "dataroot": sys.argv[1], "transforms": transforms}
    section = {"loader": {"num_workers": 2, "timeout": 2}, "sampler": {"batch_size": 2}, "dataset": dataset}
    began = time.monotonic()
    try:
        list(build_dataloader(section, mode="train", seed=0))
    except Exception as error:
        print(type(error).__name__, error, time.monotonic() - began < 25)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(
    ("accident", "said"),
    [
        ("raise RuntimeError('why')", "DataError a data worker failed:"),
        ("time.sleep(60)", "WorkerError no batch"),
    ],
)
def test_workers_that_never_begin(folder, tmp_path, accident, said):
    """A module of the user's that fails, or hangs, where a worker imports it."""
    (tmp_path / "theirs.py").write_text(
        "import os, time\nfrom passl_sot.data import TRANSFORMS\n\n@TRANSFORMS.register()\nclass Theirs:\n"
        "    def __call__(self, image, rng):\n        return image\n\n"
        f"seen = {str(tmp_path / 'seen')!r}\nif not os.path.exists(seen):\n    open(seen, 'w').close()\n"
        f"else:\n    {accident}\n"
    )
    (tmp_path / "main.py").write_text(FAULTY)
    command = [sys.executable, str(tmp_path / "main.py"), folder({"a": 8}), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=55)
    assert done.stdout.startswith(said) and done.stdout.endswith("True\n"), done.stdout + done.stderr
    if "why" in accident:
        assert "RuntimeError: why" in done.stdout


SCRIPT = """
import sys, time
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
        print("batch", *loader.pool.pids.values(), flush=True)
        if sys.argv[3:]:
            time.sleep(60)

if __name__ == "__main__" or sys.argv[2] == "unguarded":
    main()
"""


def test_transforms_of_a_script(folder, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), folder({"a": 6}), "guarded"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and done.stdout.count("batch") == 3, done.stderr
    done = subprocess.run(
        [*command[:3], "unguarded"], capture_output=True, text=True, env=environment, check=False
    )
    assert 'below `if __name__ == "__main__":`' in done.stderr
    # Without a file there is nothing that workers could import.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command[2:]],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert "data workers can't see what is defined in a notebook or on a command line: move it" in done.stderr


def test_a_killed_run_leaves_no_worker(folder, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), folder({"a": 6}), "guarded", "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        worker = int(process.stdout.readline().split()[1])
        server = _parent(worker)
        process.kill()
    assert _gone(worker) and _gone(server)


def test_what_can_not_be_sent_is_named(folder, split):
    loader = build_dataloader(split(folder({"a": 8}), workers=1), mode="train", seed=0)
    loader.dataset.transforms.transforms[0] = lambda image, rng: image
    with pytest.raises(DataError, match=r"can't be given a part of the dataset \(.*lambda.*\): move it"):
        list(loader)
