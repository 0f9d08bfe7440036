"""How fast a run goes."""

import time
from collections.abc import Mapping
from typing import Any


class Speed:
    """Items per second and the fraction of the time spent waiting for data, since it was made."""

    def __init__(self, loader):
        self.loader = loader
        self.items = 0  # trained on
        self.counts: dict[str, Any] = {}  # sums of what the task counts, of this process
        self.began = time.perf_counter()
        self.waited = loader.wait_seconds

    def take(self, items: int, counts: Mapping[str, Any]) -> None:
        """Adds a batch: its items, over all processes, and the task's counts of this one's part."""
        self.items += items
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def read(self) -> tuple[float, float, float]:
        """Seconds; items per second; and the fraction of the time that was waiting."""
        # On some machines two readings of the clock may be equal.
        seconds = max(time.perf_counter() - self.began, 1e-9)
        waiting = min(1.0, (self.loader.wait_seconds - self.waited) / seconds)
        return seconds, self.items / seconds, waiting
