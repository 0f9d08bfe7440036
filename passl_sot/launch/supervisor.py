"""Watches over the processes of a run: what ends one ends all, with its cause, or restarts them all.

Under `python -m paddle.distributed.launch`, and wherever `--max-restarts` is given, the process that was
started is a supervisor; the training itself runs in a child of it. Process 0's supervisor also holds the hub,
to which all supervisors, on whatever machine, keep a connection:

    supervisor -> hub   hello, alive, done, failed (with the report), stopped, asked (someone wants the end)
    hub -> supervisor   start (generation), stop, end (with the cause and the status to leave with)

Paddle's launcher alone shows process 0's secondary fault instead of the cause, leaves processes behind when
it is killed, and never restarts any. Standard library only: a supervisor takes a few megabytes.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from passl_sot.config.errors import UserError
from passl_sot.launch.rendezvous import ALIVE, GATHER, Failure, Hub, Line

GENERATION = "PASSL_SOT_GENERATION"  # which start of the job a child belongs to: 0, 1, ...
REPORT = "PASSL_SOT_REPORT"  # where a child writes why it fails
USAGE_ERROR = 2
_PR_SET_PDEATHSIG = 1
_TAIL = 3000  # bytes of a log that Paddle's launcher shows where a process failed
_SAME = 10.0  # seconds within which another signal is the same request


def report_failure(text: str, *, final: bool) -> None:
    """Tells this process's supervisor, if it has one, why it is about to end.

    Args:
        text: A message or a traceback.
        final: Starting it again would end the same way.
    """
    path = os.environ.get(REPORT)
    if path and not os.path.exists(path):
        Path(path).write_text(json.dumps({"text": text, "final": final, "time": time.time()}))


@contextlib.contextmanager
def report_if_killed(text: str) -> Iterator[None]:
    """A block in which this process may be ended with no chance to say why: `text` is laid down before."""
    report_failure(text, final=True)
    try:
        yield
    finally:
        if REPORT in os.environ:
            Path(os.environ[REPORT]).unlink(missing_ok=True)


def generation() -> int | None:
    """How often the job of this supervised process was restarted; None where nobody supervises it."""
    return int(os.environ[GENERATION]) if GENERATION in os.environ else None


def end_with_parent(number: int) -> None:
    """Has the system send this process a signal when its parent dies, so that none is left behind."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux there is no such call
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


class SupervisionError(UserError, RuntimeError):
    """The processes can't be supervised as they were started."""


def should_supervise(restarts: int) -> bool:
    """Whether this process, just started, is to supervise a child instead of doing the work itself.

    Args:
        restarts: The `--max-restarts` of the command line.

    Raises:
        SupervisionError: Restarts are wanted of a job that was started by `--ips`.
    """
    if generation() is not None:
        return False
    several = int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1
    first = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")[0]
    if several and (not first or first == os.environ.get("PADDLE_MASTER")):
        if restarts:
            raise SupervisionError(
                "--max-restarts needs the launcher's --master and --nnodes in place of --ips and --start_port"
            )
        return False
    return several or restarts > 0


def supervise(restarts: int) -> int:
    """Runs this very command in a child, together with the other processes of the job, to its end.

    Args:
        restarts: How often the job is started again after one of its processes died.

    Returns:
        The status to leave with: 0, or that of the process that failed.
    """
    size = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    rank = int(os.environ.get("PADDLE_TRAINER_ID", "0")) if size > 1 else 0
    address = ("127.0.0.1", 0)
    if size > 1:
        host, port = os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0].rsplit(":", 1)
        address = (host, int(port))
        parent = os.getppid()
        end_with_parent(signal.SIGTERM)
        if os.getppid() != parent:
            return 1
    hub = None
    if rank == 0:
        hub = Hub(address, size, restarts)
        hub.start()
        address = hub.address
    with tempfile.TemporaryDirectory(prefix="passl_sot_") as folder:
        status = Supervisor(rank, address, Path(folder)).run()
    if hub:
        hub.join(10)
    return status


class Supervisor:
    """Starts and stops one child as the hub says, and tells it how the child fares.

    Args:
        rank: Number of the process.
        address: Where the hub listens.
        folder: A place for the child's report.
    """

    def __init__(self, rank: int, address: tuple[str, int], folder: Path):
        self.rank, self.address, self.folder = rank, address, folder
        self.child: subprocess.Popen | None = None
        self.asked, self.asked_at = 0, 0.0
        self.report = folder / "report"

    def run(self) -> int:
        """Until the hub says that the job has ended; the status to leave with."""
        before = {n: signal.signal(n, self._forward) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            line = self._connect()
            return self._serve(line) if line else 1
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: object) -> None:
        # Paddle's launcher sends the same signal several times within seconds; one that reaches a child
        # that has saved and is on its way out would end it with a traceback.
        if self.asked and time.monotonic() - self.asked_at < _SAME:
            return
        self.asked, self.asked_at = number, time.monotonic()
        if self.child and self.child.poll() is None:
            self.child.send_signal(number)

    def _connect(self) -> Line | None:
        began = time.monotonic()
        while not self.asked:
            try:
                connection = socket.create_connection(self.address, timeout=5)
            except OSError as error:
                if time.monotonic() - began > GATHER:
                    where = "{}:{}".format(*self.address)
                    _say(
                        f"process {self.rank} can't reach process 0 at {where} ({error}): is it running, and "
                        "does a firewall keep them apart?"
                    )
                    return None
                time.sleep(0.2)
            else:
                connection.settimeout(30)
                line = Line(connection)
                line.send(event="hello", rank=self.rank)
                return line
        return None

    def _serve(self, line: Line) -> int:
        said, told = time.monotonic(), False
        while True:
            if select.select([line], [], [], 0.1)[0]:
                messages = line.read()
                if messages is None:
                    _say(f"process {self.rank} has lost process 0's machine or supervisor, and ends too")
                    return 1
                for message in messages:
                    if message["do"] == "end":
                        return self._end(message)
                    if message["do"] == "start":
                        self._start(message)
                    else:
                        self._kill()
                        line.send(event="stopped")
            if self.child and self.child.poll() is not None:
                failure = self._outcome(self.child)
                self._kill()
                line.send(event="failed", **asdict(failure)) if failure else line.send(event="done")
            if self.asked and not told:
                told = True
                line.send(event="asked", number=self.asked)
            if time.monotonic() - said > ALIVE:
                said = time.monotonic()
                line.send(event="alive")

    def _start(self, message: dict) -> None:
        if message["cause"]:
            _say(f"{Failure(**message['cause'])}\n{message['what']}")
        self.report.unlink(missing_ok=True)
        more = {GENERATION: str(message["generation"]), REPORT: str(self.report)}
        # A session of its own: ending its process group ends what it has started, the data workers, too.
        self.child = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]], env={**os.environ, **more}, start_new_session=True
        )
        if self.asked:  # while there was no child to tell
            self.child.send_signal(self.asked)

    def _outcome(self, child: subprocess.Popen) -> Failure | None:
        status = child.returncode
        if status == 0:
            return None
        if self.asked:
            text = f"stopped by {signal.Signals(self.asked).name}"
            return Failure(-1, text, True, time.time(), 128 + self.asked)
        if self.report.exists():
            said = json.loads(self.report.read_text())
            return Failure(self.rank, said["text"], said["final"], said["time"], max(status, 1))
        if status > 0:
            text = f"it left with status {status} and without a message; its log may tell"
            return Failure(self.rank, text, status == USAGE_ERROR, time.time(), status)
        text = f"it (pid {child.pid} on {socket.gethostname()}) was ended by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            text += ": by hand, or by the system for want of memory (dmesg tells)"
        return Failure(self.rank, text, False, time.time(), 1)

    def _kill(self) -> None:
        child, self.child = self.child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def _end(self, message: dict) -> int:
        self._kill()
        if message["cause"]:
            _say(str(Failure(**message["cause"])))
            _keep_in_the_tail()
        return message["status"]


def _say(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _keep_in_the_tail() -> None:
    """Has the launcher show what was said last.

    It shows the last bytes of a failed process's log, and nothing where they begin within a character: empty
    lines then move their beginning to the next one.
    """
    with contextlib.suppress(OSError), open("/proc/self/fd/2", "rb") as log:
        if stat.S_ISREG(os.fstat(2).st_mode) and os.fstat(2).st_size > _TAIL:
            log.seek(-_TAIL, os.SEEK_END)
            inside = next(n for n, byte in enumerate(log.read(4)) if byte & 0xC0 != 0x80)
            sys.stderr.write("\n" * inside)
            sys.stderr.flush()
