"""Images as they are shown: bytes again, in three channels, and in a size to look at."""

from collections.abc import Iterable

import cv2
import numpy as np

from passl_sot.data.transforms.base import BaseTransform
from passl_sot.data.transforms.image import Normalize


def viewable(transforms: Iterable[BaseTransform], image: np.ndarray) -> np.ndarray:
    """A normalized image, float32 [C, H, W], as the bytes that it was: uint8 [H, W, C].

    What lies outside of their range, as the noise of RandomErasing, is cut off.

    Args:
        transforms: By which it was made.
        image: It.
    """
    for transform in transforms:
        if isinstance(transform, Normalize):
            return transform.undo(image)
    # By a transform of the user's own: its darkest and brightest become black and white.
    pixels = image.transpose(1, 2, 0) - image.min()
    return np.rint(pixels * (255 / max(float(pixels.max()), 1e-12))).astype(np.uint8)


def as_picture(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C] as something to look at, [H, W, 3]: of other channels than three the mean, as gray."""
    if pixels.shape[2] == 3:
        return pixels
    gray = pixels.mean(axis=2, keepdims=True)
    return np.rint(gray).astype(np.uint8).repeat(3, axis=2)


def fitted(pixels: np.ndarray, side: int = 240) -> np.ndarray:
    """A picture of pixels as of `as_picture` whose longer side is at most `side`.

    Tiny ones are enlarged by whole pixels.
    """
    picture = as_picture(pixels)
    height, width = picture.shape[:2]
    longer = max(height, width)
    if longer > side:
        size = (max(1, width * side // longer), max(1, height * side // longer))
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return picture.repeat(side // longer, axis=0).repeat(side // longer, axis=1)
