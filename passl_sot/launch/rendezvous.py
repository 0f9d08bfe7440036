"""Where the supervisors of a job meet; see `passl_sot.launch.supervisor`."""

import contextlib
import json
import select
import socket
import threading
import time
from dataclasses import asdict, dataclass

# Seconds: between two signs of life, without one until given up, for all to meet.
ALIVE, SILENT, GATHER = 5.0, 60.0, 600.0
# What a process leaves with whose first connection to others was refused, as now and then happens in gloo;
# nothing is done yet, so all are started again, so many times in all.
NOT_JOINED = 75
_ATTEMPTS = 3
# A process that only noticed that another one is gone says one of these; the other one is the cause.
_SECONDARY = ("gloo/transport", "tcp_store", "tcp_utils", "TCPStore", "ProcessGroupNCCL", "nccl_tools")


@dataclass
class Failure:
    """Why a process ended.

    Attributes:
        rank: Its number; -1 where no process of the job is to blame.
        text: Its traceback or message.
        final: Starting it again would end the same way.
        time: Seconds since 1970.
        status: What it left with.
    """

    rank: int
    text: str
    final: bool = False
    time: float = 0.0
    status: int = 1

    @property
    def secondary(self) -> bool:
        """Whether it only tells of another process's end."""
        return any(word in self.text for word in _SECONDARY)

    def __str__(self) -> str:
        return f"process {self.rank} failed:\n{self.text.rstrip()}" if self.rank >= 0 else self.text


class Line:
    """A connection over which JSON objects go, one a line."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self.heard = time.monotonic()
        self._rest = b""

    def fileno(self) -> int:
        """For `select`."""
        return self.socket.fileno()

    def send(self, **message: object) -> None:
        """Sends; a peer that is gone is noticed when reading."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> list[dict] | None:
        """What has come, without the incomplete last line; None where the other side is gone."""
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            return None
        if not data:
            return None
        self.heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            return None  # someone else than a supervisor


class Hub(threading.Thread):
    """Where the supervisors of a job meet; runs beside process 0's.

    Args:
        address: Where to listen; port 0 takes any.
        size: Processes of the job.
        restarts: How often the job may be started again.
    """

    def __init__(self, address: tuple[str, int], size: int, restarts: int):
        super().__init__(daemon=True, name="hub")
        self._listener = socket.create_server(("" if size > 1 else address[0], address[1]), backlog=size)
        self.address = (address[0], self._listener.getsockname()[1])
        self.size, self.restarts = size, restarts
        self.generation = 0
        self.attempts = 1
        self.members: dict[int, Line] = {}
        self.finished: set[int] = set()
        self.stopped: set[int] | None = None  # None while the job runs
        self.failures: list[Failure] = []
        self.asked = False

    def run(self) -> None:
        """Until the job has ended."""
        try:
            cause = self._gather() or self._watch()
        finally:
            self._listener.close()
        status = cause.status if cause else 0
        for line in self.members.values():
            line.send(do="end", status=status, cause=asdict(cause) if cause else None)
        for line in self.members.values():
            while line.read() is not None:
                pass  # until the supervisor has gone

    def _gather(self) -> Failure | None:
        """Meets everybody, then has the work begun."""
        until = time.monotonic() + GATHER
        waiting: list[Line] = []
        while len(self.members) < self.size:
            if select.select([self._listener], [], [], 0.2)[0]:
                connection, _ = self._listener.accept()
                connection.settimeout(30)
                waiting.append(Line(connection))
            for line in select.select(waiting, [], [], 0)[0]:
                waiting.remove(line)
                messages = line.read()
                if messages and messages[0].get("event") == "hello":
                    self.members[messages[0]["rank"]] = line
                    for message in messages[1:]:
                        self._note(messages[0]["rank"], message)
            if time.monotonic() > until:
                missing = sorted(set(range(self.size)) - set(self.members))
                return Failure(-1, f"processes {missing} did not come within {GATHER:.0f} s", final=True)
        self._start(None)
        return None

    def _start(self, cause: Failure | None) -> None:
        self.finished, self.stopped, self.failures = set(), None, []
        for line in self.members.values():
            line.heard = time.monotonic()
            line.send(
                do="start",
                generation=self.generation,
                what=self._what(),
                cause=asdict(cause) if cause else None,
            )

    def _what(self) -> str:
        if self.attempts > 1:
            return f"attempt {self.attempts} of {_ATTEMPTS} to connect the processes"
        return f"restart {self.generation} of {self.restarts}"

    def _watch(self) -> Failure | None:
        """Runs the job, as often as it may; why it failed in the end."""
        while True:
            lines = list(self.members.values())
            for line in select.select(lines, [], [], 0.1)[0]:
                rank = next(r for r, member in self.members.items() if member is line)
                messages = line.read()
                if messages is None:
                    return self._lost(rank, "its supervisor is gone: killed, or its machine is")
                for message in messages:
                    self._note(rank, message)
            for rank, line in self.members.items():
                if time.monotonic() - line.heard > SILENT:
                    return self._lost(rank, f"its supervisor has been silent for {SILENT:.0f} s")
            if self.failures and self.stopped is None and self._cause_is_known():
                self.stopped = set()
                for line in lines:
                    line.send(do="stop")
            elif self.stopped is not None and len(self.stopped) == self.size:
                cause = self._cause()
                if cause.status == NOT_JOINED and self.attempts < _ATTEMPTS and not self.asked:
                    self.attempts += 1
                elif cause.final or self.asked or self.generation >= self.restarts:
                    return cause
                else:
                    self.generation, self.attempts = self.generation + 1, 1
                time.sleep(1)
                self._start(cause)
            elif len(self.finished) == self.size:
                return None

    def _note(self, rank: int, message: dict) -> None:
        event = message.pop("event")
        if event == "done":
            self.finished.add(rank)
        elif event == "failed":
            self.failures.append(Failure(**message))
        elif event == "stopped" and self.stopped is not None:
            self.stopped.add(rank)
        elif event == "asked":
            self.asked = True

    def _cause_is_known(self) -> bool:
        """Known: a primary one; or no process is left to tell it; or two seconds went by without one."""
        return (
            not self._cause().secondary
            or len(self.failures) == self.size
            or time.time() - self._cause().time > 2
        )

    def _cause(self) -> Failure:
        return min(self.failures, key=lambda failure: (failure.secondary, failure.time))

    def _lost(self, rank: int, text: str) -> Failure:
        return self._cause() if self.failures else Failure(rank, text, True, time.time(), 1)
