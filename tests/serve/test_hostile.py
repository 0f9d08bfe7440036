"""Uploads that mean harm: each is refused in the one form, and the server goes on."""

import base64
import io
import json
import pickle
import socket
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

FORM = {"Content-Type": "multipart/form-data; boundary=b"}
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def goes_on(server, ask, images, number):
    """Behind every test the server answers, and holds nothing."""
    yield
    assert ask(server, "POST", "/predict", [images[0]]).status == 200
    assert number(server, "passl_sot_queue_length") == 0


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    """A PNG file of that many black pixels, which is small."""
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_bombs_are_not_decoded(server, ask):
    before = server.memory()
    gif = io.BytesIO()
    Image.new("L", (4000, 4000)).save(gif, "GIF")
    for bomb in (png_of(30_000, 30_000), png_of(1001, 1000), gif.getvalue()):
        answer = ask(server, "POST", "/predict", [bomb])
        assert (answer.status, answer.json["error"]["code"]) == (413, "too_many_pixels"), answer.text
    # A header that lies: the pixels aren't there.
    column = ask(server, "POST", "/predict", [png_of(1, 900_000)])
    assert column.json["error"]["message"] == "0: 1x900000 pixels, and a side may have 65,535", column.text
    # A scan of all pixels in a few bytes, again and again: each upload could take a day.
    jpeg = io.BytesIO()
    Image.new("RGB", (900, 900)).save(jpeg, "JPEG", progressive=True)
    data = jpeg.getvalue()
    assert ask(server, "POST", "/predict", [data]).status == 200
    scan = data[data.rindex(b"\xff\xda") : -2]
    answer = ask(server, "POST", "/predict", [data[:-2] + 20 * scan + data[-2:]])
    assert (answer.status, answer.json["error"]["code"]) == (413, "too_many_pixels"), answer.text
    lying = png_of(8, 8).replace(struct.pack(">II", 8, 8), struct.pack(">II", 60_000, 60_000))
    assert ask(server, "POST", "/predict", [lying]).status in (413, 422)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000), 9))
    small = png_of(8, 8)
    place = small.index(b"IDAT") - 4
    assert ask(server, "POST", "/predict", [small[:place] + text + small[place:]]).status in (200, 422)
    assert server.memory() < before + 100


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"<html><script>alert(1)</script></html>",
        pickle.dumps(np.zeros(9)),
        b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 1000,
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_what_is_no_image_is_not_read_as_one(server, ask, data):
    answer = ask(server, "POST", "/predict", [data])
    assert (answer.status, answer.json["error"]["code"]) == (422, "unreadable_image"), answer.text
    assert "<" not in answer.text


def test_truncated_images_are_refused(server, ask, serving):
    for data in serving.pictures(4, 200):
        for share in (0.1, 0.5, 0.9):
            answer = ask(server, "POST", "/predict", [data[: int(share * len(data))]])
            assert answer.status == 422, answer.text


def start_of(name: str) -> bytes:
    """How a file's part of such a form begins."""
    return f'--b\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()


def test_names_open_and_tell_nothing(server, ask, images):
    for name in ("../../etc/passwd", "/etc/passwd", "C:\\Users\\x\\passwd", "a/passwd", "passwd"):
        body = start_of(name) + images[0] + b"\r\n--b--\r\n"
        answer = ask(server, "POST", "/predict", body, FORM)
        assert answer.json["predictions"][0]["path"] == "passwd", answer.text
    name = "\x00<b>" + "n" * 1000 + "猫.png"
    body = start_of(name) + b"no\r\n--b--\r\n"
    answer = ask(server, "POST", "/predict", body, FORM)
    assert answer.status == 422 and json.loads(answer.text)


def test_charsets_of_names(server, ask, images):
    """A client may name any of Python's, and some give text that can't be encoded, or fail in other ways."""
    for charset in ("unicode_escape", "punycode", "undefined", "utf-8"):
        kind = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
        answer = ask(
            server, "POST", "/predict", start_of("a..\\\\ud800") + images[0] + b"\r\n--b--\r\n", kind
        )
        assert answer.status == (200 if charset == "utf-8" else 400), (charset, answer.text)


def test_what_was_sent_is_not_sent_back_at_length(server, ask):
    answer = ask(server, "POST", "/predict", {"images": ["AAAA"], "k" * 100_000: 1})
    assert answer.status == 422 and len(answer.text) < 300


def test_too_much_is_refused_however_it_is_told(server, ask):
    large = bytes(2_100_000)
    assert ask(server, "POST", "/predict", large, FORM).json["error"]["code"] == "request_too_large"

    # In chunks, without a Content-Length.
    for kind, first in ((FORM, start_of("a")), ({"Content-Type": "application/json"}, b'{"images":["')):
        chunks = (data for data in (first, *[b"a" * 100_000] * 30))
        answer = ask(server, "POST", "/predict", chunks, kind)
        assert (answer.status, answer.json["error"]["code"]) == (413, "request_too_large")
    text = base64.b64encode(large).decode()
    assert ask(server, "POST", "/predict", {"images": [text]}).status == 413


def test_many_small_parts_and_deep_json_cost_little(server, ask):
    before = server.memory()
    part = start_of("a") + b"\r\n"
    answer = ask(server, "POST", "/predict", part * 20_000, FORM)
    assert (answer.status, answer.json["error"]["code"]) == (413, "too_many_files")
    field = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n'
    assert ask(server, "POST", "/predict", field * 20_000, FORM).json["error"]["code"] == "bad_request"
    header = b"--b\r\n" + b"X: y\r\n" * 300_000
    assert ask(server, "POST", "/predict", header, FORM).json["error"]["code"] == "bad_request"
    plain = {"Content-Type": "application/json"}
    for body in (b"[" * 1_000_000, b'{"images":' * 100_000, b'{"images":[' + b"[]," * 600_000):
        answer = ask(server, "POST", "/predict", body, plain)
        assert answer.status in (413, 422), answer.text
    assert ask(server, "POST", "/predict", b'{"images":[' + b"1," * 900_000, plain).status == 413
    assert ask(server, "POST", "/predict", b'{"top_k":' + b"9" * 1_000_000, plain).status in (400, 422)
    assert server.memory() < before + 100


@pytest.fixture(scope="module")
def hasty(serving, tiny):
    """A server that waits for a second, at an address of the loopback that has no name."""
    with serving.serving(tiny, "--timeout", 1, "--host", "127.0.0.2") as running:
        yield running


def test_every_address_of_the_loopback_knows_its_names(hasty, ask):
    assert ask(hasty, "GET", "/health").status == 200
    assert ask(hasty, "GET", "/health", headers={"Host": "elsewhere.example"}).status == 400


def connected(server, timeout: float | None = None) -> socket.socket:
    """A connection to a server, for bytes that no client would send."""
    host, port = server.address.split(":")
    return socket.create_connection((host, int(port)), timeout)


def raw(server, data: bytes) -> bytes:
    """What comes back on a connection that sends these bytes and then waits."""
    with connected(server, timeout=120) as connection:
        connection.sendall(data)
        found = b""
        while True:
            more = connection.recv(65536)
            found += more
            if not more:
                return found


def test_slow_clients_are_cut_off(hasty):
    """By the server: none of these sends more, or closes."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
    kind = b"Content-Type: application/json\r\n"
    sent = {
        b"": b"",
        b"POST /pre": b"",
        head: b"",
        head + kind + b"Content-Length: 90\r\n\r\n{": b"request_timeout",
        head + kind + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n": b"request_timeout",
    }
    answers = {}
    threads = [
        threading.Thread(target=lambda data=data: answers.update({data: raw(hasty, data)})) for data in sent
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for data, wanted in sent.items():
        assert wanted in answers[data], data
        assert not wanted or answers[data].startswith(b"HTTP/1.1 408"), data


def test_who_does_not_read_is_cut_off(hasty):
    """Its answers soon fill what the system keeps for it."""
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(hasty) as connection, pytest.raises(OSError):
        while True:
            connection.sendall(request * 100)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: two\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_what_is_no_http_is_one_error_too(server, data):
    head, _, body = raw(server, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "bad_request"


def test_a_client_that_leaves_is_no_fault(server, images, serving, number):
    body, headers = serving.form(images)
    lines = [f"{key}: {value}\r\n" for key, value in {"Host": "localhost", **headers}.items()]
    head = f"POST /predict HTTP/1.1\r\n{''.join(lines)}Content-Length: {len(body)}\r\n\r\n".encode()
    before = number(server, "passl_sot_requests_total", status="500")
    for sent in (head, head + body[: len(body) // 2], head + body):
        for _ in range(5):
            with connected(server) as connection:
                connection.sendall(sent)
    assert number(server, "passl_sot_requests_total", status="500") == before


def test_a_full_queue_says_when_to_come_again(server, ask, images, number):
    """Sixteen images may be in the queue: requests that are still being sent count too."""
    kind = b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n" + kind
    waiting = [connected(server) for _ in range(14)]
    for connection in waiting:
        connection.sendall(head)
    while number(server, "passl_sot_queue_length") < 14:
        pass
    assert ask(server, "POST", "/predict", images[:2]).status == 200
    answer = ask(server, "POST", "/predict", images[:3])
    assert (answer.status, answer.json["error"]["code"]) == (429, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    assert ask(server, "GET", "/health").status == 200
    for connection in waiting:
        connection.close()
    while number(server, "passl_sot_queue_length"):
        pass
