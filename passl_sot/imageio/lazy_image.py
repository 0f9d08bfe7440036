"""Images whose pixels are made when they're asked for, so that what a crop drops is never made."""

from typing import Protocol

import numpy as np


class LazyImage(Protocol):
    """An image, uint8 [H, W, C], that gives rectangles of itself: an array, or one that is yet to be made."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C)."""

    def __getitem__(self, rectangle: tuple[slice, slice], /) -> np.ndarray:
        """The pixels of `[top:bottom, left:right]`."""


def edges(rectangle: tuple[slice, slice], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of `[top:bottom, left:right]` in an image of a shape, (H, W, ...)."""
    rows, columns = rectangle
    top, bottom, _ = rows.indices(shape[0])
    left, right, _ = columns.indices(shape[1])
    return top, bottom, left, right


def as_array(image: LazyImage) -> np.ndarray:
    """The whole image."""
    return image if isinstance(image, np.ndarray) else image[:, :]
