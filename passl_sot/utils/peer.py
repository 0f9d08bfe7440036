"""Another program that is timed in turns with this one."""

import shlex
import subprocess
from contextlib import suppress

from passl_sot.config import UserError


class PeerError(UserError, ValueError):
    """The other program broke the protocol; `words` is the last line that it printed, if it has ended."""

    words = ""


class Peer:
    """Another program that is timed batch by batch, used in a `with` block.

    It prints `ready` when it has warmed up. Then, for every line on its standard input, it runs one batch and
    prints the seconds it took; at the end of its input it ends.

    Args:
        command: Shell-like command line.

    Attributes:
        words: Lines that it printed before `ready`.

    Raises:
        PeerError: It can't be started, or answers something else.
    """

    def __init__(self, command: str):
        self.command = command
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(shlex.split(command), stdin=pipe, stdout=pipe, text=True)
        except OSError as error:
            raise PeerError(
                f"can't start {command!r}: {error.strerror}. It must be a command, as docs/performance.md "
                "shows one; names of libraries (timm, torchvision, ...) are for --mode data"
            ) from error
        self.words: list[str] = []
        while (line := self._line("`ready`")) != "ready":
            self.words.append(line)

    def run(self, task: str = "") -> float:
        """Has it run one batch, of a task where it has several; the seconds it reports."""
        return self.ask(task)[0]

    def ask(self, task: str = "") -> list[float]:
        """As `run`, for a task whose answer is a line of several numbers."""
        with suppress(BrokenPipeError):  # the answer below says why
            self._process.stdin.write(f"{task}\n")
            self._process.stdin.flush()
        line = self._line("seconds")
        try:
            return [float(word) for word in line.split()] or [float("")]
        except ValueError:
            message = f"{self.command!r} printed {line!r} where the seconds of a batch belong"
            raise PeerError(message) from None

    def _line(self, awaited: str) -> str:
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            error = PeerError(f"{self.command!r} ended with status {status} before it printed {awaited}")
            error.words = (self.words or [""])[-1]
            raise error
        return line.strip()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
