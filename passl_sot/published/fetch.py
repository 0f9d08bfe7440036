"""One file over HTTPS: resumed, tried again, and believed only after its size and checksum are right.

By the standard library's urllib, which honours proxies and can be told which redirects to follow. pooch can't
resume and follows any redirect, and the downloader of huggingface_hub is for that site's own files.
"""

import http.client
import ipaddress
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from passl_sot.utils.files import sha256_of
from passl_sot.utils.logger import get_logger, progress_bar
from passl_sot.version import __version__
from passl_sot.weights import CheckpointError

_CHUNK = 1 << 18
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_UNSATISFIABLE = 416


class FetchError(CheckpointError):
    """A published file can't be had; the message has the address, the fault and the cure."""


class _Broken(Exception):
    """A transfer ended early, in a way that another attempt may mend."""


@dataclass(frozen=True)
class Patience:
    """How long a line may be bad: attempts without a byte of progress, and seconds."""

    attempts: int = 5
    pause: float = 1.0  # before the second attempt; doubled before each further one
    timeout: float = 30.0  # without an answer, or without a further byte


@dataclass(frozen=True)
class Expected:
    """What a file must be.

    Attributes:
        sizes: Least and most bytes.
        sha256: The first hexadecimal digits of its checksum, or all of them; "" where none is known.
    """

    sizes: tuple[int, int]
    sha256: str = ""

    def complaint(self, size: int, digest: str) -> str:
        """The fault of a file of so many bytes and that checksum; "" where it is right."""
        least, most = self.sizes
        if not least <= size <= most:
            wanted = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            return f"it has {size:,} bytes and should have {wanted}"
        if not digest.startswith(self.sha256):
            return f"its sha256 is {digest[: len(self.sha256)]}... and should be {self.sha256}"
        return ""


def download(url: str, target: Path, expected: Expected, patience: Patience | None = None) -> str:
    """Fetches a file; `target` is there whole or not at all, and what came of it so far is beside it.

    Call it under a lock: two at once would write into the same part.

    Returns:
        Its sha256.

    Raises:
        FetchError: It can't be had, or is another one than expected.
        OSError: It can't be written.
    """
    patience = patience or Patience()
    part = _Part(target)
    while True:
        resumed = _transfer(url, part, expected.sizes[1], patience)
        digest = sha256_of(part.path)
        fault = expected.complaint(part.size(), digest)
        if not fault:
            break
        part.remove()
        if not resumed:
            raise FetchError(f"{url}: {fault}; it was deleted")
        # The file may have changed in between without a sign: once more, from its beginning.
        get_logger().warning("%s: %s; fetched anew", url, fault)
    os.replace(part.path, target)
    part.remove()
    return digest


class _Part:
    """What has come of a file so far, and by what the server knows whether that is still its beginning."""

    def __init__(self, target: Path):
        self.path = target.with_name(f"{target.name}.part")
        self.tag_path = target.with_name(f"{target.name}.part.tag")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def tag(self) -> str:
        return self.tag_path.read_text(encoding="utf-8") if self.tag_path.exists() else ""

    def begin(self, tag: str) -> None:
        # In this order: whenever this is interrupted, no tag stands beside bytes of another file.
        self.remove()
        # New files: in a folder that others use too, a link to somewhere else could stand there.
        self.path.open("xb").close()
        with self.tag_path.open("x", encoding="utf-8") as file:
            file.write(tag)

    def remove(self) -> None:
        self.tag_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def _transfer(url: str, part: _Part, most: int, patience: Patience) -> bool:
    """Fills the part, in several attempts where needed; whether bytes of an earlier attempt are in it."""
    failures = 0
    while True:
        before = part.size()
        try:
            return _receive(url, part, most, patience)
        except _Broken as error:
            if part.size() > before:
                failures = 0  # a large file over a bad line may take many attempts
            failures += 1
            if failures >= patience.attempts:
                kept = f"{part.size():,} bytes are kept, and the same command goes on from there"
                raise FetchError(f"{url}: {error}, {patience.attempts} times; {kept}") from error
            pause = patience.pause * 2 ** (failures - 1)
            get_logger().warning("%s: %s; again in %g s", url, error, pause)
            time.sleep(pause)


def _receive(url: str, part: _Part, most: int, patience: Patience) -> bool:
    """One attempt; whether it went on from an earlier one. A _Broken where another may succeed."""
    had = part.size() if part.tag() else 0
    headers = {"User-Agent": f"passl_sot/{__version__}", "Accept-Encoding": "identity"}
    if had:
        # If-Range: a file that has changed comes from its beginning, as an answer 200.
        headers |= {"Range": f"bytes={had}-", "If-Range": part.tag()}
    with _open(url, headers, part, patience.timeout) as answer:
        if "html" in answer.headers.get_content_type():
            raise FetchError(
                f"{url}: a web page came instead of the file (a login, or a warning of the host)"
            )
        whole = _whole_size(answer, had, part)
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            had = 0
            part.begin(_tag_of(answer))
        if whole is not None and whole > most:
            part.remove()
            raise FetchError(
                f"{url}: the server has a file of {whole:,} bytes, and {most:,} are the most here"
            )
        _copy(url, answer, part, whole, most)
    return had > 0


def _open(url: str, headers: dict[str, str], part: _Part, timeout: float) -> http.client.HTTPResponse:
    check_address(url, urlsplit(url).hostname)
    handlers: list[Any] = [_Redirects()]
    if is_loopback(urlsplit(url).hostname):
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy has another loopback
    opener = urllib.request.build_opener(*handlers)
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _UNSATISFIABLE:
            part.remove()
            raise _Broken("what was kept of the file is no beginning of it any more") from error
        if error.code in _BUSY:
            raise _Broken(f"the server answers {error.code} {error.msg}") from error
        # urllib's own words on loops, and on addresses such as file:, have several lines.
        raise FetchError(f"{url}: the server answers {error.code} {' '.join(error.msg.split())}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror | ssl.SSLCertVerificationError):
            raise FetchError(f"{url}: can't connect ({error.reason})") from error
        raise _Broken(f"can't connect ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"the connection broke ({error or type(error).__name__})") from error


def _whole_size(answer: http.client.HTTPResponse, had: int, part: _Part) -> int | None:
    """The whole file's size as the server states it, after a check that a partial answer fits the part."""
    if answer.status == http.HTTPStatus.OK:
        return answer.length  # None where it isn't stated
    reach, _, whole = answer.headers.get("Content-Range", "").partition("/")
    tag = _tag_of(answer)
    if not had or not reach.startswith(f"bytes {had}-") or (tag and tag != part.tag()):
        part.remove()
        raise _Broken("the server answers with another part of the file than was asked for")
    return int(whole) if whole.isdecimal() else None


def _tag_of(answer: http.client.HTTPResponse) -> str:
    """By what an unchanged file is known; "" where the server gives nothing that suffices."""
    tag = answer.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):  # a weak one allows for other bytes
        return tag
    return answer.headers.get("Last-Modified", "")


def _copy(url: str, answer: http.client.HTTPResponse, part: _Part, whole: int | None, most: int) -> None:
    size = part.size()
    with (
        part.path.open("ab") as file,
        progress_bar(total=whole, initial=size, desc=part.path.stem, unit="B", unit_scale=True) as bar,
    ):
        while True:
            try:
                chunk = answer.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(f"the connection broke ({error or type(error).__name__})") from error
            if not chunk:
                break
            if not size and chunk.lstrip()[:1] == b"<":
                part.remove()
                raise FetchError(f"{url}: a web page came instead of the file")
            size += len(chunk)
            if size > most:
                part.remove()
                raise FetchError(f"{url}: more than {most:,} bytes came, the most that the file may have")
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if whole is not None and size < whole:
        raise _Broken(f"the transfer ended after {size:,} of {whole:,} bytes")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https alone; from this machine also to itself."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_address(newurl, urlsplit(req.full_url).hostname)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_address(url: str, asker: str | None = None) -> None:
    """Refuses all but https; http within this machine, where nobody listens in, is for mirrors and tests."""
    place = urlsplit(url)
    if "@" in place.netloc:
        # It would stand in logs and notes, and isn't sent either.
        raise FetchError(f"an address at {place.hostname} holds a user's name or password: leave it out")
    local = place.scheme == "http" and is_loopback(place.hostname) and is_loopback(asker)
    if place.scheme != "https" and not local:
        raise FetchError(f"{url}: only https is fetched from")


def is_loopback(host: str | None) -> bool:
    """Whether a name or an address is within this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
