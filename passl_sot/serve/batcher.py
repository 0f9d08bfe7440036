"""Dynamic batching: images, or texts, of different requests that arrive close together are computed together.

Written here, as none of the small libraries for it has all that is needed: a limit on what waits, callers
who leave, a model that is exchanged between two batches, a window that isn't waited out
where nobody else comes.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from passl_sot.serve.errors import ApiError
from passl_sot.serve.hosted import Loaded
from passl_sot.serve.metrics import Metrics
from passl_sot.serve.settings import Settings


@dataclass(frozen=True)
class _Entry:
    """One image or text that waits, and who waits for it."""

    model: Loaded
    sample: dict[str, Any]
    top_k: int
    arrived: float
    row: asyncio.Future


class Place:
    """The place of one request in the queue: one item until it is read, then as many as it holds."""

    def __init__(self, batcher: "Batcher"):
        self._batcher = batcher
        self._items = 0

    def take(self, items: int) -> None:
        """Takes room for so many items in all; an ApiError (429) where there is none."""
        self._batcher.count(items - self._items)
        self._items = items


class Batcher:
    """Forms batches and has one thread compute them, one after the other.

    It waits up to the window for others where some are on their way (their requests are being read) or the
    batch before had several items; a lone client's is computed at once.
    """

    def __init__(self, settings: Settings, metrics: Metrics):
        self._settings = settings
        self._metrics = metrics
        self._admitted = 0
        self._waiting: deque[_Entry] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "compute")
        self._seconds = 0.0  # per item, of the last batch
        self._last = 0  # its items

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """A place in the queue; an ApiError (429) where it is full."""
        place = Place(self)
        place.take(1)
        try:
            yield place
        finally:
            place.take(0)

    def count(self, items: int) -> None:
        """Counts items in, or out where negative; an ApiError where there is no room for more."""
        most = self._settings.max_queue
        if items > 0 and self._admitted + items > most:
            after = max(1, math.ceil(self._admitted * self._seconds))
            message = f"the queue holds {self._admitted} of {most} items: try again later"
            raise ApiError(429, "overloaded", message, {"Retry-After": str(after)})
        self._admitted += items
        self._metrics.queue.set(self._admitted)

    def submit(self, model: Loaded, sample: dict[str, Any], top_k: int) -> asyncio.Future:
        """Gives an item to a coming batch; the future, which may be cancelled, gets its row."""
        loop = asyncio.get_running_loop()
        entry = _Entry(model, sample, top_k, loop.time(), loop.create_future())
        self._waiting.append(entry)
        self._arrived.set()
        return entry.row

    async def alone(self, work: Callable[[], Any]) -> Any:
        """Computes something else in between two batches, in their thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def run(self) -> None:
        """Computes batches until it is cancelled."""
        while True:
            batch = await self._next()
            if batch:
                await self._compute(batch)
            del batch  # with which a model goes that was exchanged meanwhile

    async def _compute(self, batch: list[_Entry]) -> None:
        self._metrics.batches.observe(len(batch))
        top_k = max(entry.top_k for entry in batch)
        samples = [entry.sample for entry in batch]
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            rows = await loop.run_in_executor(self._thread, batch[0].model.predictor.rows, samples, top_k)
        except Exception as error:  # of any kind: it is the answer, and the next batch may go well
            _settle(batch, error=error)
        else:
            _settle(batch, rows)
        self._last = len(batch)
        self._seconds = (loop.time() - began) / len(batch)

    async def _next(self) -> list[_Entry]:
        """The entries of the next batch: all of one model, none whose caller has left."""
        while not self._waiting:
            await self._arrival()
        loop = asyncio.get_running_loop()
        until = self._waiting[0].arrived + self._settings.window_ms / 1000
        most = self._settings.max_batch
        while len(self._waiting) < most and (self._last > 1 or self._admitted > len(self._waiting)):
            left = until - loop.time()
            if left <= 0:
                break
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrival(), left)
        model = self._waiting[0].model
        batch: list[_Entry] = []
        while self._waiting and len(batch) < most and self._waiting[0].model is model:
            entry = self._waiting.popleft()
            if not entry.row.done():
                batch.append(entry)
        return batch

    async def _arrival(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()


def _settle(batch: list[_Entry], rows: list[dict] | None = None, error: Exception | None = None) -> None:
    """Gives each entry its row, or all of them the error; callers may have left meanwhile."""
    for number, entry in enumerate(batch):
        if entry.row.done():
            continue
        if rows is None:
            assert error is not None
            entry.row.set_exception(error)
        else:
            entry.row.set_result(rows[number])
