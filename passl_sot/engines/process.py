"""An engine in a process of its own, whose memory and faults are its own too; a `passl_sot.utils.peer.Peer`.

    python -m passl_sot.engines.process FOLDER ENGINE PRECISION THREADS LENGTH

| task | answer |
|---|---|
| `time B` | seconds of a batch of B random inputs, by the clock and of processor time |
| `save B FILE` | the same; the output is then in FILE, as `.npy` |
| `memory` | the most that this process has used, in GB |
"""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from passl_sot.config import UserError
from passl_sot.engines.base import Engine, Input, Precision, open_engine
from passl_sot.utils.peer import Peer

# In place of sizes that a graph leaves open: of images, and the most tokens of texts.
_OPEN = 224
LENGTH = 128


def command(folder: Path, name: str, precision: str, threads: int, length: int = LENGTH) -> str:
    """The command line for a `Peer`; `length` as of `random_inputs`."""
    return module_command(__name__, folder, name, precision, threads, length)


def module_command(module: str, *arguments: object) -> str:
    """The command line that runs a module; without Paddle's word on a compiler that it doesn't need."""
    words = [sys.executable, "-W", "ignore:No ccache found", "-m", module, *arguments]
    return shlex.join(map(str, words))


def spent(peer: Peer, batch: int, threads: int) -> float:
    """Seconds of a batch, as of `counted`."""
    return counted(peer.ask(f"time {batch}"), threads)


def counted(answer: Sequence[float], threads: int) -> float:
    """The seconds of an answer that count: of one thread of processor time, which others don't disturb."""
    seconds, worked = answer
    if threads == 1:
        return worked
    return seconds


def random_inputs(inputs: Sequence[Input], batch: int, length: int = LENGTH) -> list[np.ndarray]:
    """Arrays for a model, the same for the same batch in all processes.

    Whole numbers are 0 and 1, which tokens and their types may be; texts have no padding.

    Args:
        inputs: What it takes.
        batch: Items.
        length: Tokens of a text, where it takes texts of any length.
    """
    rng = np.random.default_rng(batch)
    arrays: list[np.ndarray] = []
    for known in inputs:
        if known.whole:
            numbers = rng.integers(0, 2, [batch, *(size or length for size in known.shape[1:])])
            if known.name == "attention_mask":
                numbers[:] = 1
            arrays.append(numbers)
        else:
            size = [batch, *(size or _OPEN for size in known.shape[1:])]
            arrays.append(rng.standard_normal(size, np.float32))
    return arrays


def _most_memory() -> float:
    """GB. (What `resource` tells is, of a process that a larger one started, the larger one's.)"""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def answer(open_one: Callable[[], tuple[Engine, Sequence[Input]]], length: int = LENGTH) -> None:
    """Answers tasks on standard input, by an engine and its inputs, until there are no more.

    Args:
        open_one: Gives both.
        length: As of `random_inputs`.
    """
    # What libraries print goes elsewhere than the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        engine, known = open_one()
        inputs = {}
        answers.write("ready\n")
        for line in sys.stdin:
            task, *words = line.split()
            if task == "memory":
                answers.write(f"{_most_memory()}\n")
                continue
            batch = int(words[0])
            if batch not in inputs:
                inputs[batch] = random_inputs(known, batch, length)
            began = time.perf_counter()
            worked = time.process_time()
            output = engine(*inputs[batch])
            worked = time.process_time() - worked
            seconds = time.perf_counter() - began
            if task == "save":
                np.save(words[1], output)
            answers.write(f"{seconds} {worked}\n")
    except UserError as error:
        answers.write(f"{error}\n")
        sys.exit(1)


def _main() -> None:
    folder, name, precision, threads, length = sys.argv[1:]

    def open_one() -> tuple[Engine, Sequence[Input]]:
        engine = open_engine(name, Path(folder), precision=cast(Precision, precision), threads=int(threads))
        return engine, engine.inputs or []

    answer(open_one, int(length))


if __name__ == "__main__":
    _main()
