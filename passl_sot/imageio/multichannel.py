"""Images of any number of channels: satellite bands, depth, fluorescence.

| file | channels |
|---|---|
| `.npy`, uint8 [H, W, C] (read without pickle) | its last axis |
| gray + alpha, RGB, RGBA, CMYK | as stored, alpha included |
| TIFF (or GIF) of several gray pages of one size | a page each |
"""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image, ImageSequence

from passl_sot.imageio.decode import FORMATS, check_size, decode, read_file, unreadable
from passl_sot.imageio.errors import ImageError

ARRAY_ENDING = ".npy"
_MODES = ("L", "LA", "RGB", "RGBA", "CMYK")


def read_image(path: str | os.PathLike[str], *, apply_exif: bool, channels: int) -> np.ndarray:
    """Reads an image for a model of so many channels: as RGB for 1 and 3, else all channels that it has."""
    if channels in (1, 3):
        return decode(path, apply_exif=apply_exif)
    return decode_multichannel(path)


def decode_multichannel(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads all channels of an image, uint8 [H, W, C], as the table at the top of this module says.

    Raises:
        ImageError: The file can't be read.
    """
    name = os.fspath(path)
    data = read_file(name)
    try:
        read = _from_array if name.lower().endswith(ARRAY_ENDING) else _from_image
        return read(name, data)
    except ImageError:
        raise
    except Exception as error:
        raise unreadable(name, data, error) from error


def _from_array(name: str, data: bytes) -> np.ndarray:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype != np.uint8 or array.ndim != 3:
        raise ImageError(name, f"expected uint8 [H, W, C], got {array.dtype} {list(array.shape)}")
    return array


def _from_image(name: str, data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        pages = getattr(image, "n_frames", 1)
        check_size(name, image.width, image.height, pages)
        if pages > 1:
            return np.stack([np.asarray(page.convert("L")) for page in ImageSequence.Iterator(image)], axis=2)
        image.load()
        if image.mode not in _MODES:
            raise ImageError(name, f"a {image.mode} image, whose channels aren't bytes; save it as .npy")
        return np.atleast_3d(np.asarray(image))
