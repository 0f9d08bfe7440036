"""Reading many files at a time by threads: disks and networks answer several at once."""

from collections.abc import Callable, Sequence
from multiprocessing import TimeoutError as PoolTimeout
from multiprocessing.pool import ThreadPool
from typing import TypeVar

from passl_sot.config import zh
from passl_sot.data.errors import WorkerError
from passl_sot.utils.logger import progress_bar

T = TypeVar("T")


def in_threads(
    work: Callable[[int], T],
    items: Sequence[int],
    describe: Callable[[int], str],
    *,
    threads: int = 8,
    chunk: int = 1,
    timeout: float | None = None,
    title: str = "",
    progress: bool = False,
) -> list[T]:
    """What `work` gives for each of some items of a dataset, in their order.

    Args:
        describe: Which item it is, for messages.
        chunk: Items that a thread takes at a time: many, where each is quick.
        timeout: Seconds that a chunk may take; None for no limit.
        title: Of the progress bar.
        progress: Whether it is drawn.

    Raises:
        WorkerError: An item was not done in time.
    """
    chunks = [items[first : first + chunk] for first in range(0, len(items), chunk)]
    at = [part[0] for part in chunks]  # the item of each chunk that a thread is at

    def run(number: int) -> list[T]:
        found = []
        for item in chunks[number]:
            at[number] = item
            found.append(work(item))
        return found

    found: list[T] = []
    # The threads of concurrent.futures would keep the process from ending where one of them hangs.
    with (
        ThreadPool(threads) as pool,
        progress_bar(total=len(items), desc=title, unit="img", shown=progress) as bar,
    ):
        results = pool.imap(run, range(len(chunks)))
        for number, part in enumerate(chunks):
            try:
                found += results.next(timeout)
            except PoolTimeout:
                raise WorkerError(
                    f"image {at[number]} ({describe(at[number])}) was not read within {timeout:g} s. Is that "
                    "disk or server in order? Where reading may take so long, raise "
                    "dataloader.*.loader.timeout" + zh("reading_timeout")
                ) from None
            bar.update(len(part))
    return found
