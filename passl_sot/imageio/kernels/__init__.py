"""Compiled loops, where numba is installed; the same results."""
