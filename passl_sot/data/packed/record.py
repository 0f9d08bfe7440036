"""How a packed copy stores an image: its file, without loss and in tiles; a smaller JPEG; or pixels."""

import contextlib
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from passl_sot.imageio.decode import EXIF_ORIENTATION, open_bytes, read_orientation, resize
from passl_sot.imageio.errors import ImageError
from passl_sot.imageio.jpeg import tile_blocks
from passl_sot.imageio.kernels import jit
from passl_sot.imageio.lazy_image import as_array

_LARGEST_JPEG = 65_500  # pixels of a side that Pillow writes


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How images are stored."""

    kind: Literal["files", "pixels"]  # pixels are uint8 [H, W, 3]
    short_side: int | None  # larger images are made smaller to this; None leaves all as they are
    quality: int | None = None  # of the JPEG files of those that were made smaller

    def words(self) -> str:
        """For messages."""
        if self.short_side is None:
            return "files as they are, JPEG in tiles without loss"
        how = "pixels"
        if self.kind == "files":
            how = f"JPEG of quality {self.quality} in tiles"
        return f"{how}, short side {self.short_side}"


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image as it is stored."""

    data: bytes | memoryview  # of a file, or pixels
    shape: tuple[int, int] = (0, 0)  # height and width of pixels
    orientation: int = 1  # EXIF orientation of pixels
    fault: str | None = None  # why the image can't be read, if so; it is stored as it is then


def pack_image(data: bytes, name: str, recipe: Recipe) -> Item:
    """The form of an image file to be stored; `name` is its name for messages."""
    try:
        image = as_array(open_bytes(data, name, apply_exif=False))
    except ImageError as error:
        return Item(data=data, fault=str(error))
    height, width = image.shape[:2]
    short = min(height, width)
    side = recipe.short_side
    if side is not None and short > side:
        if recipe.kind == "files" and side * max(height, width) // short > _LARGEST_JPEG:
            return Item(data=data)
        image = resize(image, (side * height // short, side * width // short))
    elif recipe.kind == "files":
        return Item(data=_in_tiles(data, image, name))
    orientation = read_orientation(data)
    if recipe.kind == "files":
        return Item(data=_as_jpeg(image, recipe.quality or 0, orientation))
    pixels = np.ascontiguousarray(image)
    return Item(data=pixels.data.cast("B"), shape=pixels.shape[:2], orientation=orientation)


def _in_tiles(data: bytes, image: np.ndarray, name: str) -> bytes:
    # The file as it is where tiles aren't possible or, of a damaged one, would show another image.
    tiled = None
    if jit.available():
        from passl_sot.imageio.kernels.jpeg_restart import tile_jpeg

        tiled = tile_jpeg(data)
    with contextlib.suppress(ImageError):
        if tiled and np.array_equal(as_array(open_bytes(tiled, name, apply_exif=False)), image):
            return tiled
    return data


def _as_jpeg(image: np.ndarray, quality: int, orientation: int) -> bytes:
    gray = bool((image[..., :1] == image).all())
    picture = Image.fromarray(image[..., 0] if gray else image)
    exif = b""
    if orientation != 1:
        block = Image.Exif()
        block[EXIF_ORIENTATION] = orientation
        exif = block.tobytes()
    buffer = io.BytesIO()
    picture.save(
        buffer,
        "JPEG",
        quality=quality,
        subsampling="4:2:0",
        optimize=True,
        restart_marker_blocks=tile_blocks(image.shape[1], 8 if gray else 16),
        exif=exif,
    )
    return buffer.getvalue()
