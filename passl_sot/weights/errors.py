"""The error of everything that reads or writes weights."""

__all__ = ["CheckpointError"]


class CheckpointError(ValueError):
    """A file of weights can't be written or read; the message names the file and what to do."""
