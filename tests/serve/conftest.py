"""A server that all tests of this folder ask, and a way to start others."""

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def serving(load_file) -> ModuleType:
    """The program that measures servers, and starts them."""
    return load_file(ROOT / "docs" / "results" / "serving.py")


@pytest.fixture(scope="session")
def tiny(serving, tmp_path_factory) -> Path:
    """A checkpoint of three classes with Chinese names."""
    path = tmp_path_factory.mktemp("served") / "tiny.safetensors"
    serving.write_random(path, "sot_digits", serving.TINY)
    return path


@pytest.fixture(scope="session")
def server(serving, tiny):
    """A server of it with limits that tests can reach."""
    limits = ("--max-files", 12, "--max-request-mb", 2, "--max-megapixels", 1, "--timeout", 600)
    with serving.serving(tiny, *limits, "--max-queue", 16) as running:
        yield running


@pytest.fixture(scope="session")
def images(serving) -> list[bytes]:
    """Files of small images."""
    return serving.pictures(9, 60)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        """Its body, read as JSON."""
        return json.loads(self.text)


@pytest.fixture(scope="session")
def ask(serving):
    """Sends a request, to a session's server or another; a list of files is sent as a form."""

    def send(server, method: str, path: str, body: Any = None, headers: dict | None = None) -> Answer:
        headers = dict(headers or {})
        if isinstance(body, list):
            body, kind = serving.form(body)
            headers |= kind
        elif isinstance(body, dict):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(server.address, timeout=120)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
        finally:
            connection.close()

    return send


@pytest.fixture(scope="session")
def number(ask):
    """The sum of a metric's samples that have these labels."""
    from prometheus_client.parser import text_string_to_metric_families

    def read(server, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(ask(server, "GET", "/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    return read
