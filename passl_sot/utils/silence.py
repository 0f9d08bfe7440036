"""Keeps what converters and engines print from the user's terminal."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator

from passl_sot.utils.logger import get_logger


@contextlib.contextmanager
def silenced() -> Iterator[Callable[[], str]]:
    """A block whose output, that of compiled code too, is not shown; nor are Python's warnings.

    With the logger at DEBUG (`-v`) all is shown.

    Yields:
        A function that gives the last lines of what was not shown.
    """
    if get_logger().isEnabledFor(logging.DEBUG):
        yield lambda: ""
        return
    with warnings.catch_warnings(), contextlib.ExitStack() as undo:
        warnings.simplefilter("ignore")
        sink = undo.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
        # Compiled code writes to the file descriptors, Python's to the streams, which may be others.
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            kept = os.dup(number)
            undo.callback(os.close, kept)
            undo.callback(os.dup2, kept, number)
            os.dup2(sink.fileno(), number)
        undo.enter_context(contextlib.redirect_stdout(sink))
        undo.enter_context(contextlib.redirect_stderr(sink))

        def last_lines() -> str:
            sink.flush()
            text = os.pread(sink.fileno(), 1 << 20, 0).decode(errors="replace")
            return "\n".join(text.strip().splitlines()[-5:])

        yield last_lines
