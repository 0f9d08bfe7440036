"""Files of weights: reading what others wrote without running any of it. NumPy only."""

from pathlib import Path

from passl_sot.config import UserError


class CheckpointError(UserError, ValueError):
    """A file of weights can't be written or read; the message names the file and the cure."""


def is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file of these first nine bytes or more is safetensors: a JSON text's length, and "{"."""
    # Asked before anything else: the length's bytes may be those of another kind's mark, such as a pickle's
    # 0x80 in every 32nd file.
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= path.stat().st_size
