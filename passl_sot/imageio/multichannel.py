"""Images of other numbers of channels than red, green and blue: satellite bands, depth, fluorescence.

| file | bands |
|---|---|
| `.npy`, uint8 [H, W, C] (read without pickle) | its last axis |
| grey + alpha, RGB, RGBA, CMYK | as stored, alpha included |
| TIFF (or GIF) of several grey pages of one size | a page each |
"""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image, ImageSequence

from passl_sot.imageio.decode import FORMATS, MAX_PIXELS, decode, read_file, what_it_is
from passl_sot.imageio.errors import ImageError

ARRAY_ENDING = ".npy"
_MODES = ("L", "LA", "RGB", "RGBA", "CMYK")


def read_image(path: str | os.PathLike[str], *, apply_exif: bool, channels: int) -> np.ndarray:
    """Reads an image as a dataset of so many channels does: RGB for 1 and 3, else its bands.

    Raises:
        ImageError: The file can't be read so.
    """
    return decode(path, apply_exif=apply_exif) if channels in (1, 3) else decode_bands(path, channels)


def decode_bands(path: str | os.PathLike[str], channels: int) -> np.ndarray:
    """Reads an image of several bands; the table at the top of this module says which files have how many.

    Args:
        path: The file.
        channels: The bands that it must have.

    Returns:
        uint8 [H, W, channels].

    Raises:
        ImageError: The file can't be read, or has another number of bands.
    """
    name = os.fspath(path)
    data = read_file(name)
    try:
        bands = _from_array(name, data) if name.lower().endswith(ARRAY_ENDING) else _from_image(name, data)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(name, what_it_is(data)) from error
    except Exception as error:
        # As in `decode`: damaged files make readers raise errors of nearly any type.
        raise ImageError(name, f"damaged or truncated image ({error})") from error
    if bands.shape[2] != channels:
        raise ImageError(
            name, f"has {bands.shape[2]} channel(s), and dataset.channels is {channels} / 通道数不符"
        )
    return bands


def _from_array(name: str, data: bytes) -> np.ndarray:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype != np.uint8 or array.ndim != 3:
        raise ImageError(name, f"expected uint8 [H, W, C], got {array.dtype} {list(array.shape)}")
    return array


def _from_image(name: str, data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        pages = getattr(image, "n_frames", 1)
        if image.width * image.height * pages > MAX_PIXELS:
            raise ImageError(name, f"{image.width}x{image.height} pixels: too large to be safe to decode")
        if pages > 1:
            return np.stack([np.asarray(page.convert("L")) for page in ImageSequence.Iterator(image)], axis=2)
        image.load()
        if image.mode not in _MODES:
            raise ImageError(name, f"a {image.mode} image, whose channels aren't bytes; save it as .npy")
        array = np.asarray(image)
        return array[:, :, None] if array.ndim == 2 else array
