"""Numbers that the launcher of several processes gives by environment variables."""

import os
import re

from passl_sot.config import UserError


class EnvironmentVariableError(UserError, ValueError):
    """An environment variable holds something that it can't mean."""


def launcher_number(name: str, default: int | None = None, *, least: int = 1, most: int = 2**31 - 1) -> int:
    """The whole number that an environment variable holds, or the default where it isn't set.

    Raises:
        EnvironmentVariableError: It is no such number; or not set, and there is no default.
    """
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    number = int(text) if text and re.fullmatch("[0-9]{1,10}", text) else -1
    if not least <= number <= most:
        found = "not set" if text is None else repr(text)
        raise EnvironmentVariableError(
            f"the environment variable {name} is {found}, and must be a whole number from {least} to {most}: "
            "start several processes by python -m paddle.distributed.launch, which sets it, or unset "
            "PADDLE_TRAINERS_NUM and PADDLE_TRAINER_ID for one process"
        )
    return number
