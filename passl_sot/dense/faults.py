"""Faults while one of the suites trains: in the data that it reads, and in the loss."""

import math
from collections.abc import Callable
from typing import Any

from paddle.base import core
from paddle.io.dataloader import dataloader_iter

from passl_sot.config import UserError

_Read = Callable[[Any, int], Any]


class NonFiniteLossError(UserError):
    """The loss is infinite or no number, and so will be all weights."""

    status = 1


def check_loss(loss: float, rate: str) -> None:
    """Ends a training whose loss isn't finite, where the suites go on; `rate` is the learning rate's key."""
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the loss has become {loss}: training can't go on. Lower {rate}, look at the images and labels "
            "of the last steps, and go on from an earlier checkpoint with --resume"
        )


def raise_faults_of_readers() -> None:
    """Has Paddle's loaders raise what reading an image raises.

    In 3.3.1 the thread that reads, or that takes what worker processes read, ends at an error, while the loop
    waits for the next batch for ever. A second call changes nothing.
    """
    alone: Any = dataloader_iter._DataLoaderIterSingleProcess
    several: Any = dataloader_iter._DataLoaderIterMultiProcess
    if hasattr(alone, "fault"):
        return
    start = alone._init_thread

    def start_telling(self: Any) -> None:
        self._dataset_fetcher.fetch = _telling(self, self._dataset_fetcher.fetch)
        start(self)

    take = several._get_data
    alone._init_thread = start_telling
    several._get_data = lambda self: _telling(self, take)(self)
    for loader in (alone, several):
        loader.fault = None
        loader.__next__ = _raising(loader.__next__)


def _telling(loader: Any, read: Callable[..., Any]) -> Callable[..., Any]:
    """`read`, whose errors are kept for the loop, which no longer waits."""

    def read_or_tell(*args: Any) -> Any:
        try:
            return read(*args)
        except StopIteration:
            raise
        except Exception as error:
            loader.fault = error
            loader._exit_thread_unexpectedly()
            return None  # which ends the thread

    return read_or_tell


def _raising(read_next: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def next_or_raise(self: Any) -> Any:
        try:
            return read_next(self)
        except Exception:
            if self.fault is None:
                raise
            fault: Exception = self.fault
            if isinstance(fault, UserError):
                # Paddle puts a worker's traceback before it.
                fault = UserError(str(fault).strip().rpartition("UserError: ")[2])
            # Processes that read are asked to end by a queue that some no longer read, and waited for.
            core._erase_process_pids(id(self))  # type: ignore[attr-defined]
            for process in getattr(self, "_workers", ()):
                process.kill()
            raise fault from None

    return next_or_raise


def naming_the_file(read: _Read, file_of: Callable[[Any, int], Any]) -> _Read:
    """A data set's `__getitem__` whose errors name the file that it reads, as `file_of(dataset, index)`."""

    def read_item(self: Any, index: int) -> Any:
        try:
            return read(self, index)
        except UserError:
            raise
        except Exception as error:
            words = str(error).strip() or type(error).__name__
            raise UserError(f"{file_of(self, index)} can't be read as the config has it: {words}") from error

    return read_item
