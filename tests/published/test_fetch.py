"""Fetching of one file, from a server that does all that servers and lines do."""

import hashlib
import itertools
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from passl_sot.published.fetch import Expected, FetchError, Patience, download

from .conftest import send

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
SIZES = (1, 400_000)
QUICK = Patience(attempts=3, pause=0.0)


@pytest.fixture
def get(tmp_path):
    """Fetches an address into a file; gives its content, and looks that nothing is left beside it."""

    def run(url: str, expected=Expected(SIZES), patience=QUICK) -> bytes:  # noqa: B008
        target = tmp_path / "file"
        digest = download(url, target, expected, patience)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        content = target.read_bytes()
        assert digest == hashlib.sha256(content).hexdigest()
        return content

    return run


def in_turn(*answers):
    """Answers differently each time, and from then on like the last."""
    rest = itertools.chain(answers, itertools.repeat(answers[-1]))
    return lambda handler: next(rest)(handler)


def part(content=CONTENT, **more):
    return lambda handler: send(handler, content, **more)


def raw(status: int, body: bytes = b"", **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_a_whole_file(web, get):
    assert get(web.put("f", CONTENT)) == CONTENT
    assert get(web.put("f", CONTENT), Expected((300_000, 300_000), hashlib.sha256(CONTENT).hexdigest()))


def test_a_line_that_breaks_goes_on_where_it_broke(web, get):
    """More often than the attempts without progress would allow."""
    web.answers["f"] = in_turn(*[part(limit=50_000)] * 5, part())
    assert get(web.address + "f") == CONTENT
    starts = [None, *(f"bytes={n}-" for n in range(50_000, 300_000, 50_000))]
    assert [wanted for _, wanted in web.asked] == starts


def test_a_server_without_ranges(web, get):
    web.answers["f"] = in_turn(part(limit=50_000, ranges=False), part(ranges=False))
    assert get(web.address + "f") == CONTENT
    assert [wanted for _, wanted in web.asked] == [None, "bytes=50000-"]


def test_a_server_that_gives_nothing_to_know_the_file_by(web, get):
    web.answers["f"] = in_turn(part(limit=50_000, tag='W/"1"'), part(tag='W/"1"'))
    assert get(web.address + "f") == CONTENT
    assert [wanted for _, wanted in web.asked] == [None, None]


def test_a_file_that_changes_in_between_is_begun_anew(web, get):
    web.answers["f"] = in_turn(part(limit=50_000), part(OTHER, tag='"2"'))
    assert get(web.address + "f") == OTHER
    # A server that answers with a part of the new file all the same.
    partial = {"Content_Range": "bytes 50000-299999/300000", "ETag": '"2"', "Content_Length": "250000"}
    web.answers["f"] = in_turn(
        part(limit=50_000), raw(206, OTHER[50_000:], **partial), part(OTHER, tag='"2"')
    )
    assert get(web.address + "f") == OTHER


def test_a_changed_file_under_an_old_tag_is_known_by_its_checksum(web, get):
    web.answers["f"] = in_turn(part(limit=50_000), part(OTHER))
    expected = Expected(SIZES, hashlib.sha256(OTHER).hexdigest())
    assert get(web.address + "f", expected) == OTHER
    assert [wanted for _, wanted in web.asked] == [None, "bytes=50000-", None]


def test_other_parts_than_asked_for(web, get):
    wrong = raw(206, b"x" * 10, Content_Range="bytes 0-9/10")
    web.answers["f"] = in_turn(part(limit=50_000), wrong, part())
    assert get(web.address + "f") == CONTENT
    web.answers["f"] = in_turn(part(limit=50_000), raw(416), part())
    assert get(web.address + "f") == CONTENT


def test_a_busy_server_and_one_that_hangs(web, get):
    def hang(handler):
        send(handler, CONTENT, limit=50_000)
        web.done.wait()

    web.answers["f"] = in_turn(raw(503), hang, part())
    assert get(web.address + "f", patience=Patience(attempts=50, pause=0.0, timeout=0.3)) == CONTENT


def test_always_cut_short(web, tmp_path):
    web.answers["f"] = part(limit=50_000, ranges=False)
    with pytest.raises(
        FetchError, match=r"ended after 50,000 of 300,000 bytes, 3 times; 50,000 bytes are kept"
    ):
        download(web.address + "f", tmp_path / "f", Expected(SIZES), QUICK)
    assert not (tmp_path / "f").exists()
    # The next call goes on.
    web.answers["f"] = part()
    download(web.address + "f", tmp_path / "f", Expected(SIZES), QUICK)
    assert web.asked[-1][1] == "bytes=50000-" and (tmp_path / "f").read_bytes() == CONTENT


PAGE = b"\n <!DOCTYPE html><title>Google Drive - Virus scan warning</title>"
LOOP = "the server answers 301"


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (part(), Expected(SIZES, "00ff"), r"its sha256 is \w{4}\.\.\. and should be 00ff; it was deleted"),
        (part(), Expected((301_000, 301_000)), "it has 300,000 bytes and should have 301,000"),
        (part(), Expected((1, 1000)), "the server has a file of 300,000 bytes, and 1,000 are the most"),
        (raw(200, CONTENT), Expected((1, 1000)), "more than 1,000 bytes came"),
        (part(b"Sign in", kind="text/html; charset=utf-8"), Expected(SIZES), "a web page came instead"),
        (part(PAGE), Expected(SIZES), "a web page came instead"),
        (raw(404), Expected(SIZES), "the server answers 404 Not Found"),
        (raw(403), Expected(SIZES), "the server answers 403"),
        (raw(500), Expected(SIZES), "the server answers 500 Internal Server Error, 3 times"),
        (raw(301, Location="/f"), Expected(SIZES), "the server answers 301 .*infinite loop"),
        (raw(302, Location="file:///etc/passwd"), Expected(SIZES), "file:///etc/passwd.* is not allowed"),
        (raw(302, Location="http://example.org/f"), Expected(SIZES), "http://example.org/f: only https"),
        (raw(302, Location="ftp://127.0.0.1/f"), Expected(SIZES), "ftp://127.0.0.1/f: only https"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals_leave_nothing(web, tmp_path, answer, expected, words):
    web.answers["f"] = answer
    with pytest.raises(FetchError, match=words) as caught:
        download(web.address + "f", tmp_path / "f", expected, QUICK)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_moved_file(web, get):
    web.answers["f"] = raw(302, Location="/elsewhere")
    web.put("elsewhere", CONTENT)
    assert get(web.address + "f") == CONTENT


@pytest.mark.parametrize(
    "url", ["http://example.org/f", "ftp://example.org/f", "file:///etc/passwd", "f.pth"]
)
def test_addresses_that_are_not_asked(url, tmp_path):
    with pytest.raises(FetchError, match="only https is fetched from"):
        download(url, tmp_path / "f", Expected(SIZES), QUICK)


def test_nobody_there(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/f"
        with pytest.raises(FetchError, match=r"can't connect \(.*refused\), 3 times"):
            download(url, tmp_path / "f", Expected(SIZES), QUICK)


CHILD = """
import sys
from pathlib import Path
from passl_sot.published.fetch import Expected, download
download(sys.argv[1], Path(sys.argv[2]), Expected((1, 400_000)))
"""


def test_a_killed_process(web, tmp_path, get):
    def half(handler):
        send(handler, CONTENT, limit=150_000)
        handler.wfile.flush()
        web.done.wait()

    web.answers["f"] = in_turn(half, part())
    started = tmp_path / "file.part"
    child = subprocess.Popen([sys.executable, "-c", CHILD, web.address + "f", str(tmp_path / "file")])
    try:
        while not started.exists() or started.stat().st_size < 100_000:
            assert child.poll() is None
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    kept = started.stat().st_size
    assert get(web.address + "f") == CONTENT
    assert web.asked[-1][1] == f"bytes={kept}-"
