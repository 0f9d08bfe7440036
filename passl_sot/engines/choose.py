"""`auto`: the fastest engine that is right, measured once for each model, machine and precision."""

import functools
import hashlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.engines import process
from passl_sot.engines.base import (
    COMPUTES_IN,
    ENGINES,
    FILES,
    PACKAGES,
    EngineError,
    Precision,
    difference,
    installed,
    missing_files,
)
from passl_sot.launch.cpu_env import read_cpu, usable_threads
from passl_sot.utils.cache import HOME, cache_folder, keep_note, kept_note, locked, versions_of
from passl_sot.utils.files import sha256_of
from passl_sot.utils.logger import get_logger
from passl_sot.utils.peer import Peer, PeerError

# Greatest difference from Paddle's numbers in f32, of their greatest.
TOLERANCES: dict[Precision, float] = {"f32": 1e-4, "bf16": 0.1, "int8": 0.5}
_CHECKED = (1, 3, 3)  # batches; a program can be right by luck once
_ROUNDS = 20
_SECONDS = 4.0  # after which no other round begins
_LEAST_ROUNDS = 3
_NEAR = 1.05  # times the best: which of these is chosen does not depend on chance
# Of the machine's description, what speed depends on.
_CPU = ("model name", "cpu family", "model", "stepping", "flags")


def choose_engine(
    folder: Path,
    *,
    precision: Precision = "f32",
    batches: Sequence[int] = (1, 8),
    threads: int | None = None,
    length: int = process.LENGTH,
) -> str:
    """Chooses the engine by which an exported folder is computed fastest here; a line of the log says why.

    Each engine runs in a process of its own, in turns. What was found is kept below `cache_folder()`, by the
    model, the processor, the number of threads, the precision, the batches and the versions; delete the
    folder `engines` there to have all measured anew.

    Args:
        batches: Numbers of inputs computed together; the sum of the relative times decides.
        length: Tokens of a text, for a model of texts.

    Raises:
        EngineError: No engine can compute it.
    """
    threads = threads or usable_threads()
    names = [name for name in ENGINES if precision in COMPUTES_IN[name] and not missing_files(name, folder)]
    missing = [name for name in names if not installed(name)]
    names = [name for name in names if name not in missing]
    if not names:
        raise EngineError(
            f"{folder} has no files for an engine that is installed and computes in {precision}"
        )
    home = cache_folder() / "engines"
    file = home / f"{_key(folder, names, precision, batches, threads, length)}.json"
    try:
        with locked(home):
            kept = kept_note(file, functools.partial(_fits, names))
            found = kept or _measure(folder, names, precision, batches, threads, length)
            if not kept:
                keep_note(file, found)
    except OSError as error:
        get_logger().warning("%s: set %s to a folder where speeds can be kept", error, HOME)
        found = _measure(folder, names, precision, batches, threads, length)
    found["refused"] |= dict.fromkeys(missing, "not installed")
    _report(found, precision, threads)
    if not found["engine"]:
        raise EngineError(f"no engine computes {folder} in {precision}: {_named(found['refused'])}")
    return found["engine"]


def _key(folder: Path, *settings: Any) -> str:
    """What all that was measured depends on, as a name of a file."""
    total = hashlib.sha256()
    for file in sorted({file for name in ENGINES for file in FILES[name] if (folder / file).is_file()}):
        total.update(sha256_of(folder / file).encode())
    cpu = [line for line in read_cpu().splitlines() if line.partition(":")[0].strip() in _CPU]
    versions = versions_of(("paddlepaddle", "paddlepaddle-gpu", *PACKAGES.values()))
    total.update(json.dumps([cpu, versions, *settings]).encode())
    return total.hexdigest()[:32]


def _fits(names: Sequence[str], found: dict[str, Any]) -> bool:
    """Whether a note is about these engines and whole."""
    return found["engine"] in ("", *names) and isinstance(found["refused"], dict) and bool(_shown(found))


def _measure(
    folder: Path,
    names: Sequence[str],
    precision: Precision,
    batches: Sequence[int],
    threads: int,
    length: int,
) -> dict[str, Any]:
    """The engine chosen, "" where none can be; milliseconds by engine and batch; reasons of those refused."""
    get_logger().info("auto: measuring %s, once for this model and machine", ", ".join(names))
    refused: dict[str, str] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as scratch:
        # Paddle's numbers in f32 are what all are compared with.
        wanted = [(name, precision) for name in names]
        if ("paddle", "f32") not in wanted and not missing_files("paddle", folder):
            wanted.append(("paddle", "f32"))
        peers = _started(stack, folder, wanted, threads, length, refused)
        reference = None
        if ("paddle", "f32") in peers:
            reference = _outputs(peers["paddle", "f32"], Path(scratch, "paddle"))
        right = {}
        for name in names:
            peer = peers.get((name, precision))
            if peer is None:
                continue
            try:
                fault = _fault(_outputs(peer, Path(scratch, name)), reference, TOLERANCES[precision])
            except PeerError as error:
                fault = str(error)
            if fault:
                refused[name] = fault
            else:
                right[name] = peer
        times = _times(right, batches, threads, refused)
    milliseconds = {name: {str(b): 1e3 * s for b, s in found.items()} for name, found in times.items()}
    return {"engine": fastest(times), "milliseconds": milliseconds, "refused": refused}


def _started(
    stack: ExitStack,
    folder: Path,
    wanted: Sequence[tuple[str, Precision]],
    threads: int,
    length: int,
    refused: dict[str, str],
) -> dict[tuple[str, Precision], Peer]:
    """The processes that came up; the others are refused."""

    def start(name: str, precision: Precision) -> Peer | str:
        try:
            return Peer(process.command(folder, name, precision, threads, length))
        except PeerError as error:
            return error.words or str(error)

    with ThreadPoolExecutor(threads) as pool:
        started = dict(zip(wanted, pool.map(lambda pair: start(*pair), wanted), strict=True))
    for (name, _), peer in started.items():
        if isinstance(peer, str):
            refused[name] = peer
        else:
            stack.enter_context(peer)
    return {pair: peer for pair, peer in started.items() if not isinstance(peer, str)}


def _outputs(peer: Peer, stem: Path) -> list[np.ndarray]:
    """The outputs of the batches that are compared."""
    found = []
    for number, batch in enumerate(_CHECKED):
        file = f"{stem}{number}.npy"
        peer.run(f"save {batch} {file}")
        found.append(np.load(file))
    return found


def _fault(outputs: Iterable[np.ndarray], reference: Iterable[np.ndarray] | None, tolerance: float) -> str:
    """What is wrong with outputs; "" where nothing is."""
    outputs = list(outputs)
    if not all(np.isfinite(output).all() for output in outputs):
        return "gives numbers that aren't finite"
    for output, right in zip(outputs, reference or outputs, strict=True):
        if output.shape != right.shape:
            return f"gives an output {list(output.shape)} where Paddle gives {list(right.shape)}"
        differs = difference(output, right)
        if not differs <= tolerance:  # of NaN too
            return f"gives other numbers than Paddle: they differ by {differs:.1e} of the greatest"
    return ""


def _times(
    peers: dict[str, Peer], batches: Sequence[int], threads: int, refused: dict[str, str]
) -> dict[str, dict[int, float]]:
    """The least seconds of each batch, which other programs of the machine disturb least."""
    times: dict[str, dict[int, float]] = {name: {} for name in peers}
    total = 0.0
    for number in range(_ROUNDS):
        if number >= _LEAST_ROUNDS and total > _SECONDS:
            break
        for name in list(times):
            for batch in batches:
                try:
                    seconds = process.spent(peers[name], batch, threads)
                except PeerError as error:
                    refused[name] = str(error)
                    del times[name]
                    break
                total += seconds
                times[name][batch] = min(seconds, times[name].get(batch, seconds))
    return times


def fastest(times: dict[str, dict[int, float]]) -> str:
    """The engine of the least sum of times, each relative to the best of its batch; "" of none.

    Among those within 5 % it is the first in the order of `ENGINES`, so that noise does not decide.
    """
    best: dict[int, float] = {}
    for found in times.values():
        for batch, seconds in found.items():
            best[batch] = min(seconds, best.get(batch, seconds))
    sums = {name: sum(found[batch] / best[batch] for batch in best) for name, found in times.items()}
    near = [name for name in ENGINES if name in sums and sums[name] <= _NEAR * min(sums.values())]
    return (near or [""])[0]


def _report(found: dict[str, Any], precision: Precision, threads: int) -> None:
    get_logger().info(
        "auto: %s (%s, threads: %d): %s", found["engine"] or "none", precision, threads, _shown(found)
    )


def _shown(found: dict[str, Any]) -> str:
    """Times and refusals in words."""
    parts = []
    for name, times in sorted(found["milliseconds"].items(), key=lambda pair: list(pair[1].values())):
        shown = ", ".join(f"{ms:.1f} ms for {batch}" for batch, ms in times.items())
        parts.append(f"{name} {shown}")
    if found["refused"]:
        parts.append(f"not used: {_named(found['refused'])}")
    return "; ".join(parts)


def _named(refused: dict[str, str]) -> str:
    return "; ".join(f"{name} ({reason})" for name, reason in refused.items())
