"""Packing a dataset: every image read once, stored as its recipe says, in a file per shard and an index.

A run that is killed loses the shards that were being written; the next one goes on with those that are
missing. The index is written last of all. The same data and the same recipe give the same bytes, on any
number of processes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from passl_sot.config.chinese import zh
from passl_sot.data.errors import DataError, stop_at
from passl_sot.data.packed.format import (
    INDEX,
    PLAN,
    VERSION,
    Packed,
    read_index,
    read_plan,
    write_index,
    write_plan,
)
from passl_sot.data.packed.record import Recipe, pack_image
from passl_sot.data.packed.shard import Job, finished_shard, remove_notes, write_shard
from passl_sot.data.packed.sources import Source
from passl_sot.data.packed.webdataset import CLASS_NAMES
from passl_sot.imageio.errors import ImageError
from passl_sot.launch.supervisor import end_with_parent

__all__ = ["make_job", "pack", "verify"]

_SAMPLE = 32  # images in each process
_UNUSUAL = 5  # times the median
_SHOWN = 10
# What is left of the plan of a folder of tar files, which has no index.
_DONE = ".packed.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_job(source: Source, folder: str, recipe: Recipe, ending: Literal["bin", "tar"] = "bin") -> Job:
    """What `pack` needs to know.

    Args:
        source: The images.
        folder: Where to.
        recipe: How images are stored.
        ending: "bin", or "tar" for files that WebDataset reads; of images as files.
    """
    facts = [VERSION, recipe.as_dict(), ending, source.class_names, source.named]
    digest = hashlib.sha256(json.dumps(facts).encode("ascii"))
    several = [] if source.multi_hot is None else [source.multi_hot]
    for array in [*source.names.parts(), source.labels, *several]:
        digest.update(np.ascontiguousarray(array).tobytes())
    return Job(source=source, folder=folder, recipe=recipe, ending=ending, fingerprint=digest.hexdigest())


def pack(
    job: Job, *, processes: int, command: str, say: Callable[[str], None], progress: bool = False
) -> bool:
    """Packs a dataset, or what an earlier run left of it.

    Args:
        job: What is packed.
        processes: How many work at a time.
        command: What the user would enter again.
        say: Is told size and time before the work, and the result.
        progress: Draw a progress bar.

    Returns:
        Whether there was anything to do.

    Raises:
        DataError: The folder holds something else, the disk is or will be full, or a file can't be opened.
    """
    os.makedirs(job.folder, exist_ok=True)
    with _alone(job.folder):
        if _complete(job):
            _clean_up(job)
            say(f"{job.folder}: {len(job.source):,} images are packed already" + zh("packed_already"))
            return False
        _claim(job, command)
        missing = [number for number in range(job.shards) if finished_shard(job, number) is None]
        shares = [missing[first::processes] for first in range(min(processes, len(missing)))]
        with contextlib.ExitStack() as stack, _explained(job.folder):

            def begin(samples: list[_Sample]) -> Callable[[int], Any]:
                left = _announce(job, shares, samples, say)
                return stack.enter_context(_progress(len(job.source), len(job.source) - left, progress))

            _work(job, shares, begin)
        _finish(job, say)
    return True


def verify(folder: str, *, progress: bool = False) -> int:
    """Compares every image of a packed copy with its checksum.

    Returns:
        How many there are.

    Raises:
        DataError: Some differ (the first ten are named), or there is no whole copy.
    """
    packed = Packed(folder)
    faults = []
    with _progress(len(packed), 0, progress) as tell:
        for index in range(len(packed)):
            try:
                packed.check(index)
            except (DataError, ImageError) as error:
                faults.append(str(error))
            tell(1)
    stop_at(faults, f"images of {folder}")
    return len(packed)


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keeps a second run out of the folder."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is packing into {folder}" + zh("folder_being_packed")) from None
        except OSError:  # no locks on this file system
            pass
        yield
    finally:
        os.close(lock)


def _complete(job: Job) -> bool:
    """Whether the folder holds the whole result.

    Raises:
        DataError: It holds the whole result of something else.
    """
    index, done = os.path.join(job.folder, INDEX), os.path.join(job.folder, _DONE)
    if os.path.isfile(index):
        found = recipe = read_index(index)[0]
    elif os.path.isfile(done):
        found = read_plan(done)
        recipe = found["recipe"]
    else:
        return False
    if found["fingerprint"] == job.fingerprint:
        return True
    words = Recipe(**{key: recipe[key] for key in job.recipe.as_dict()}).words()
    raise DataError(
        f"{job.folder} holds a packed copy of other data, or with other settings ({words}): choose another "
        "folder, or remove it" + zh("other_packed_data")
    )


def _claim(job: Job, command: str) -> None:
    """Writes down what the folder is for.

    Raises:
        DataError: It holds other files, or an unfinished copy of something else.
    """
    path = os.path.join(job.folder, PLAN)
    if os.path.isfile(path):
        plan = read_plan(path)
        if plan["fingerprint"] != job.fingerprint:
            raise DataError(
                f"{job.folder} holds an unfinished packed copy of other data, or with other settings, begun "
                f"by: {plan['command']}\nRun that again, or remove the folder"
                + zh("other_unfinished_packing")
            )
        return
    others = sorted(name for name in os.listdir(job.folder) if name != f"{PLAN}.part")
    if others:
        raise DataError(
            f"{job.folder} holds other files, such as {others[0]}: choose a new folder"
            + zh("folder_not_empty")
        )
    plan = {
        "fingerprint": job.fingerprint,
        "command": command,
        "recipe": job.recipe.as_dict(),
        "images": len(job.source),
    }
    write_plan(path, plan)


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """What some of the images say of all.

    Attributes:
        sizes: Bytes of each as it is stored.
        seconds: What one takes on average.
    """

    sizes: list[int]
    seconds: float


def _measure(job: Job, part: int, parts: int) -> _Sample:
    """Packs a sample of the images into a file without a name, as one of so many processes at a time."""
    source = job.source
    count = min(_SAMPLE * parts, len(source))
    chosen = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()[part::parts]
    with tempfile.TemporaryFile(dir=job.folder) as file:

        def store(index: int) -> tuple[int, float]:
            began = time.perf_counter()
            data = pack_image(source.read(index), source.path(index), job.recipe).data
            file.write(data)
            return len(data), time.perf_counter() - began

        sizes, times = (list(values) for values in zip(*map(store, chosen), strict=True))
        for i, seconds in enumerate(times):
            # Most likely something was compiled, which doesn't happen again.
            if seconds > _UNUSUAL * statistics.median(times):
                times[i] = min(seconds, store(chosen[i])[1])
        began = time.perf_counter()
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - began
    if job.ending == "tar":  # two headers, and both members filled up to whole blocks
        sizes = [1792 + size for size in sizes]
    return _Sample(sizes=sizes, seconds=(sum(times) + written) / len(times))


def _announce(job: Job, shares: list[list[int]], samples: list[_Sample], say: Callable[[str], None]) -> int:
    """Says how large the result will be and how long it will take, by what each process has measured.

    Returns:
        How many images are left to pack.

    Raises:
        DataError: There isn't room for them.
    """
    images = [sum(len(job.images(number)) for number in share) for share in shares]
    left, count = sum(images), len(job.source)
    mean = statistics.fmean(size for sample in samples for size in sample.sizes)
    room = shutil.disk_usage(job.folder).free
    if mean * left > room:
        raise DataError(
            f"{job.folder}: {left:,} images take about {_size(mean * left)}, and {_size(room)} are free: "
            "make room, or choose another place" + zh("disk_too_small")
        )
    say(
        f"packing {count:,} images into {job.folder} ({job.recipe.words()}): about "
        f"{_size(mean * count)} in {job.shards} file(s)"
        + (f", of which {count - left:,} images are there already" if count > left else "")
    )
    seconds = statistics.fmean(sample.seconds for sample in samples) * max(images)
    say(f"about {_duration(seconds)} with {len(shares)} process(es); it may be interrupted any time")
    return left


@contextlib.contextmanager
def _progress(total: int, done: int, draw: bool) -> Iterator[Callable[[int], Any]]:
    if not draw:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=done, unit="img", smoothing=0.05) as bar:
        yield bar.update


@contextlib.contextmanager
def _explained(folder: str) -> Iterator[None]:
    """Makes one message of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DataError(
            f"{folder}: {os.strerror(error.errno)}; {_size(shutil.disk_usage(folder).free)} are free. "
            "Finished shards are kept: make room, and run the same command again" + zh("disk_full")
        ) from error


def _work(job: Job, shares: list[list[int]], begin: Callable[[list[_Sample]], Callable[[int], Any]]) -> None:
    """Writes shards in this process or in others.

    Args:
        job: What is packed.
        shares: The shards of each process.
        begin: Is told what each has measured before the work, and gives what is told of its progress.
    """
    if len(shares) == 1:
        tell = begin([_measure(job, 0, 1)])
        for number in shares[0]:
            write_shard(job, number, tell)
    if len(shares) < 2:
        return
    # Forked processes would share locks of libraries with the threads of this one.
    context = multiprocessing.get_context("spawn")
    queue, start = context.SimpleQueue(), context.Event()
    workers = [
        context.Process(target=_child, args=(job, shares, part, queue, start, os.getpid()))
        for part in range(len(shares))
    ]
    samples: list[_Sample] = []
    try:
        for worker in workers:
            worker.start()
        working = True
        while working:
            working = any(worker.is_alive() for worker in workers)
            while not queue.empty():
                news = queue.get()
                if isinstance(news, Exception):
                    raise news
                if not isinstance(news, _Sample):
                    tell(news)
                    continue
                samples.append(news)
                if len(samples) == len(workers):
                    tell = begin(samples)
                    start.set()
            for worker in workers:
                if worker.exitcode:
                    raise DataError(
                        f"a packing process has ended (exit code {worker.exitcode}; -9 may be for lack of "
                        "memory): run the same command again, with fewer --processes if it ends again"
                        + zh("packer_died")
                    )
            time.sleep(0.05)
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.kill()
                worker.join()


def _child(job: Job, shares: list[list[int]], part: int, queue: Any, start: Any, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this one
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        return
    try:
        queue.put(_measure(job, part, len(shares)))
        start.wait()
        for number in shares[part]:
            write_shard(job, number, queue.put)
    except (DataError, ImageError, OSError) as error:
        queue.put(error)
    except Exception:
        queue.put(RuntimeError(traceback.format_exc()))


def _finish(job: Job, say: Callable[[str], None]) -> None:
    """Writes the index, and says what there is.

    Raises:
        DataError: A shard isn't as it was written.
    """
    notes = [_note_of(job, number) for number in range(job.shards)]
    faults = [fault for header, _ in notes for fault in header["faults"]]
    sizes = [header["bytes"] for header, _ in notes]
    if job.ending == "tar":
        if job.source.named or job.source.multi_hot is not None:
            lines = [f"{label} {name}\n" for label, name in enumerate(job.source.class_names)]
            with open(os.path.join(job.folder, CLASS_NAMES), "w", encoding="utf-8") as file:
                file.writelines(lines)
        os.replace(os.path.join(job.folder, PLAN), os.path.join(job.folder, _DONE))
    else:
        _write_whole_index(job, [arrays for _, arrays in notes], sizes)
    _clean_up(job)
    say(
        f"{job.folder}: {len(job.source):,} images, {_size(sum(sizes))}, all checksums right"
        + zh("packing_done")
    )
    if faults:
        shown = "\n".join(faults[:_SHOWN])
        say(f"{len(faults)} files can't be read as images, and are kept as they are:\n{shown}")


def _note_of(job: Job, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    note = finished_shard(job, number)
    if note is None:  # without it, the images behind it would get the labels of others
        raise DataError(
            f"{job.file(number)} was written and has gone or changed since: leave {job.folder} alone, and "
            "run the same command again" + zh("shard_changed")
        )
    return note


def _clean_up(job: Job) -> None:
    """Removes what only an unfinished copy needs."""
    remove_notes(job)
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(job.folder, PLAN))


def _write_whole_index(job: Job, notes: list[dict[str, np.ndarray]], sizes: list[int]) -> None:
    source = job.source
    arrays = {name: np.concatenate([note[name] for note in notes]) for name in notes[0]}
    arrays["labels"] = source.labels
    arrays["name_ends"], arrays["names"] = source.names.parts()
    arrays["shard_firsts"] = np.arange(job.shards, dtype=np.int64) * job.per_shard
    arrays["shard_sizes"] = np.array(sizes, np.int64)
    if source.multi_hot is not None:
        arrays["multi_hot"] = source.multi_hot
    header = {
        **job.recipe.as_dict(),
        "images": len(source),
        "class_names": source.class_names,
        "named": source.named,
        "fingerprint": job.fingerprint,
    }
    write_index(os.path.join(job.folder, INDEX), header, arrays)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
