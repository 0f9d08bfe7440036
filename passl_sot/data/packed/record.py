"""What a packed copy stores of one image: its file, without loss and in tiles; a smaller JPEG; or pixels."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from passl_sot.imageio.decode import EXIF_ORIENTATION, open_bytes, read_orientation, resize
from passl_sot.imageio.errors import ImageError
from passl_sot.imageio.jpeg_restart import tile_blocks, tile_jpeg
from passl_sot.imageio.kernels import jit as compiling
from passl_sot.imageio.lazy_image import as_array

__all__ = ["Item", "Recipe", "pack_image"]


_LARGEST_JPEG = 65_500  # pixels of a side that Pillow writes


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How images are stored.

    Attributes:
        kind: As files, or as pixels (uint8 [H, W, 3]).
        short_side: Images with a longer short side are made smaller to this; None leaves all as they are.
        quality: JPEG quality of those that were made smaller and are stored as files.
    """

    kind: Literal["files", "pixels"]
    short_side: int | None
    quality: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the index."""
        return asdict(self)

    def words(self) -> str:
        """For messages."""
        if self.short_side is None:
            return "files as they are, JPEG in tiles without loss"
        how = "pixels" if self.kind == "pixels" else f"JPEG of quality {self.quality} in tiles"
        return f"{how}, short side {self.short_side}"


@dataclass(frozen=True, kw_only=True)
class Item:
    """What is stored of an image.

    Attributes:
        data: Bytes of a file, or of pixels.
        shape: Height and width of pixels; (0, 0) for a file.
        orientation: EXIF orientation of pixels.
        fault: Why the image can't be read, if so; it is stored as it is then.
    """

    data: bytes | memoryview
    shape: tuple[int, int] = (0, 0)
    orientation: int = 1
    fault: str | None = None


def pack_image(data: bytes, name: str, recipe: Recipe) -> Item:
    """What is to be stored of an image file.

    Args:
        data: The file.
        name: Its name, for messages.
        recipe: How.
    """
    try:
        stored = open_bytes(data, name, apply_exif=False)
        image = as_array(stored)
    except ImageError as error:
        return Item(data=data, fault=str(error))
    height, width = image.shape[:2]
    side = recipe.short_side
    if recipe.kind == "files" and (side is None or min(height, width) <= side):
        return Item(data=_in_tiles(data, image, name))
    if side is not None and min(height, width) > side:
        size = (side * height // width, side) if width <= height else (side, side * width // height)
        if recipe.kind == "files" and max(size) > _LARGEST_JPEG:
            return Item(data=data)
        image = resize(image, size)
    orientation = read_orientation(data)
    if recipe.kind == "pixels":
        return Item(
            data=np.ascontiguousarray(image).data.cast("B"),
            shape=(image.shape[0], image.shape[1]),
            orientation=orientation,
        )
    return Item(data=_as_jpeg(image, recipe.quality or 0, orientation))


def _in_tiles(data: bytes, image: np.ndarray, name: str) -> bytes:
    """The file in tiles if that is possible and gives the same image, else as it is."""
    tiled = tile_jpeg(data) if compiling.available() else None
    if tiled is None:
        return data
    try:
        again = as_array(open_bytes(tiled, name, apply_exif=False))
    except ImageError:
        return data
    return tiled if np.array_equal(again, image) else data


def _as_jpeg(image: np.ndarray, quality: int, orientation: int) -> bytes:
    grey = bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())
    picture = Image.fromarray(image[..., 0] if grey else image)
    more: dict[str, Any] = {}
    if orientation != 1:
        more["exif"] = Image.Exif()
        more["exif"][EXIF_ORIENTATION] = orientation
    buffer = io.BytesIO()
    picture.save(
        buffer,
        "JPEG",
        quality=quality,
        subsampling="4:2:0",
        optimize=True,
        restart_marker_blocks=tile_blocks(image.shape[1], 8 if grey else 16),
        **more,
    )
    return buffer.getvalue()
