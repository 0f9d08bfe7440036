"""A web server on this machine that behaves as it is told, and a tiny model that is "published" on it."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import paddle
import pytest

CARDS = """
families:
  Tiny:
    page: https://example.org/tiny
    base: {base}
    code_license: MIT
    files:
      tiny: {{file: tiny.pth, sha256: "{sha256}", size: {size}, config: {config}, top1: 50.0}}
      unstated: {{file: unstated.pth, config: {config}}}
      by_hand: {{file: hand.pth, url: "", drive: "https://drive.google.com/x", config: {config}}}
unreleased:
  never: {{nearest: tiny}}
"""


@dataclass
class Web:
    """A running server: what it answers by path, without the first slash, and what it was asked."""

    address: str
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    done: threading.Event = field(default_factory=threading.Event)  # answers that hang end with it

    def put(self, path: str, content: bytes, **more) -> str:
        """Has a file answered; returns its address."""
        self.answers[path] = lambda handler: send(handler, content, **more)
        return self.address + path


def send(handler, content: bytes, tag='"1"', ranges=True, limit=None, kind="application/octet-stream"):
    """Answers with a file, or of it `limit` bytes at most, after which the connection ends."""
    start = 0
    wanted = handler.headers.get("Range")
    if wanted and ranges and handler.headers.get("If-Range") == tag:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if tag:
        handler.send_header("ETag", tag)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    end = len(content) if limit is None else start + limit
    handler.wfile.write(content[start:end])


@pytest.fixture
def web():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            served.asked.append((self.path, self.headers.get("Range")))
            answer = served.answers.get(self.path.partition("?")[0].removeprefix("/"))
            if answer is None:
                self.send_error(404)
                return
            answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = Web(f"http://127.0.0.1:{server.server_port}/")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield served
    served.done.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def tiny(write_experiment, tmp_path_factory, writer):
    """An experiment's file, its model with weights, and these as its authors would publish them."""
    from passl_sot import create_model
    from passl_sot.interop import export_state_dict

    folder = tmp_path_factory.mktemp("tiny")
    config = write_experiment(folder)
    paddle.seed(7)
    model = create_model(str(config))
    official = export_state_dict(model, {name: value.numpy() for name, value in model.state_dict().items()})
    tensors = {name: writer.Tensor.of(value) for name, value in official.items()}
    content = writer.write_zip(folder / "tiny.pth", {"state_dict": tensors}).read_bytes()
    return SimpleNamespace(config=config, model=model, content=content, folder=folder)


@pytest.fixture
def published(web, tiny, tmp_path, monkeypatch):
    """The tiny model on the server, with cards for it and an empty cache folder."""
    cards = tmp_path / "cards.yaml"
    sha256 = hashlib.sha256(tiny.content).hexdigest()
    facts = {"sha256": sha256[:8], "size": len(tiny.content), "config": tiny.config}
    cards.write_text(CARDS.format(base=web.address, **facts), encoding="utf-8")
    for name in ("tiny.pth", "unstated.pth"):
        web.put(name, tiny.content)
    monkeypatch.setenv("PASSL_SOT_CARDS", str(cards))
    monkeypatch.setenv("PASSL_SOT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PASSL_SOT_OFFLINE")
    return SimpleNamespace(web=web, cards=cards, home=tmp_path / "home", sha256=sha256, **vars(tiny))
