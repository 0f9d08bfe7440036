"""The cache's folder of each test."""

from pathlib import Path

import pytest

from passl_sot.utils.cache import HOME


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """The folder of the cache, which begins empty."""
    monkeypatch.setenv(HOME, str(tmp_path / "home"))
    return tmp_path / "home"
