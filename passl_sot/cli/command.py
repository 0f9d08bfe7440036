"""Shared by all commands: arguments, environment, and how each kind of failure ends."""

import argparse
import errno
import functools
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from passl_sot.cli.options import USAGE_ERROR, Parser
from passl_sot.config import UserError
from passl_sot.imageio.errors import ImageError
from passl_sot.launch.cpu_env import tune
from passl_sot.launch.supervisor import NOT_JOINED, REPORT, STOPPED, report_failure
from passl_sot.utils.logger import RESULT, get_logger, hush_paddle
from passl_sot.utils.require import require_paddle

INTERRUPTED = STOPPED[signal.SIGINT]
# Faults of a path given by the user, with their cures. Other OSErrors are ours: a traceback.
_PATH_FAULTS = {
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a file stands where a folder is needed; name another place",
    errno.EEXIST: "a file stands where a folder is needed; name another place",
    errno.EACCES: "choose a place that you may use, or change its permissions",
    errno.EPERM: "choose a place that you may use, or change its permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some space or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def command(run: Callable[[list[str] | None], int]) -> Callable[[list[str] | None], int]:
    """Makes Ctrl-C end a command with one word and its usual status."""

    @functools.wraps(run)
    def interruptible(argv: list[str] | None = None) -> int:
        try:
            return run(argv)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED

    return interruptible


@contextmanager
def importing() -> Iterator[None]:
    """Makes Ctrl-C end the process at once: inside Paddle's core, Python's own way becomes an ImportError."""

    def leave(number: int, frame: object) -> None:
        os.write(2, b"interrupted\n")
        os._exit(INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    # A process that was started to ignore Ctrl-C, or handles it already, goes on doing so.
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def guarded(run: Callable[[], int | None], *, paddle: bool = True) -> int:
    """Runs a command. Faults that the user can mend become one message; others end with a traceback.

    A command that needs Paddle (`paddle`) has it imported first.
    """
    try:
        if paddle:
            require_paddle()
            with importing():
                import passl_sot.engine.schema  # noqa: F401
            # Paddle's own handler, of which Python doesn't know, prints a stack as of a crash.
            main = threading.current_thread() is threading.main_thread()
            if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return run() or 0
    except (UserError, ImageError) as error:
        return fail(error, getattr(error, "status", USAGE_ERROR))
    except OSError as error:
        # Faults of a path are the user's to mend; the rest needs its traceback.
        if error.errno not in _PATH_FAULTS:
            report_failure(traceback.format_exc())
            raise
        # The path, where the system named one, its fault, and the cure.
        parts = (error.filename, error.strerror, _PATH_FAULTS[error.errno])
        return fail(": ".join(str(part) for part in parts if part is not None))
    except Exception:
        report_failure(traceback.format_exc())
        raise


def try_outputs(paths: Sequence[Path]) -> None:
    """Finds out before any work is done whether its results can be written; leaves no file behind.

    Raises:
        OSError: They can't; names the output.
    """
    import tempfile  # only for outputs: `--help` is to be quick

    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path.open("ab").close()
            else:
                tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def prepare(args: argparse.Namespace) -> None:
    """Sets how much is said, and the environment of a command that computes. Call before importing Paddle."""
    log = get_logger()
    log.setLevel(logging.INFO)
    if args.verbose:
        log.setLevel(logging.DEBUG)
    else:
        hush_paddle()
    if args.quiet:
        log.setLevel(RESULT)
    if getattr(args, "json", False):  # a program that reads standard output gets nothing else there
        log.setLevel(logging.WARNING)
    if "no_tune" in args:
        log.debug(tune(not args.no_tune))


def make_parser(
    name: str, description: str, config: bool = True, required: bool = True, computes: bool = True
) -> Parser:
    """A parser with the shared arguments.

    Args:
        config: The command takes a config file and overrides.
        required: It can't do without the file.
        computes: It runs a model, for which Paddle's environment is tuned.
    """
    parser = Parser(prog=f"passl-sot {name}", description=description)
    if config:
        parser.add_argument(
            "-c", "--config", required=required, metavar="CFG", help="YAML file or model name"
        )
        parser.add_argument(
            "-o",
            "--override",
            nargs="+",
            action="extend",
            default=[],
            metavar="KEY=VALUE",
            help="a.b.0.c=value, value as in YAML; +a.b=value adds a key whose section isn't there yet",
        )
    if computes:
        parser.add_argument("--no-tune", action="store_true", help="leave Paddle's CPU settings alone")
    said = parser.add_mutually_exclusive_group()
    said.add_argument("-q", "--quiet", action="store_true", help="only results, warnings and errors; no bars")
    said.add_argument("-v", "--verbose", action="store_true", help="also Paddle's settings and notices")
    return parser


def fail(error: BaseException | str, status: int = USAGE_ERROR) -> int:
    """Prints one message, leaves it for the supervising process, and gives the status to end with."""
    report_failure(f"error: {error}")
    # A supervising process tries a refused connection again, and prints this if that doesn't help.
    if status != NOT_JOINED or REPORT not in os.environ:
        print(f"error: {error}", file=sys.stderr)
    return status
