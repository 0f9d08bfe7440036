"""numba's cache on disk, which one process of the machine fills at a time; to import where numba is.

numba's own has no lock: workers that begin together on an empty cache would all compile the same loops.
"""

import contextlib
import fcntl
import functools
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock

# Seconds after which a process stops waiting for others and compiles for itself: the other may be suspended.
_PATIENCE = 120.0
_POLL_SECONDS = 0.05
# The folder has gone, the disk is full, a file was cut off: what was compiled serves all the same.
_UNUSABLE = (OSError, EOFError, pickle.UnpicklingError)


def share(dispatcher: Any) -> None:
    """Has a function that numba compiles look for its code on disk, and kept there.

    Where there is no folder that can be written to, each process compiles for itself.
    """
    try:
        dispatcher._cache = _SharedCache(dispatcher.py_func)
    except RuntimeError:
        return
    compile_one: Callable = dispatcher.compile

    @functools.wraps(compile_one)
    def compile_alone(signature: object) -> object:
        # numba's lock first, as in all that it compiles: so threads meet in one order.
        with global_compiler_lock, _lock().scope():
            return compile_one(signature)

    dispatcher.compile = compile_alone


def state() -> Literal["idle", "compiling", "nothing kept"]:
    """Whether some process of this machine is compiling; or whether all do, as nothing can be kept."""
    if _lock().path is None:
        return "nothing kept"
    return "compiling" if _lock().is_held() else "idle"


class _SharedCache(FunctionCache):
    """A function's code on disk. What isn't there is looked for again once it is this process's turn."""

    def load_overload(self, sig: object, target_context: object) -> object:
        found = self._load(sig, target_context)
        if found is None and _lock().take():
            found = self._load(sig, target_context)
        return found

    def _load(self, sig: object, target_context: object) -> object:
        with contextlib.suppress(*_UNUSABLE):
            return super().load_overload(sig, target_context)
        return None

    def save_overload(self, sig: object, data: object) -> None:
        with contextlib.suppress(*_UNUSABLE):
            super().save_overload(sig, data)


class _Lock:
    """The right to compile, of one process of the machine; for use under numba's lock, by one thread.

    Args:
        path: A file that may be made; None where there is no folder for it, and so no such right.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self._file: int | None = None
        self._depth = 0

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Gives the right back at the end of the outermost: loops that call others compile these within."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth and self._file is not None:
                os.close(self._file)
                self._file = None

    def take(self) -> bool:
        """Waits for the right; False where this process has it, and where there is no such thing."""
        if self._file is not None:
            return False
        file = self._open()
        patient_until = time.monotonic() + _PATIENCE
        while file is not None and time.monotonic() < patient_until:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_POLL_SECONDS)
            except OSError:  # a file system without locks
                break
            else:
                self._file = file
                return True
        if file is not None:
            os.close(file)
        return False

    def is_held(self) -> bool:
        """Whether any process has the right, this one included."""
        file = self._open()
        if file is None:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        finally:
            os.close(file)
        return False

    def _open(self) -> int | None:
        if self.path is None:
            return None
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CREAT, 0o666)
        except OSError:
            return None


@functools.cache
def _lock() -> _Lock:
    try:
        # Beside the code of this folder's loops; loops of other folders wait for the same.
        return _Lock(Path(FunctionCache(share).cache_path, "compiling.lock"))
    except RuntimeError:
        return _Lock(None)
