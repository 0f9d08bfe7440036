"""Files of text: their bytes, and what is said where these aren't in their encoding."""

from passl_sot.config import zh
from passl_sot.data.errors import DataError
from passl_sot.imageio.errors import ImageError
from passl_sot.imageio.files import read_text


def read_bytes(path: str) -> bytes:
    """The bytes of a file of text; a DataError where it can't be read."""
    try:
        return read_text(path)
    except ImageError as error:
        raise DataError(f"{path} can't be read ({error.reason})" + zh("list_unreadable")) from error


def not_in_encoding(path: str, error: UnicodeDecodeError, advice: str, encoding: str = "utf-8") -> DataError:
    """What tells of bytes of a file that aren't in an encoding, by its line; `advice` ends the sentence."""
    line = error.object.count(b"\n", 0, error.start) + 1
    return DataError(f"{path}:{line}: not {encoding.upper()}{advice}" + zh("save_as_utf8"))
