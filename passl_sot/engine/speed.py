"""How fast a run goes."""

import time


class Speed:
    """Items per second and the fraction of the time spent waiting for data, since it was made."""

    def __init__(self, loader):
        self.loader = loader
        self.items = 0  # trained on
        self.began = time.perf_counter()
        self.waited = loader.wait_seconds

    def read(self) -> tuple[float, float]:
        """Items per second, and the fraction of the time that was waiting."""
        # On some machines two readings of the clock may be equal.
        seconds = max(time.perf_counter() - self.began, 1e-9)
        waiting = min(1.0, (self.loader.wait_seconds - self.waited) / seconds)
        return self.items / seconds, waiting
