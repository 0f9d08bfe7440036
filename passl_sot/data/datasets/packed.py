"""Labelled images from a packed copy, which `data.packed` makes of folders, lists and tar files."""

import logging
import os
from typing import Annotated, Literal

import numpy as np

from passl_sot.config import Range, zh
from passl_sot.data.datasets.base import DATASETS
from passl_sot.data.datasets.folders import VAL_SHARE, choose_part
from passl_sot.data.datasets.identity import Extent, keep
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.errors import DataError
from passl_sot.data.packed.format import Packed
from passl_sot.data.transforms.image import TRANSFORMS
from passl_sot.imageio.decode import upright
from passl_sot.imageio.lazy_image import LazyImage, as_array

_LOGGER = logging.getLogger("passl_sot.data")


@DATASETS.register()
class PackedImages(LabelledImages):
    """A folder that `tools/make_cache.py` wrote: one file per shard and an index, mapped into memory.

    Numbers of images, labels and names of classes are those of the folder, list or tar files it was made of;
    so is the orientation, which is applied when an image is read. Each image that is stored as a file is
    compared with its checksum whenever it is read; one that is stored as pixels only when it is read whole,
    as the checks before a run do.

    Other arguments are those of `LabelledImages`, without multichannel files.

    Args:
        dataroot: The folder, such as `data/packed/train`.
        part: As for `ImageFolder`, with the same result: by the names of images before they were packed.
        val_share: Share of each class that is for "val".
    """

    def __init__(
        self,
        *,
        dataroot: str,
        transforms: Annotated[list, TRANSFORMS],
        batch_transforms: Annotated[list, TRANSFORMS] | None = None,
        apply_exif: bool = True,
        part: Literal["all", "train", "val"] = "all",
        val_share: Annotated[float, Range(above=0, below=1)] = VAL_SHARE,
        channels: Literal[1, 3] = 3,
    ):
        self.packed = packed = Packed(os.path.expanduser(dataroot))
        self._items: np.ndarray | None = None
        names = packed.names
        labels = packed.labels
        if part != "all":
            if packed.multi_hot is not None:
                raise DataError(
                    f"{packed.folder} has several labels per image, so no share of each class can be held "
                    "out: pack a list for train and one for val" + zh("part_multi_label")
                )
            paths = [names[i] for i in range(len(names))]
            self._items = choose_part(paths, labels, packed.class_names, part, val_share)
            names = StringTable(paths[i] for i in self._items)
            labels = labels[self._items]
        super().__init__(
            root=packed.folder,
            paths=names,
            labels=labels,
            class_names=packed.class_names,
            transforms=transforms,
            batch_transforms=batch_transforms,
            apply_exif=apply_exif,
            named=packed.named,
            channels=channels,
            multi_hot=packed.multi_hot,
        )
        stored = packed.header["short_side"]
        if stored is not None and self.output_hw is not None and min(self.output_hw) > stored:
            _LOGGER.warning(
                "%s holds images of a short side of %d pixels at most, and the transforms give %dx%d: pack "
                "the data with a larger --short-side" + zh("packed_too_small"),
                self.root,
                stored,
                *self.output_hw,
            )

    def _item(self, index: int) -> int:
        return int(index) if self._items is None else int(self._items[index])

    def _pixels(self, item: int) -> np.ndarray | None:
        shapes = self.packed.shapes
        if shapes is None or not shapes[item, 0]:
            return None
        return np.frombuffer(self.packed.view(item), np.uint8).reshape(*shapes[item].tolist(), 3)

    def path(self, index: int) -> str:
        """Where one image is: shard, place in it, and its name before."""
        return self.packed.path(self._item(index))

    def read(self, index: int) -> np.ndarray:
        """As of `LabelledImages`; its checksum is compared."""
        item = self._item(index)
        if self._pixels(item) is not None:
            self.packed.check(item)
        return as_array(self.open(index))

    def stored(self, index: int) -> memoryview:
        """The bytes of one image: those of a file, compared with their checksum, or its pixels."""
        item = self._item(index)
        if self._pixels(item) is None:
            self.packed.check(item)
        return self.packed.view(item)

    def extent(self, index: int) -> Extent:
        """As of `LabelledImages`: a part of a shard."""
        return self.packed.extent(self._item(index))

    def identity(self, *, timeout: float | None = None) -> dict[str, np.ndarray]:
        """As of `Dataset`: names, labels, sizes and checksums, all of them from the index."""
        sizes = self.packed.sizes()
        contents = self.packed.checksums
        if self._items is not None:
            sizes = sizes[self._items]
            contents = contents[self._items]
        return keep(self.paths, self.labels, self.multi_hot, sizes, contents)

    def open(self, index: int) -> LazyImage:
        """As `read`, but decodes no more than is then asked for; the checksum of pixels isn't compared."""
        item = self._item(index)
        image = self._pixels(item)
        if image is None:
            return super().open(index)
        return upright(image, int(self.packed.orientations[item])) if self.apply_exif else image

    def stack(self, indices: np.ndarray) -> np.ndarray | None:
        """As `LabelledImages.stack`: where all are pixels of one size, upright or not to be turned."""
        if type(self).open is not PackedImages.open:
            return None  # another class does something to them
        if self._items is not None:
            indices = self._items[indices]
        return self.packed.stack(indices, self.apply_exif)
