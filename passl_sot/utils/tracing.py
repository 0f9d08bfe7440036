"""Faster building of static graphs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def short_stacks() -> Iterator[None]:
    """Has Paddle note one line of Python, not all that are running, with each operator of a static graph.

    Reading whole stacks takes up to half of the time that a graph takes; they serve error messages alone.
    """
    before = getattr(sys, "tracebacklimit", None)
    sys.tracebacklimit = 1
    try:
        yield
    finally:
        if before is None:
            del sys.tracebacklimit
        else:
            sys.tracebacklimit = before
