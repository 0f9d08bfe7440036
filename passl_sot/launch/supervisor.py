"""Watches over the processes of a run on one machine: what ends one ends all, and its cause is printed last.

Under `python -m paddle.distributed.launch` the process that the launcher starts is a supervisor; the training
runs in a child of it. A supervisor writes the failure of its child to a file in the launcher's log folder,
where the others on its machine look for it. Standard library only: a supervisor takes a few megabytes.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

REPORT = "PASSL_SOT_REPORT"  # names the file to which a supervised process writes why it fails
NOT_JOINED = 75  # exit status of a process whose first connection to the others was refused
# Exit statuses, as of shells, of a run that saved and ended because it was asked to.
STOPPED = {number: 128 + number for number in (signal.SIGINT, signal.SIGTERM)}
_ATTEMPTS = 3
_PR_SET_PDEATHSIG = 1
_TAIL = 3000  # bytes of a failed process's log that Paddle's launcher shows
_SAME_SIGNAL = 10.0  # seconds within which another signal is the same request
_POLL = 0.1  # seconds
_CAUSE_WAIT = 2.0  # seconds in which the cause may still appear after an error that another explains
# Errors of a process that noticed the end of another; the other one has the cause.
_SECONDARY = ("gloo/transport", "tcp_store", "tcp_utils", "TCPStore", "ProcessGroupNCCL", "nccl_tools")


@dataclass
class Failure:
    """Why a process ended."""

    text: str  # its number, and its traceback or message
    status: int
    time: float  # seconds since 1970

    @property
    def secondary(self) -> bool:
        """Whether the end of another process explains it."""
        return any(word in self.text for word in _SECONDARY)


def report_failure(text: str) -> None:
    """Tells the supervisor of this process, if it has one, why the process is about to end."""
    path = os.environ.get(REPORT)
    if path and not os.path.exists(path):
        # A full disk may be the very failure; the text is in the process's log as well.
        with contextlib.suppress(OSError):
            Path(path).write_text(text, encoding="utf-8")


def withdraw_report() -> None:
    """Takes back what was reported in case that the process would be ended."""
    if REPORT in os.environ:
        Path(os.environ[REPORT]).unlink(missing_ok=True)


def end_with_parent(number: int) -> None:
    """Has the system send this process a signal when its parent dies, so that none is left behind."""
    with contextlib.suppress(OSError, AttributeError):  # only Linux has the call
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def supervise() -> int | None:
    """Runs this very command in a child, where Paddle's launcher started several processes.

    Returns:
        The exit status: 0, that of a run which was asked to stop and did, or that of the process which
        failed. None: this process is to train itself.
    """
    environment = os.environ
    if REPORT in environment:
        end_with_parent(signal.SIGKILL)
        return None
    numbers = ("PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID", "PADDLE_LOCAL_SIZE")
    given = [environment.get(name, "") for name in numbers]
    # What is no number the process itself will tell of.
    several = all(re.fullmatch("[0-9]{1,10}", text) for text in given) and int(given[0]) > 1
    # Other starters than Paddle's launcher give no folder that the processes share.
    if not several or not {"PADDLE_LOG_DIR", "POD_NAME"} <= environment.keys():
        return None
    parent = os.getppid()
    end_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        return 1
    supervisor = Supervisor(
        rank=int(environment["PADDLE_TRAINER_ID"]),
        size=int(environment["PADDLE_LOCAL_SIZE"]),
        # Each launcher draws its POD_NAME: files of earlier runs and other machines have other names.
        prefix=Path(environment["PADDLE_LOG_DIR"], f"failure.{environment['POD_NAME']}"),
        # Processes of other machines would not learn of another attempt.
        attempts=_ATTEMPTS if environment.get("PADDLE_NNODES") == "1" else 1,
    )
    status = supervisor.run()
    # The launcher, which sees another process end, may signal this one: its status would be lost.
    for number in STOPPED:
        signal.signal(number, signal.SIG_IGN)
    return status


@dataclass
class Supervisor:
    """Runs a child until it, or another process of the job on this machine, ends."""

    rank: int
    size: int  # processes of the job on this machine
    prefix: Path  # with which the files of their failures begin
    attempts: int = 1  # starts, where the processes fail to connect
    child: subprocess.Popen | None = None
    asked: int = 0
    asked_at: float = 0.0

    @property
    def report(self) -> Path:
        """The file in which the child says why it ends."""
        return Path(f"{self.prefix}.report.{self.rank}")

    def run(self) -> int:
        """Runs the child, again where it failed to connect; the exit status to leave with."""
        for number in STOPPED:
            signal.signal(number, self._forward)
        attempt = 1
        while True:
            cause = self._attempt(attempt)
            if isinstance(cause, int):
                return cause
            if cause.status != NOT_JOINED or self.asked or attempt == self.attempts:
                sys.stderr.write(cause.text + "\n")
                _keep_in_the_tail()
                return cause.status
            # Nothing is said: if it works this time, nobody has to do anything.
            attempt += 1
            time.sleep(10 * _POLL)  # all other supervisors have ended their children by then

    def _forward(self, number: int, frame: object) -> None:
        # Paddle's launcher sends the same signal several times within seconds; one that reaches a child
        # that has saved and is on its way out would end it with a traceback.
        if self.asked and time.monotonic() - self.asked_at < _SAME_SIGNAL:
            return
        self.asked = number
        self.asked_at = time.monotonic()
        if self.child and self.child.poll() is None:
            self.child.send_signal(number)

    def _attempt(self, number: int) -> Failure | int:
        """Runs the child once; why the job failed, or the child's status where it ended as it should."""
        child = self._start()
        failures: dict[str, Failure] = {}
        own = f"{self.prefix.name}.{number}.{self.rank}"
        while True:
            if child.poll() is not None and own not in failures:
                failure = self._outcome(child)
                if failure is None:
                    return child.returncode
                failures[own] = failure
                with contextlib.suppress(OSError):  # on a full disk the launcher ends the others
                    self.report.write_text(json.dumps(asdict(failure)), encoding="utf-8")
                    self.report.replace(self.prefix.with_name(own))
            for path in self.prefix.parent.glob(f"{self.prefix.name}.{number}.*"):
                if path.name not in failures:
                    failures[path.name] = Failure(**json.loads(path.read_text(encoding="utf-8")))
            cause = min(failures.values(), key=lambda f: (f.secondary, f.time), default=None)
            if cause:
                late = len(failures) == self.size or time.time() - cause.time > _CAUSE_WAIT
                if late or not cause.secondary:
                    self._kill(child)
                    return cause
            time.sleep(_POLL)

    def _start(self) -> subprocess.Popen:
        # A session of its own: ending its process group also ends the data workers that it has started.
        self.child = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env={**os.environ, REPORT: str(self.report)},
            start_new_session=True,
        )
        if self.asked:  # while there was no child to tell
            self.child.send_signal(self.asked)
        return self.child

    def _outcome(self, child: subprocess.Popen) -> Failure | None:
        status = child.returncode
        if status == 0 or status in STOPPED.values():
            return None
        if self.asked:
            return Failure(f"stopped by {signal.Signals(self.asked).name}", 128 + self.asked, time.time())
        moment = time.time()
        if self.report.exists():
            text = self.report.read_text(encoding="utf-8").rstrip()
            moment = self.report.stat().st_mtime  # exact, for the order of two failures
        elif status > 0:
            text = f"it left with status {status} and without a message; its log may tell"
        else:
            name = signal.Signals(-status).name
            text = f"it (pid {child.pid} on {socket.gethostname()}) was ended by {name}"
            if status == -signal.SIGKILL:
                text += ": by hand, or by the system for want of memory (dmesg tells)"
        return Failure(f"process {self.rank} failed:\n{text}", max(status, 1), moment)

    def _kill(self, child: subprocess.Popen) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        self.child = None
        self.report.unlink(missing_ok=True)


def _keep_in_the_tail() -> None:
    """Has the launcher show the lines written last."""
    # It shows the last bytes of a failed process's log, and nothing where they begin within a character:
    # empty lines then move their beginning to the next one.
    with contextlib.suppress(OSError), open("/proc/self/fd/2", "rb") as log:
        if stat.S_ISREG(os.fstat(2).st_mode) and os.fstat(2).st_size > _TAIL:
            log.seek(-_TAIL, os.SEEK_END)
            inside = next(n for n, byte in enumerate(log.read(4)) if byte & 0xC0 != 0x80)
            sys.stderr.write("\n" * inside)
