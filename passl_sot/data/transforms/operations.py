"""Operations of augmentation policies on pixels, by Pillow and by compiled loops alike.

| kind | strength |
|---|---|
| AutoContrast, Equalize, Invert | none |
| Rotate | degrees, counter-clockwise |
| Posterize | bits that are kept; 0 are black |
| Solarize | least value that is inverted |
| SolarizeAdd | added to values below 128, up to 255 |
| Brightness, Color, Contrast, Sharpness | factor of `PIL.ImageEnhance` |
| ShearX, ShearY | rows' or columns' shift per pixel |
| TranslateX, TranslateY | fraction of width or height |
| Grey | none |
| Hue | turn, as a fraction of the color circle |
| Blur | radius of `PIL.ImageFilter.GaussianBlur`, in pixels |

Where numba is installed (``pip install .[fast]``) the loops of `kernels` carry them out, else Pillow does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from passl_sot.imageio.kernels.jit import available, laid_out

Filter = Literal["bilinear", "bicubic"]
FILTERS: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
Fill = tuple[int, int, int]
Matrix = tuple[float, float, float, float, float, float]

# From places in the result to those in the image, by strength, width and height.
_MATRICES: dict[str, Callable[[float, int, int], Matrix]] = {
    "ShearX": lambda shift, width, height: (1, shift, 0, 0, 1, 0),
    "ShearY": lambda shift, width, height: (1, 0, 0, shift, 1, 0),
    "TranslateX": lambda share, width, height: (1, 0, share * width, 0, 1, 0),
    "TranslateY": lambda share, width, height: (1, 0, 0, 0, 1, share * height),
}


class Op(NamedTuple):
    """An operation on an image, of a kind and strength of the table at the top of this module."""

    kind: str
    strength: float = 0
    # Of operations that move pixels: their filter, and the color of pixels that come in from outside.
    interpolation: Filter = "bilinear"
    fill: Fill = (0, 0, 0)

    def by_pillow(self, picture: Image.Image) -> Image.Image:
        """An RGB picture after the operation, of the same size."""
        if self.kind in _BY_PILLOW:
            return _BY_PILLOW[self.kind](picture, self.strength)
        filled: Any = {"resample": FILTERS[self.interpolation], "fillcolor": self.fill}
        if self.kind == "Rotate":
            return picture.rotate(self.strength, **filled)
        matrix = _MATRICES[self.kind](self.strength, *picture.size)
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, **filled)

    def by_kernel(self, image: np.ndarray) -> np.ndarray:
        """The same of a contiguous image, uint8 [H, W, 3], by a compiled loop; numba must be installed."""
        # Here, as numba takes half a second to import.
        from passl_sot.imageio.kernels import affine, blur, color

        if self.kind in _MATRICES:
            matrix = _MATRICES[self.kind](self.strength, image.shape[1], image.shape[0])
            return affine.warp(image, matrix, self.interpolation, self.fill)
        if self.kind == "Rotate":
            return affine.rotate(image, self.strength, self.interpolation, self.fill)
        if self.kind == "Blur":
            return blur.gaussian(image, self.strength)
        if self.kind in color.OPERATIONS:
            return color.OPERATIONS[self.kind](image, self.strength)
        # Hue, which no loop does yet; loops after it want memory of their own.
        return laid_out(np.asarray(self.by_pillow(Image.fromarray(image))))


def apply_ops(image: np.ndarray, ops: Sequence[Op]) -> np.ndarray:
    """An image, uint8 [H, W, 3], after operations in their order; without any, the image itself."""
    if not ops:
        return image
    if available():
        image = laid_out(image)
        for op in ops:
            image = op.by_kernel(image)
        return image
    picture = Image.fromarray(image)
    for op in ops:
        picture = op.by_pillow(picture)
    return np.asarray(picture)


def _posterize(picture: Image.Image, bits: float) -> Image.Image:
    if bits == 0:  # black, as before Pillow 13, which refuses it
        return Image.new("RGB", picture.size)
    return ImageOps.posterize(picture, int(bits))


def _solarize_add(picture: Image.Image, added: float) -> Image.Image:
    table = [min(255, value + int(added)) for value in range(128)]
    return picture.point([*table, *range(128, 256)] * 3)  # once a channel


def _turn_hue(picture: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    # uint8 wraps around, as the color circle does.
    turned = np.asarray(hue) + np.int32(turn * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


_BY_PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": lambda picture, _: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, _: ImageOps.equalize(picture),
    "Invert": lambda picture, _: ImageOps.invert(picture),
    "Posterize": _posterize,
    "Solarize": lambda picture, threshold: ImageOps.solarize(picture, int(threshold)),
    "SolarizeAdd": _solarize_add,
    "Grey": lambda picture, _: picture.convert("L").convert("RGB"),
    "Hue": _turn_hue,
    "Blur": lambda picture, radius: picture.filter(ImageFilter.GaussianBlur(radius)),
    "Brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "Color": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "Contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "Sharpness": lambda picture, factor: ImageEnhance.Sharpness(picture).enhance(factor),
}
