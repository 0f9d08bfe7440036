"""Decoding and resizing: everything between a file on disk and an array of pixels.

Published accuracies were measured with Pillow's decoder and its antialiased bicubic filter, and every result
of `decode`, `open_image` and `resize` is Pillow's to the bit. Where simplejpeg and numba are installed, plain
JPEG files are decoded through `jpeg`, no further than pixels are asked for, and compiled loops resize
(`kernels.resize`). Pillow does all else. OpenCV has no part in it: it shows damaged files that Pillow
refuses, and its caller can't tell.

| file | result |
|---|---|
| RGB | as it is |
| gray, bilevel, gray + alpha | gray value in all three channels |
| RGBA, palette (with or without transparency) | colors; alpha is dropped, not blended |
| CMYK, Adobe YCCK | Pillow's conversion to RGB, embedded profiles not applied |
| 16-bit gray | high byte of each value (Pillow's own conversion would clip nearly all of it to white) |
| 16-bit color PNG | high byte of each value |
| 32-bit integer, floating point | `ImageError`: their range isn't defined |
| animated GIF, WebP, PNG; multi-picture JPEG; multi-page TIFF | first frame |
| EXIF orientation 2 to 8 | turned upright when `apply_exif`, else as stored (TIFF: Pillow always turns it) |
| truncated, empty, not an image, more than 179 million pixels | `ImageError` |
| no regular file, larger than `files.max_file_bytes` | `ImageError`, not opened |

The file's content counts, not its ending. `decode_multichannel` reads other numbers of channels (satellite
bands, depth, fluorescence):

| file | channels |
|---|---|
| `.npy`, uint8 [H, W, C] (read without pickle) | its last axis |
| gray + alpha, RGB, RGBA, CMYK | as stored, alpha included |
| TIFF (or GIF) of several gray pages of one size | a page each |

No global setting of Pillow is changed.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageFile, ImageSequence

from passl_sot.imageio import jpeg
from passl_sot.imageio.errors import ImageError
from passl_sot.imageio.files import read_file
from passl_sot.imageio.kernels import jit
from passl_sot.imageio.lazy_image import LazyImage, as_array, edges

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

# Pillow knows more formats; some start other programs (EPS) or are no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
# Twice Pillow's warning level, where Pillow itself stops. Held here too, as that level is a global of Pillow.
MAX_PIXELS = 178_956_970

_UNDEFINED = {"I": "32-bit integer", "F": "floating-point"}
EXIF_ORIENTATION = 0x0112
ARRAY_ENDING = ".npy"
_CHANNEL_MODES = ("L", "LA", "RGB", "RGBA", "CMYK")


def decode(path: str | os.PathLike[str], *, apply_exif: bool) -> np.ndarray:
    """Reads an image file as RGB; the table at the top of this module gives the result for each kind.

    Args:
        path: The file; any name, any ending.
        apply_exif: Turn the image upright by its EXIF orientation. False gives the pixels as stored, which
            is what torchvision, timm and the published ImageNet figures use.

    Returns:
        uint8 [H, W, 3], possibly read-only.

    Raises:
        ImageError: The file can't be read whole as an image; it names the path and the reason.
    """
    return as_array(open_image(path, apply_exif=apply_exif))


def read_image(path: str | os.PathLike[str], *, apply_exif: bool, channels: int) -> np.ndarray:
    """Reads an image for a model of so many channels: as RGB for 1 and 3, else as it is.

    Raises:
        ImageError: The file can't be read, or has other channels.
    """
    if channels in (1, 3):
        return decode(path, apply_exif=apply_exif)
    image = decode_multichannel(path)
    if image.shape[2] != channels:
        raise _misfit(os.fspath(path), image, channels)
    return image


def decode_multichannel(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads all channels of an image, uint8 [H, W, C], as the second table at the top of this module says.

    Raises:
        ImageError: The file can't be read.
    """
    name = os.fspath(path)
    data = read_file(name)
    with _faults_told(name, data):
        if name.lower().endswith(ARRAY_ENDING):
            return _from_array(name, data)
        return _all_channels(name, data)


def _from_array(name: str, data: bytes) -> np.ndarray:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype != np.uint8 or array.ndim != 3:
        raise _misfit(name, array, "C")
    return array


def _misfit(name: str, array: np.ndarray, channels: int | str) -> ImageError:
    return ImageError(name, f"expected uint8 [H, W, {channels}], got {array.dtype} {list(array.shape)}")


def _all_channels(name: str, data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        pages = getattr(image, "n_frames", 1)
        _check_size(name, image.width, image.height, pages)
        if pages > 1:
            return np.stack([np.asarray(page.convert("L")) for page in ImageSequence.Iterator(image)], axis=2)
        image.load()
        if image.mode not in _CHANNEL_MODES:
            raise ImageError(name, f"a {image.mode} image, whose channels aren't bytes; save it as .npy")
        return np.atleast_3d(np.asarray(image))


def open_image(path: str | os.PathLike[str], *, apply_exif: bool) -> LazyImage:
    """As `decode`, but leaves the decoding until pixels are asked for, where a part of them can be decoded.

    Asking for pixels may then raise `ImageError` too.
    """
    name = os.fspath(path)
    return open_bytes(read_file(name), name, apply_exif=apply_exif)


def open_bytes(data: bytes | memoryview, name: str, *, apply_exif: bool) -> LazyImage:
    """As `open_image`, of a file's bytes; `name` is its name for messages."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError(
            name,
            "not read, because some code in this process has set PIL.ImageFile.LOAD_TRUNCATED_IMAGES, which "
            "would let damaged images pass as grey areas; set it back to False",
        )
    header = None
    if jpeg.available():
        header = jpeg.read_header(data)
    # Pillow has a limit of its own that users may set, and words for it.
    if header is None or header.height * header.width > min(Image.MAX_IMAGE_PIXELS or MAX_PIXELS, MAX_PIXELS):
        return _decode_by_pillow(data, name, apply_exif)
    stored = _JpegFile(data, name, header)
    if apply_exif and header.may_turn:
        orientation = read_orientation(data)
        if orientation != 1:
            return upright(stored[:, :], orientation)
    return stored


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """A view of stored pixels [H, W, C] that shows them upright; by EXIF 2.32, tag 0x0112."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


class _JpegFile:
    """A plain JPEG file that isn't decoded yet, as a `LazyImage`."""

    def __init__(self, data: bytes | memoryview, name: str, header: jpeg.Header):
        self._data = data
        self._name = name
        self._header = header
        self.shape = (header.height, header.width, 3)

    def __getitem__(self, rectangle: tuple[slice, slice]) -> np.ndarray:
        top, bottom, left, right = edges(rectangle, self.shape)
        try:
            return jpeg.decode_part(self._data, self._header, top, bottom, left, right)
        except ValueError:  # damaged: Pillow may still read it, or has words for it
            return _decode_by_pillow(self._data, self._name, apply_exif=False)[top:bottom, left:right]


def _decode_by_pillow(data: bytes | memoryview, name: str, apply_exif: bool) -> np.ndarray:
    data = bytes(data)
    with _faults_told(name, data), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(name, image.width, image.height)
        image.load()
        pixels = np.asarray(_to_rgb(image, name))
        if apply_exif:
            pixels = upright(pixels, _orientation(image))
        return pixels


def _check_size(path: str, width: int, height: int, frames: int = 1) -> None:
    if width * height * frames > MAX_PIXELS:
        raise ImageError(path, f"{width}x{height} pixels: too large to be safe to decode")


@contextlib.contextmanager
def _faults_told(path: str, data: bytes) -> Iterator[None]:
    """Makes an ImageError of whatever a reader stumbles over."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"too large to be safe to decode ({error})") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(path, _describe(data)) from error
    except Exception as error:
        # Damaged files make Pillow's plugins raise errors of nearly any type; all of them mean the same.
        words = str(error).strip() or type(error).__name__
        raise ImageError(path, f"damaged or truncated image ({words})") from error


def resize(
    image: LazyImage,
    size_hw: tuple[int, int],
    *,
    interpolation: Interpolation = "bicubic",
    window: tuple[int, int, int, int] | None = None,
    mirrored: bool = False,
) -> np.ndarray:
    """Resizes with Pillow's antialiased filters, bit-equal to `PIL.Image.resize`.

    Args:
        image: uint8 [H, W, C]; where C isn't 3, each channel is a picture of its own.
        size_hw: Height and width of the result.
        window: The part (top, left, height, width) of the result that is wanted; None for all of it.
        mirrored: Whether it is wanted from right to left.

    Returns:
        uint8 [size_hw[0], size_hw[1], C], or of the window's size.
    """
    top, left, height, width = window or (0, 0, *size_hw)
    if interpolation != "nearest" and jit.available():
        from passl_sot.imageio.kernels.resize import resample

        return resample(image, size_hw, interpolation, (top, left, height, width), mirrored)
    resized = _resize_by_pillow(as_array(image), size_hw, interpolation)
    part = resized[top : top + height, left : left + width]
    if mirrored:
        part = np.ascontiguousarray(part[:, ::-1])
    return part


def _resize_by_pillow(
    image: np.ndarray, size_hw: tuple[int, int], interpolation: Interpolation
) -> np.ndarray:
    def resize_one(plane: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(plane))
        return np.asarray(picture.resize(size_hw[::-1], Image.Resampling[interpolation.upper()]))

    if image.shape[2] == 3:
        return resize_one(image)
    # As an image of 2 or 4 channels, Pillow would take the last for alpha and multiply the others by it.
    return np.stack([resize_one(image[..., c]) for c in range(image.shape[2])], axis=2)


def read_given(item: Any, *, apply_exif: bool, channels: int) -> np.ndarray:
    """An image that a program holds, as `read_image` reads it from a file; possibly read-only.

    It is the bytes of a file, a PIL image, or an array (or what NumPy makes one of) [H, W, C] or [C, H, W] of
    whole numbers, of floats in [0, 255], or of floats in [0, 1].

    Raises:
        ImageError: The bytes can't be read or have other channels, or the array is of another shape.
        ValueError: Numbers, or a kind of picture, that are no pixels: a mistake of the program.
        TypeError: It is something else.
    """
    rgb = channels in (1, 3)
    if isinstance(item, bytes | bytearray | memoryview):
        data = bytes(item)
        if rgb:
            return as_array(open_bytes(data, "the bytes", apply_exif=apply_exif))
        with _faults_told("the bytes", data):
            image = _all_channels("the bytes", data)
        if image.shape[2] != channels:
            raise _misfit("the bytes", image, channels)
        return image
    if isinstance(item, Image.Image) and rgb:
        try:
            with _faults_told("the picture", b""):
                pixels = np.asarray(_to_rgb(item.copy(), "the picture"))
        except ImageError as error:
            raise ValueError(str(error)) from error
        if apply_exif:
            pixels = upright(pixels, _orientation(item))
        return pixels
    if not isinstance(item, Image.Image) and not hasattr(item, "__array__"):
        raise TypeError(
            f"a {type(item).__name__} is no image: give a path, the bytes of a file, a PIL image or an array"
        )
    if rgb:
        channels = 3  # gray is made of RGB, as in training
    return _as_pixels(np.asarray(item), channels)


def _as_pixels(array: np.ndarray, channels: int) -> np.ndarray:
    """An array in any of the forms that `read_given` names as uint8 [H, W, channels]."""
    pixels = array
    if array.ndim == 3 and array.shape[2] != channels and array.shape[0] == channels:
        pixels = array.transpose(1, 2, 0)
    if array.ndim != 3 or pixels.shape[2] != channels or not array.size:
        raise _misfit("the array", array, channels)
    if array.dtype == np.uint8:
        return pixels
    kind = array.dtype.kind
    low = high = np.nan
    if kind in "fiu":
        low = float(array.min())
        high = float(array.max())
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"an array of {array.dtype} from {low:.3g} to {high:.3g} is no image: give pixel values, in "
            "[0, 1] or [0, 255]; they are normalized here"
        )
    if kind == "f" and high <= 1:
        pixels = pixels * 255
    return np.rint(pixels).astype(np.uint8)


def read_orientation(data: bytes | memoryview) -> int:
    """EXIF orientation, 1 to 8, of a file that can be read; 1 where Pillow turns it by itself (TIFF), too."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.format != "JPEG":
            image.load()  # before, PNG and TIFF may not have it, or not the one that counts
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    try:
        orientation: Any = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # a broken EXIF block of any kind; the pixels are fine, so it counts as absent
        return 1
    if orientation not in range(1, 9):
        return 1
    return int(orientation)


def _to_rgb(image: Image.Image, path: str) -> Image.Image:
    mode = image.mode
    # Transparency has no say in the colors; left in, Pillow warns about some of its forms.
    image.info.pop("transparency", None)
    # Older releases of Pillow open 16-bit PNG and PGM files as "I".
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if mode in _UNDEFINED:
        raise ImageError(
            path,
            f"a {_UNDEFINED[mode]} image, whose brightness range isn't defined; save it with 8 or 16 bits",
        )
    if mode == "RGB":  # which Pillow would copy
        return image
    return image.convert("RGB")


def _describe(data: bytes) -> str:
    """Says how a file that is no image looks; web servers' error pages are the most common case."""
    if not data:
        return "the file is empty (0 bytes)"
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<svg")):
        return "not an image but an HTML, XML or SVG page, as a failed download leaves behind"
    if start.startswith(b"version https://git-lfs"):
        return "not an image but a Git LFS pointer; fetch the real file with `git lfs pull`"
    if not any(data[:4096]):
        return f"not an image: the file begins with zeros ({len(data)} bytes), as an interrupted copy does"
    if data.startswith(b"\xff\xd8") and jpeg.bits(data) > 8:
        return f"a JPEG file of {jpeg.bits(data)} bits, which Pillow doesn't read; save it with 8 bits"
    if data.startswith((b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM")):
        return f"a damaged image: its header can't be read ({len(data)} bytes)"
    if data[:512].isascii():
        return "not an image but a text file"
    return f"not an image of a known kind (first bytes {data[:8].hex(' ')})"
