"""Loads the helpers of these tests, which are no tests themselves."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def writer() -> ModuleType:
    """Writes PyTorch's formats without PyTorch."""
    return _load(HERE / "torch_writer.py")


@pytest.fixture(scope="session")
def golden() -> ModuleType:
    """Reads the fixtures of the official code."""
    return _load(HERE.parent / "fixtures" / "golden" / "golden_rule.py")


@pytest.fixture(scope="session")
def torch_python() -> str:
    """A Python that has PyTorch, for processes of its own: PyTorch and Paddle in one process crash."""
    places = [os.environ.get("TORCH_PYTHON"), ROOT / ".venv-torch" / "bin" / "python", sys.executable]
    for place in filter(None, places):
        command = [str(place), "-c", "import torch"]
        if Path(place).exists() and not subprocess.run(command, check=False, capture_output=True).returncode:
            return str(place)
    pytest.skip("no PyTorch: pip install .[torch], or name a Python that has it in TORCH_PYTHON")
