"""Notices that batches won't come any more: a worker died, or hangs at a file."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from passl_sot.data.bad_files import GuardedReader

_EVERY = 0.5  # seconds between two looks


class Watch(threading.Thread):
    """Looks after the workers of one iteration, and ends the wait for a batch that won't come.

    The main thread waits for a batch inside Paddle's core, where it hears no signal. What Paddle itself does
    about a dead worker is to raise an error wherever the main thread happens to be, in the middle of writing
    a checkpoint too; and of one that hangs, or died while it handed a batch over, it learns nothing.

    Args:
        batches: Paddle's iterator.
        reader: What the workers read by.
        limit: Seconds that a batch may take; None for no limit.

    Attributes:
        problem: What is wrong; None while nothing is.
    """

    def __init__(self, batches: Any, reader: GuardedReader, limit: float | None):
        super().__init__(daemon=True, name="passl_sot watch")
        self.problem: str | None = None
        self._batches, self._reader, self._limit = batches, reader, limit
        self._workers = list(getattr(batches, "_workers", []))
        self._waits, self._wait = 0, 0  # how many there were; the number of the present one, 0 between them
        # Looks during one wait, counted rather than timed: a job suspended for an hour has not waited.
        self._looks, self._looked_at = 0, 0
        self._over = threading.Event()

    def waiting(self, begins: bool) -> None:
        """Told when the main thread begins and ends waiting for a batch."""
        self._waits += begins
        self._wait = self._waits if begins else 0

    def run(self) -> None:
        """Until `stop`, or a problem: with it the main thread's wait for a batch ends in a SystemError."""
        while not self._over.wait(_EVERY):
            self.problem = self._dead() or self._stalled()
            if self.problem:
                self._batches._exit_thread_unexpectedly()
                return

    def stop(self) -> None:
        """Ends this thread."""
        self._over.set()
        self.join()

    def _dead(self) -> str | None:
        for number, worker in enumerate(self._workers):
            if worker.exitcode:
                status = worker.exitcode
                how = f"left with status {status}" if status > 0 else f"was ended by {_signal(-status)}"
                return (
                    f"a data worker process died: worker {number} (pid {worker.pid}) {how}; it "
                    f"{self._reader.whereabouts(number)}. Often memory ran out: look for 'Killed' in "
                    "`dmesg`, lower dataloader.*.loader.num_workers or batch_size, or give the container "
                    "more /dev/shm (docker run --shm-size=8g) / 数据读取进程意外退出，多为内存或共享内存不足"
                )
        return None

    def _stalled(self) -> str | None:
        wait, before = self._wait, self._looked_at
        self._looked_at = wait
        self._looks = self._looks + 1 if wait and wait == before else 0
        if self._limit is None or self._looks * _EVERY < self._limit:
            return None
        who, number = "the thread that reads images", 0
        if self._workers:
            number = self._batches._task_infos.get(self._batches._rcvd_idx, (0,))[0]
            who = f"worker {number} (pid {self._workers[number].pid})"
        what = self._reader.whereabouts(number)
        if self._workers:
            self._workers[number].kill()  # what hangs would not end by itself
        return (
            f"no batch came for {self._limit:g} s: {who} {what}. Is that disk or server in order? Where "
            "reading may take so long, raise dataloader.*.loader.timeout / 数据读取超时，请检查磁盘或网络存储"
        )


def ignore_foreign_sigterm() -> None:
    """Has this worker process end by SIGTERM only if its parent sends it.

    Schedulers and service managers send SIGTERM to every process of a job; the training process then finishes
    its step and saves, for which it may yet need a batch.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return  # nothing else tells who sent a signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True, name="passl_sot sigterm").start()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
