"""Runs pytest with Paddle's fast settings, which must stand before Python starts."""

import sys

import pytest

from passl_sot.launch.cpu_env import tune

if __name__ == "__main__":
    tune()
    sys.exit(pytest.main(sys.argv[1:]))
