"""Tells kinds of files by their first bytes."""

from pathlib import Path


def is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON text, and its opening brace.

    To be asked before anything else: the length's bytes may be those of another kind's mark, such as a
    pickle's 0x80 in every 32nd file.

    Args:
        path: The file.
        head: Its first nine bytes or more.
    """
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= path.stat().st_size
