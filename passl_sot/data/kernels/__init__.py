"""Compiled loops of the data layer, where numba is installed (``pip install .[fast]``); the same results."""
