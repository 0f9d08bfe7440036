"""Where the time of an input pipeline goes, beside the limits of this machine and other pipelines.

All figures are CPU time of one core, medians over rounds; stages and other programs take turns.
"""

import functools
import itertools
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.bench.peers import PEERS
from passl_sot.config import zh
from passl_sot.data import build_dataloader
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.loader.loader import DataLoader, as_tensor
from passl_sot.data.loader.worker import BatchReader
from passl_sot.data.loader.worker_pool import AHEAD
from passl_sot.data.rng import image_rng
from passl_sot.data.transforms.base import BaseTransform, stage_of
from passl_sot.data.transforms.compose import Compose
from passl_sot.engine.schema import Experiment
from passl_sot.utils.peer import Peer, PeerError

_TRANSFER = "batch: to Paddle"
_LIMIT = "limit: whole decode alone"
_COPIED = 64 << 20  # bytes, more than caches hold


def measure_data(
    experiment: Experiment,
    *,
    batch: int,
    repeats: int,
    compare: str | None = None,
    peer_python: str = sys.executable,
) -> dict[str, float]:
    """Times the training pipeline of an experiment stage by stage.

    Args:
        experiment: The experiment; its training set must exist.
        repeats: Rounds, each with other images.
        compare: One of `PEERS`, which prepares the same files with the same settings, or the command of a
            `Peer`.
        peer_python: The interpreter that has that peer installed.

    Returns:
        Microseconds per image by stage ("read", transforms by name, "batch: ..."); their sum; images per
        second of one core, of the loader as it is set up, of the limits of this machine, and of the peer.

    Raises:
        PeerError: The other program failed.
        DataError: The data are not as they should be.
    """
    loader = build_dataloader(experiment.dataloader.train, mode="train", seed=experiment.seed)
    dataset = loader.dataset
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    chosen = [[order[(r * batch + i) % len(order)] for i in range(batch)] for r in range(repeats + 1)]
    stages = _stages(dataset)
    times: dict[str, list[float]] = {}
    section = experiment.dataloader.train.dataset
    with _peer(compare, peer_python, dataset, section, chosen) if compare else nullcontext() as peer:
        for number, indices in enumerate(chosen):
            found = {name: _seconds(run, indices) for name, run in stages.items()}
            if peer:
                found["peer"] = peer.run()
            if number == 0:
                continue  # which warmed up
            for name, seconds in found.items():
                times.setdefault(name, []).append(seconds / batch)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return _report(medians, loader, batch * repeats)


def _report(medians: dict[str, float], loader: DataLoader, images: int) -> dict[str, float]:
    result = {}
    before = 0.0
    for name, seconds in medians.items():
        if name not in (_LIMIT, _TRANSFER, "peer"):  # each stage runs all before it too
            result[f"{name} (us/image)"] = 1e6 * (seconds - before)
            before = seconds
    result[f"{_TRANSFER} (us/image)"] = 1e6 * medians[_TRANSFER]
    before += medians[_TRANSFER]
    result["all stages (us/image)"] = 1e6 * before
    result["one core (images/s)"] = 1 / before
    result[f"loader, {loader.num_workers} workers (images/s)"] = _loader_speed(loader, images)
    if _LIMIT in medians:
        result[f"{_LIMIT} (images/s)"] = 1 / medians[_LIMIT]
    result["limit: memory copy (GB/s)"] = _copy_speed()
    if "peer" in medians:
        result["peer (images/s)"] = 1 / medians["peer"]
        result["ratio to peer"] = medians["peer"] / before
    return result


def _stages(dataset: LabelledImages) -> dict[str, Callable[[Sequence[int]], object]]:
    """By name, functions that run the pipeline up to a stage; `_TRANSFER` and `_LIMIT` run by themselves."""
    transforms = dataset.transforms.transforms
    names = [type(transform).__name__ for transform in transforms]
    later = [type(transform).__name__ for transform in getattr(dataset.batch_stage, "transforms", ())]
    make, transfer = batch_makers(dataset)
    if dataset.samples([(0, 0)], np.empty) is not None:  # pixels of one size, read and changed all at once
        return {f"batch: {', '.join(['read', *names, *later])}": make, _TRANSFER: transfer}
    stages: dict[str, Callable] = {"read": lambda indices: [dataset.stored(i) for i in indices]}
    # Geometry is made as far as the next transform asks for it, and can't be told apart from decoding.
    lazy = [isinstance(t, BaseTransform) and stage_of(t) == "pixels" for t in transforms]
    first = [*lazy, False].index(False)
    for end in range(first, len(transforms) + 1):
        name = names[end - 1]
        if end == first:
            name = ", ".join(["decode", *names[:first]])
        while name in stages:
            name += "'"
        stages[name] = _prefix(dataset, Compose(transforms[:end], channels=dataset.channels))
    stages |= {f"batch: {', '.join(['stack', *later])}": make, _TRANSFER: transfer}
    stages[_LIMIT] = lambda indices: [dataset.read(i) for i in indices]
    return stages


def batch_makers(dataset: LabelledImages) -> tuple[Callable, Callable]:
    """Makes a batch of indices as workers do, always in the same memory; brings the last one to Paddle."""
    reader = BatchReader(dataset, replace=True)
    empty = functools.cache(np.empty)
    batch: dict[str, Any] = {}

    def make(indices: Sequence[int]) -> None:
        batch.update(reader([(0, i) for i in indices], empty))
        if "error" in batch:
            raise batch["error"]

    return make, lambda indices: as_tensor(batch["image"])


def _prefix(dataset: LabelledImages, compose: Compose) -> Callable[[Sequence[int]], object]:
    """Runs the first transforms of images; normalized ones are written to memory that is there."""
    out = None
    if compose.normalizes and compose.output_hw:
        out = np.empty((dataset.channels, *compose.output_hw), np.float32)

    def prepare(indices: Sequence[int]) -> None:
        for i in indices:
            compose(dataset.open(i), image_rng(dataset.seed, (0, i)), 0, out)

    return prepare


def _seconds(run: Callable, *arguments: object) -> float:
    """CPU time, which other processes of a shared machine change less than the clock's."""
    began = time.process_time()
    run(*arguments)
    return time.process_time() - began


def _loader_speed(loader: DataLoader, images: int) -> float:
    ahead = AHEAD * max(1, loader.num_workers) + 1
    wanted = max(images, 2 * ahead * loader.sampler.batch_size)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    # Batches that were read ahead while the first was waited for don't count.
    for _ in range(ahead):
        next(batches)
    began = time.perf_counter()
    seen = 0
    while seen < wanted:
        seen += len(next(batches)["index"])
    return seen / (time.perf_counter() - began)


def _copy_speed() -> float:
    source = np.ones(_COPIED, np.uint8)
    target = np.zeros(_COPIED, np.uint8)
    seconds = [_seconds(np.copyto, target, source) for _ in range(5)]
    return 2 * _COPIED / statistics.median(seconds) / 1e9


@contextmanager
def _peer(
    compare: str, python: str, dataset: LabelledImages, section: dict, chosen: list[list[int]]
) -> Iterator[Peer]:
    """The other program over the same files in the same order, with a section's transforms."""
    if compare not in PEERS:
        with Peer(compare) as peer:
            yield peer
        return
    if not Path(dataset.path(0)).is_file():
        raise PeerError(
            f"--compare {compare} reads files, and {dataset.root} is a packed copy: name the folder it was "
            "made of in dataloader.train.dataset" + zh("peer_plain_files")
        )
    paths = [dataset.path(i) for indices in chosen for i in indices]
    job = peer_job(dataset.output_hw or (224, 224), section, paths, len(chosen[0]))
    with open_peer(compare, python, [job]) as peer:
        yield peer


def peer_job(side: Sequence[int], section: dict, paths: list[str], batch: int) -> dict[str, Any]:
    """A job of `peers.py`: files to prepare by a dataset's section of a config, for so many pixels [H, W]."""
    steps = {key: section.get(key) for key in ("transforms", "batch_transforms")}
    return {"paths": paths, "batch": batch, "side": list(side), **steps}


@contextmanager
def open_peer(name: str, python: str, jobs: list[dict[str, Any]]) -> Iterator[Peer]:
    """One of `PEERS`, run by an interpreter that has it, with the jobs that its tasks number."""
    script = Path(__file__).with_name("peers.py")
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(jobs, file)
        file.flush()
        # Other interpreters know nothing of this package, so the Chinese line is handed over.
        with Peer(shlex.join([python, str(script), name, file.name, zh("peer_missing")])) as peer:
            yield peer
