"""Packing a dataset: every image read once, stored as its recipe says, in a file per shard and an index.

A run that is killed loses the shards that were being written; the next one goes on with those that are
missing, or whose files have changed since. The index is written last of all. The same files and the same
recipe give the same bytes, on any number of processes.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.identity import differences, keep, read_digest, told
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.errors import DataError, stop_at
from passl_sot.data.packed.format import INDEX, PLAN, VERSION, Packed, read_plan, write_index, write_plan
from passl_sot.data.packed.origins import find_changed, status_of
from passl_sot.data.packed.record import Recipe
from passl_sot.data.packed.shard import Job, Sample, finished_shard, spread, work
from passl_sot.imageio.errors import ImageError
from passl_sot.utils.logger import progress_bar

_TRIED = 64  # files that are opened before any work
_HEAD = 16  # bytes of each
_SHOWN = 10
# Of copies without `origins`.
_EARLIER = (
    "an earlier version packed them and noted nothing of the files, so whether these changed isn't known"
)
# What an unfinished copy has, and what a run that is killed leaves of the files that it was writing.
_UNFINISHED = ("shard-*.note", PLAN)
_INTERRUPTED = (".shard-*.tmp", f".{PLAN}.*.tmp", f".{INDEX}.*.tmp")
# Errors of a disk without room.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_job(source: LabelledImages, folder: str, recipe: Recipe) -> Job:
    """The job of packing `source` into `folder`, for `pack`; an ImageError where a file can't be opened."""
    facts = [VERSION, asdict(recipe), source.class_names, source.named]
    digest = hashlib.sha256(json.dumps(facts).encode("ascii"))
    for array in (*source.paths.parts(), source.labels, source.multi_hot):
        if array is not None:
            digest.update(np.ascontiguousarray(array).tobytes())
    for index in spread(len(source), _TRIED):
        if status_of(source.extent(index)):
            read_digest(source.extent(index), _HEAD)
    return Job(source=source, folder=folder, recipe=recipe, fingerprint=digest.hexdigest())


def pack(
    job: Job, *, processes: int, command: str, say: Callable[[str], None], progress: bool = False
) -> None:
    """Packs a dataset, or what an earlier run left of it.

    Args:
        command: The command line that goes on with an interrupted run, for messages.
        say: Called with size and time before the work, and with the result.

    Raises:
        DataError: The folder holds something else, or the disk is or will be full.
        ImageError: A file can't be opened.
    """
    os.makedirs(job.folder, exist_ok=True)
    with _alone(job.folder):
        _remove(job, _INTERRUPTED)
        if _complete(job, say, progress):
            _remove(job, _UNFINISHED)  # of a run that was killed between the index and their removal
            return
        _claim(job, command)
        finished = _finished_shards(job, say, progress)
        missing = [number for number in range(job.shards) if number not in finished]
        shares = [missing[first::processes] for first in range(min(processes, len(missing)))]
        there = len(job.source) - sum(len(job.images(number)) for number in missing)
        try:
            with progress_bar(total=len(job.source), initial=there, unit="img", shown=progress) as bar:
                if shares:
                    work(job, shares, lambda samples: _announce(job, shares, samples, say), bar.update)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            # The system's own words don't say that finished shards stay.
            raise DataError(
                f"{job.folder}: {os.strerror(error.errno)}; {_size(shutil.disk_usage(job.folder).free)} are "
                "free. Finished shards are kept: make room, and run the same command again" + zh("disk_full")
            ) from error
        _finish(job, say)


def verify(folder: str, *, progress: bool = False) -> int:
    """Compares every image of a packed copy with its checksum; returns their number.

    Raises:
        DataError: Some differ (the first ten are named), or there is no whole copy.
    """
    packed = Packed(folder)
    faults = []
    with progress_bar(range(len(packed)), unit="img", shown=progress) as bar:
        for index in bar:
            try:
                packed.check(index)
            except ImageError as error:
                faults.append(str(error))
    stop_at(faults, f"images of {folder}")
    return len(packed)


def compare(source: LabelledImages, folder: str, *, progress: bool = False) -> str:
    """Compares a source, every file whole, with what was noted of it when it was packed; says so in a line.

    Raises:
        DataError: They differ (the first are named), or there is no whole copy.
        ImageError: A file of the source can't be read.
    """
    packed = Packed(folder)
    changes = _changes(source, packed, whole=True, progress=progress)
    if changes:
        raise DataError(
            f"{folder} isn't a copy of what {source.root} holds now: {'; '.join(changes)}"
            + zh("packed_source_changed")
        )
    if packed.origins is None:
        return f"{folder}: {_EARLIER}"
    return f"{folder}: all files in {source.root} are those that were packed"


def _changes(source: LabelledImages, packed: Packed, *, whole: bool, progress: bool) -> list[str]:
    """What tells a source from that of a packed copy, in words."""
    before = keep(packed.names, packed.labels, packed.multi_hot)
    lines = differences(source.noun, before, keep(source.paths, source.labels, source.multi_hot))
    if (source.class_names, source.named) != (packed.class_names, packed.named):
        lines.append("classes have other names")
    if lines or packed.origins is None:
        return lines
    found = find_changed(source, range(len(source)), packed.origins, whole=whole, progress=progress)
    return told(source.noun, "changed", [source.paths[index] for index in found])


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    # Two runs would write the same shards; the lock goes with the process, however it ends.
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


def _complete(job: Job, say: Callable[[str], None], progress: bool) -> bool:
    # Whether the folder holds the whole result; that of something else is an error, not overwritten.
    if not os.path.isfile(os.path.join(job.folder, INDEX)):
        return False
    packed = Packed(job.folder)
    recipe = Recipe(**{key: packed.header[key] for key in asdict(job.recipe)})
    changes = []
    if recipe == job.recipe:
        changes = _changes(job.source, packed, whole=False, progress=progress)
    if recipe != job.recipe or changes:
        what = "; ".join([*changes, "choose another folder, or remove it"])
        raise DataError(
            f"{job.folder} holds a packed copy of other data, or with other settings ({recipe.words()}): "
            + what
            + zh("other_packed_data")
        )
    note = ""
    if packed.origins is None:
        note = f"; {_EARLIER}"
    say(f"{job.folder}: {len(job.source):,} images are packed already{note}" + zh("packed_already"))
    return True


def _finished_shards(job: Job, say: Callable[[str], None], progress: bool) -> set[int]:
    # Of those that an earlier run left, the ones whose files are as they were; the others are removed.
    notes = {number: note for number in range(job.shards) if (note := finished_shard(job, number))}
    if not notes:
        return set()
    images = [index for number in notes for index in job.images(number)]
    noted = np.concatenate([arrays["origins"] for _, arrays in notes.values()])
    changed = find_changed(job.source, images, noted, progress=progress)
    again = {index // job.per_shard for index in changed}
    if again:
        (line,) = told(job.source.noun, "changed since", [job.source.paths[index] for index in changed])
        say(f"{line}: {len(again)} of {len(notes)} finished shards are packed again")
    for number in again:
        for ending in ("note", "bin"):
            os.unlink(job.file(number, ending))
    return notes.keys() - again


def _claim(job: Job, command: str) -> None:
    # Writes the plan, by which a later run goes on. Nothing of the user's is overwritten.
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
    others = sorted(os.listdir(job.folder))
    if others:
        raise DataError(
            f"{job.folder} holds other files, such as {others[0]}: choose a new folder"
            + zh("folder_not_empty")
        )
    write_plan(path, {"fingerprint": job.fingerprint, "command": command})


def _announce(job: Job, shares: list[list[int]], samples: list[Sample], say: Callable[[str], None]) -> None:
    """Says how large the result will be and how long it will take."""
    images = [sum(len(job.images(number)) for number in share) for share in shares]
    left = sum(images)
    count = len(job.source)
    mean = statistics.fmean(size for sample in samples for size in sample.sizes)
    # Before hours of work, not after them.
    room = shutil.disk_usage(job.folder).free
    if mean * left > room:
        raise DataError(
            f"{job.folder}: {left:,} images take about {_size(mean * left)}, and {_size(room)} are free: "
            "make room, or choose another place" + zh("disk_too_small")
        )
    there = ""
    if count > left:
        there = f", of which {count - left:,} images are there already"
    say(
        f"packing {count:,} images into {job.folder} ({job.recipe.words()}): about "
        f"{_size(mean * count)} in {job.shards} file(s){there}"
    )
    # The process with the most images ends last.
    seconds = statistics.fmean(sample.seconds for sample in samples) * max(images)
    say(f"about {_duration(seconds)} with {len(shares)} process(es); it may be interrupted any time")


def _finish(job: Job, say: Callable[[str], None]) -> None:
    # Last of all the index, which makes the folder a packed copy.
    notes = []
    for number in range(job.shards):
        note = finished_shard(job, number)
        if note is None:  # without it, the images behind it would get the labels of others
            raise DataError(
                f"{job.file(number)} was written and has gone or changed since: leave {job.folder} alone, "
                "and run the same command again" + zh("shard_changed")
            )
        notes.append(note)
    faults = [fault for header, _ in notes for fault in header["faults"]]
    sizes = [header["bytes"] for header, _ in notes]
    source = job.source
    arrays = {name: np.concatenate([note[name] for _, note in notes]) for name in notes[0][1]}
    arrays["labels"] = source.labels
    arrays["name_ends"], arrays["names"] = source.paths.parts()
    arrays["shard_firsts"] = np.arange(job.shards, dtype=np.int64) * job.per_shard
    arrays["shard_sizes"] = np.array(sizes, np.int64)
    if source.multi_hot is not None:
        arrays["multi_hot"] = source.multi_hot
    header = {
        **asdict(job.recipe),
        "images": len(source),
        "class_names": source.class_names,
        "named": source.named,
        "fingerprint": job.fingerprint,
    }
    write_index(os.path.join(job.folder, INDEX), header, arrays)
    _remove(job, _UNFINISHED)
    say(
        f"{job.folder}: {len(source):,} images, {_size(sum(sizes))}, all checksums right" + zh("packing_done")
    )
    if faults:
        shown = "\n".join(faults[:_SHOWN])
        say(f"{len(faults)} files can't be read as images, and are kept as they are:\n{shown}")


def _remove(job: Job, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in Path(job.folder).glob(pattern):
            path.unlink()


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
