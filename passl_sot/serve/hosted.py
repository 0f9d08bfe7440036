"""The model in service, and the way of a newer one into its place."""

import asyncio
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from passl_sot.config import zh
from passl_sot.predict import Predictor
from passl_sot.serve.metrics import Metrics
from passl_sot.serve.settings import Settings
from passl_sot.utils.logger import get_logger
from passl_sot.weights.checkpoint import CheckpointError

log = get_logger()
_TRIES = 3
Kind = Literal["image", "text"]
_Identity = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that has given a first prediction.

    Attributes:
        kind: What it takes; a newer model must take it too.
        name: By its place: `run/best`, or an exported folder's name.
        since: When it was loaded, in seconds since 1970.
        identity: What its files were then.
    """

    predictor: Predictor
    kind: Kind
    name: str
    since: float
    identity: _Identity


class Hosted:
    """Holds what is in service, `now`, and exchanges it where its file or folder was.

    A faulty newer model leaves the one in service where it is.

    Attributes:
        fault: Why the newest attempt to load another failed; "" where it didn't.

    Raises:
        UserError: The first model can't be loaded.
    """

    def __init__(self, settings: Settings, metrics: Metrics):
        self._settings = settings
        self._metrics = metrics
        self._asked = asyncio.Event()
        self.fault = ""
        self.now = self._load(None)

    def ask(self) -> None:
        """Has the model loaded anew, whether its files have changed or not."""
        self._asked.set()

    async def watch(self) -> None:
        """Loads what takes the model's place, or is asked for, until it is cancelled."""
        known = before = self.now.identity
        while True:
            asked = await self._wait()
            found = await asyncio.to_thread(_identity, self._settings.source)
            # Two equal looks: a file that is still being copied isn't read.
            if asked or (found and found != known and found == before):
                known = found
                await self._exchange()
            before = found

    async def _wait(self) -> bool:
        """Waits for the next look at the files; whether somebody asked meanwhile."""
        try:
            await asyncio.wait_for(self._asked.wait(), self._settings.watch or None)
        except asyncio.TimeoutError:
            return False
        self._asked.clear()
        return True

    async def _exchange(self) -> None:
        try:
            self.now = await asyncio.to_thread(self._load, self.now.kind)
            self.fault = ""
            log.info("%s: loaded anew, and now in service", self.now.name)
        except Exception as error:  # whatever a faulty file leads to, the old model goes on
            self.fault = f"{type(error).__name__}: {error}"
            self._metrics.loads.labels("refused").inc()
            log.error("the newer model is refused, and the older stays in service: %s", error)

    def _load(self, wanted: Kind | None) -> Loaded:
        began = time.perf_counter()
        source = self._settings.source
        for _ in range(_TRIES):
            identity = _identity(source)
            predictor = Predictor(source, **self._settings.arguments)
            if _identity(source) == identity:
                break
        else:
            # Of a folder the card may be the older's, and the graph the newer's.
            raise CheckpointError(f"{source} changes again and again while it is loaded")
        kind: Kind = "text" if predictor.task.takes_texts else "image"
        if wanted not in (None, kind):
            raise CheckpointError(
                f"{source} takes {kind}s, and a model of {wanted}s is in service: start another server"
            )
        _try(predictor, source, *_TRIED[kind])
        self._metrics.loading.set(time.perf_counter() - began)
        self._metrics.loads.labels("loaded").inc()
        path = Path(source).absolute()
        name = path.name
        if not path.is_dir():
            name = f"{path.parent.name}/{path.stem}"
        return Loaded(predictor, kind, name, time.time(), identity)


def _gray(predictor: Predictor) -> np.ndarray:
    channels = getattr(predictor.task, "channels", 3)
    return np.full((64, 64, max(channels, 3)), 127, np.uint8)


# What a model of each kind is tried by.
_TRIED = {"image": ("a gray image", _gray), "text": ("a short text", lambda predictor: "A short text.")}


def _try(predictor: Predictor, source: str, what: str, make: Callable[[Predictor], Any]) -> None:
    """Predicts one item, twice and once: compiles what is compiled, and finds a model of no numbers."""
    sample = predictor.read(make(predictor))
    rows = [*predictor.rows([sample, sample]), *predictor.rows([sample])]
    numbers = [number for row in rows for number in (*row.get("probabilities", ()), row.get("value") or 0.0)]
    if not all(map(math.isfinite, numbers)):
        raise CheckpointError(
            f"{source} gives no numbers for {what}: its weights are damaged" + zh("no_numbers")
        )


def _identity(source: str) -> _Identity:
    """What tells the files of a model from others that take their place; () where they aren't there."""
    try:
        files = (
            sorted(os.scandir(source), key=lambda entry: entry.name) if os.path.isdir(source) else [source]
        )
        found = [(os.fspath(file), os.stat(file)) for file in files]
    except OSError:
        return ()
    return tuple((name, status.st_mtime_ns, status.st_size, status.st_ino) for name, status in found)
