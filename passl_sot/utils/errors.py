"""What all errors have in common that a user can mend."""

from typing import ClassVar

__all__ = ["UserError"]


class UserError(Exception):
    """Ends a command with its message alone, without a traceback.

    Attributes:
        status: What the command leaves with.
        final: Starting it again would end the same way.
    """

    status: ClassVar[int] = 2
    final: ClassVar[bool] = True
