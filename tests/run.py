"""Runs pytest with Paddle's fast settings, which must stand before Python starts."""

import os
import sys

import pytest

from passl_sot.launch.cpu_env import tune

if __name__ == "__main__":
    # Containers often set it; each of some hundred processes would compile the project's code anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    tune()
    sys.exit(pytest.main(sys.argv[1:]))
