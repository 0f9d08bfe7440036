"""The error of everything that reads or writes weights."""

from passl_sot.config.errors import UserError

__all__ = ["CheckpointError"]


class CheckpointError(UserError, ValueError):
    """A file of weights can't be written or read; the message names the file and what to do."""
