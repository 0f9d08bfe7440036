"""Worker processes that read batches: a small server, started once, forks them.

Forked from the training process, workers would inherit the locks that Paddle's threads happen to hold, and
hang. The server has imported the data layer alone, compiled loops included, so its forks are small and ready
within milliseconds, and no script needs an `if __name__ == "__main__":` for them. It ends, and they with it,
when the training process does, however that ends.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import mmap
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
import types
import weakref
from multiprocessing.connection import Connection
from typing import Any

from passl_sot.config.chinese import zh
from passl_sot.data.errors import DataError
from passl_sot.data.loader.shared_buffers import size_of
from passl_sot.launch.supervisor import end_with_parent

_BOOT = "import sys; from passl_sot.data.loader.fork_server import serve; serve(int(sys.argv[1]))"
_PATIENCE = 5.0
_WORKER = "PASSL_SOT_DATA_WORKER"  # set in workers


class Link(Connection):
    """A connection that may be closed after the garbage collector has had to do with it."""

    def __del__(self) -> None:
        self.close()  # Connection's own leaves the number behind, by then perhaps another file's


class Nursery:
    """The server, seen from the training process."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            path = os.pathsep.join(place or os.getcwd() for place in sys.path)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno())],
                # Nothing but the training process's own path decides what is imported.
                env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the training process alone
            )
        weakref.finalize(self, _end, self._control, self._process)

    def alive(self) -> bool:
        """Whether the server is still there."""
        return self._process.poll() is None

    def start(self, work: Work, memory: int) -> Link:
        """Starts a worker; returns before it runs.

        Args:
            work: What it does.
            memory: File descriptor of memory that it shares with this process.

        Returns:
            The connection to it; reads end-of-file when the worker is gone.

        Raises:
            OSError: The server is gone.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [bytes(4)], [theirs.fileno(), memory, work.file])
        connection = Link(ours.detach())
        connection.send_bytes(work.text)
        return connection

    def how_it_ended(self, pid: int) -> str:
        """Words for a worker's end: "was ended by SIGKILL", or its status."""
        try:
            self._control.sendall(pid.to_bytes(4, "little"))
            answer = self._control.recv(4)
        except OSError:
            answer = b""
        if not answer:
            return "ended with the server of all workers, which was killed"
        status = int.from_bytes(answer, "little", signed=True)
        return f"left with status {status}" if status >= 0 else f"was ended by {_name(-status)}"


@functools.cache
def _nursery(process: int, attempt: int) -> Nursery:
    return Nursery()


def nursery() -> Nursery:
    """The one server of this process, started where it isn't there yet.

    Raises:
        RuntimeError: This process is a worker itself.
    """
    if _WORKER in os.environ:
        raise RuntimeError("a data worker can't have data workers of its own")
    attempt = 0
    while not (server := _nursery(os.getpid(), attempt)).alive():
        attempt += 1
    return server


def serve(control_number: int) -> None:
    """Forks a worker for each pair of files, until the training process is gone; runs in the server.

    Without files, a message is the number of a worker that has ended; the answer is its status.
    """
    # Schedulers send SIGTERM to every process of a job: the training process then finishes its step and
    # saves, for which it may need a batch. This server and the workers end with it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    import passl_sot.data  # noqa: F401  # what workers need, once for all
    from passl_sot.imageio.kernels import jit as compiling

    if compiling.available():
        from passl_sot.imageio.kernels.warmup import wake

        wake()
    ended: dict[int, int] = {}

    def clear_away(number: int, frame: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (child := os.waitpid(-1, os.WNOHANG))[0]:
                ended[child[0]] = os.waitstatus_to_exitcode(child[1])

    signal.signal(signal.SIGCHLD, clear_away)
    gc.freeze()  # shared with the workers, and left alone by their collections
    control = socket.socket(fileno=control_number)
    while True:
        message, files, _, _ = socket.recv_fds(control, 4, 3)
        if not message:
            return
        if files and os.fork() == 0:
            control.close()
            _work(*files)
        for number in files:
            os.close(number)
        pid = int.from_bytes(message, "little")
        if pid:
            until = time.monotonic() + _PATIENCE
            while pid not in ended and time.monotonic() < until:
                time.sleep(0.01)  # its connection has ended, so should it
            with contextlib.suppress(OSError):  # nobody is left to be told
                control.sendall(ended.pop(pid, 0).to_bytes(4, "little", signed=True))


def _work(connection_number: int, memory_number: int, arrays_number: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    end_with_parent(signal.SIGKILL)
    os.environ[_WORKER] = "1"
    cv2 = sys.modules.get("cv2")
    if cv2 is not None:  # workers are the parallelism
        cv2.setNumThreads(0)
        cv2.ocl.setUseOpenCL(False)
    connection = Link(connection_number)
    try:
        arrays = memoryview(mmap.mmap(arrays_number, 0, access=mmap.ACCESS_READ))
        _unpack(connection.recv_bytes(), arrays)(connection, mmap.mmap(memory_number, 0))
    except (EOFError, ConnectionError):
        pass  # no more work
    except BaseException:
        with contextlib.suppress(OSError):
            connection.send(traceback.format_exc())
    os._exit(0)


class Work:
    """What workers do, ready to be sent: an object that is called with a connection and the shared memory.

    Arrays in it, such as the paths of a million files, lie in memory that all workers share.

    Args:
        todo: The object.

    Attributes:
        text: The object without its arrays.
        file: File descriptor of the arrays' memory.

    Raises:
        DataError: A part of it can't be sent to another process; says which.
    """

    def __init__(self, todo: Any):
        self._size = 0
        advice = "move it to a module of its own, or set loader.num_workers: 0"
        advice += "" + zh("move_to_module")
        buffers: list[pickle.PickleBuffer] = []
        try:
            text = pickle.dumps(todo, protocol=5, buffer_callback=buffers.append)
        except Exception as error:
            raise DataError(
                f"data workers can't be given a part of the dataset ({error}): {advice}"
            ) from error
        script = None
        if b"__main__" in text:
            script = getattr(sys.modules["__main__"], "__file__", None)
            if script is None or not os.path.exists(script):
                raise DataError(
                    f"data workers can't see what is defined in a notebook or on a command line: {advice}"
                )
        arrays = [buffer.raw() for buffer in buffers]
        ends = list(itertools.accumulate(size_of((array.nbytes,), 1) for array in arrays))
        places = [(begin, array.nbytes) for begin, array in zip([0, *ends], arrays, strict=False)]
        self.text = pickle.dumps((script, sys.argv, text, places), protocol=5)
        self.file = os.memfd_create("passl_sot arrays")
        weakref.finalize(self, os.close, self.file)
        self._size = max([1, *ends])
        os.ftruncate(self.file, self._size)
        with mmap.mmap(self.file, 0) as memory:
            for (begin, size), array in zip(places, arrays, strict=True):
                memory[begin : begin + size] = array

    def same_as(self, other: Work) -> bool:
        """Whether a worker that does one does the other."""
        if (self.text, self._size) != (other.text, other._size):
            return False
        with mmap.mmap(self.file, 0) as mine, mmap.mmap(other.file, 0) as theirs:
            return mine[:] == theirs[:]


def _unpack(packed: bytes, arrays: memoryview) -> Any:
    script, sys.argv, text, places = pickle.loads(packed)
    if script is not None:
        # As multiprocessing does it: the script runs under another name than "__main__".
        module = types.ModuleType("__mp_main__")
        try:
            module.__dict__.update(runpy.run_path(script, run_name="__mp_main__"))
        except BaseException as error:
            raise ImportError(
                f"{script} defines a part of the dataset, so data workers import it: what it does beside "
                'must stand below `if __name__ == "__main__":`' + zh("main_guard")
            ) from error
        sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return pickle.loads(text, buffers=[arrays[begin : begin + size] for begin, size in places])


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(control: socket.socket, process: subprocess.Popen) -> None:
    control.close()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
