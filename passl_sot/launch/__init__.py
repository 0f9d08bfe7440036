"""Processes of a run: how they are started, watched, and meet."""
