"""Compiled loops, where numba is installed (``pip install .[fast]``); the same results."""
