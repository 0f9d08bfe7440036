"""Reading files that anyone may have put there: regular ones alone, and none that memory has no room for."""

import errno
import os
import stat
from collections.abc import Callable

from passl_sot.imageio.errors import ImageError, NoImageFile

# Environment variable: megabytes of the largest file that is read.
LIMIT = "PASSL_SOT_MAX_FILE_MB"
_DEFAULT_MB = 1000
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def max_file_bytes() -> int:
    """Bytes of the largest file that is read; an ImageError where the environment doesn't give a number."""
    text = os.environ.get(LIMIT, str(_DEFAULT_MB))
    if not (text.isascii() and text.isdecimal() and len(text) < 16 and int(text)):
        raise ImageError(f"environment variable {LIMIT}", f"must be a number of megabytes, got '{text}'")
    return int(text) * 1_000_000


def read_file(path: str) -> bytes:
    """The bytes of a file.

    Raises:
        NoImageFile: It is empty, no regular file, or larger than `max_file_bytes`.
        ImageError: It isn't there, or can't be read.
    """
    return read_part(path, 0, file_size(path))


def read_text(path: str) -> bytes:
    """The bytes of a list or another text: of a file, or of a pipe, such as a shell's `<(...)`.

    Raises:
        ImageError: It can't be read, is of another kind, or larger than `max_file_bytes`.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                raise ImageError(path, "is a device")
            check_size(path, status.st_size)
            data = file.read(max_file_bytes() + 1)
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error
    check_size(path, len(data))
    return data


def read_part(path: str, start: int, size: int) -> bytes:
    """The `size` bytes of a regular file that begin at `start`, or fewer where it ends before.

    Errors are those of `read_file`.
    """
    check_size(path, size)
    if not size:
        raise NoImageFile(path, "the file is empty (0 bytes)")
    return read_parts(path, (start, size))[0]


def check_size(path: str, size: int) -> None:
    """A NoImageFile where `path`, of that many bytes, is larger than `max_file_bytes`."""
    most = max_file_bytes()
    if size > most:
        raise NoImageFile(
            path,
            f"has {size / 1e6:,.0f} MB, and files of up to {most // 1_000_000:,} MB are read "
            f"(environment variable {LIMIT})",
        )


def file_size(path: str) -> int:
    """Bytes of a regular file; else an error of `read_file`."""
    return file_status(path).st_size


def file_status(path: str) -> os.stat_result:
    """What the system knows of a regular file; else an error of `read_file`."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, ValueError) as error:  # no file has a name with a zero byte in it
        raise ImageError(path, "no such file") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NoImageFile(path, "a link that leads back to itself") from error
        raise _unopened(path, error) from error
    if stat.S_ISREG(status.st_mode):
        return status
    words = next((words for is_kind, words in _KINDS if is_kind(status.st_mode)), "no regular file")
    raise NoImageFile(path, f"is {words}, not an image file")


def read_parts(path: str, *parts: tuple[int, int]) -> list[bytes]:
    """Several parts, (start, length) each, of a file that is known to be regular; shorter at its end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return [_read(descriptor, start, length) for start, length in parts]
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unopened(path, error) from error


def _read(descriptor: int, start: int, length: int) -> bytes:
    data = os.pread(descriptor, length, start)
    # One call gives 2 GB at most.
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), start + len(data))
        if not more:
            break
        data += more
    return data


def _unopened(path: str, error: OSError) -> ImageError:
    return ImageError(path, f"can't be opened ({error.strerror or error})")
