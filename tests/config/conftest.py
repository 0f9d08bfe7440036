"""What the tests of the configuration language share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from passl_sot.config import Config, get_config


@pytest.fixture
def parse_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    """Reads YAML text from a file of the current folder, `text.yaml`."""
    monkeypatch.chdir(tmp_path)

    def parse(text: str) -> Config:
        Path("text.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        return get_config("text.yaml")

    return parse
