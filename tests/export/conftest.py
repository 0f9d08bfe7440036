"""What a checkpoint says of its model, which exports are made of."""

import pytest

from passl_sot.export.source import read_source


@pytest.fixture
def meta(trained) -> dict:
    """The header of the tests' small model, anew for each test, which may change it."""
    return read_source(trained.checkpoint)[1]
