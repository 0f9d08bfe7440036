"""A request to stop, from Ctrl-C or from whoever ends a job: noted, and carried out where nothing is lost."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Whether this process was told to stop.

    Attributes:
        signal: The signal's number; 0 while there was none.
    """

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes SIGINT and SIGTERM rather than ending at once; a second Ctrl-C raises KeyboardInterrupt."""

        def note(number: int, frame: object) -> None:
            # Paddle's launcher sends SIGTERM three times within a second: no sign of impatience.
            if self.signal == number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
