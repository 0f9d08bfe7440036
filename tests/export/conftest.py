"""The checkpoint and the export of the tests' small model, by names of their own."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint(trained) -> Path:
    """A checkpoint, in a run's folder, of the experiment beside that."""
    return trained.checkpoint


@pytest.fixture(scope="session")
def exported(trained) -> Path:
    """The folder of its export in all formats."""
    return trained.folder
