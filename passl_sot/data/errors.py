"""The errors of the data layer, in words meant for the user."""

from collections.abc import Sequence

from passl_sot.config import UserError
from passl_sot.imageio.errors import ImageError

# The item of a dataset, a file or a place in one, can't be read: the same for items of any kind.
ItemError = ImageError
_SHOWN = 10


class DataError(UserError, ValueError):
    """The data on disk don't fit what the run asks of them.

    Args:
        faults: One message, or one per fault found; all are shown, and kept as a list.
    """

    def __init__(self, faults: str | Sequence[str]):
        if isinstance(faults, str):
            faults = [faults]
        self.faults = list(faults)
        super().__init__(self.faults)

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return self.faults[0]
        lines = [f"{len(self.faults)} faults in the data:"]
        lines += [f"  {number}. {fault}" for number, fault in enumerate(self.faults, 1)]
        return "\n".join(lines)


def stop_at(faults: Sequence[str], more: str) -> None:
    """Raises the first ten of all faults as a DataError, if there are any.

    The others are counted, and named `more`: "lines of list.txt".
    """
    # A mistake of the program that wrote a list is in every line of it.
    if len(faults) > _SHOWN:
        faults = [*faults[:_SHOWN], f"and {len(faults) - _SHOWN} more {more}"]
    if faults:
        raise DataError(faults)


class WorkerError(DataError):
    """Reading ended for a cause outside of the data: a worker was killed, or a disk doesn't answer.

    Another attempt may succeed.
    """

    status = 1
