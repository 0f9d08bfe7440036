"""The base class of the datasets of labelled image files."""

import contextlib
import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.base import Empty, Read
from passl_sot.data.datasets.identity import Extent, differences, take_identity
from passl_sot.data.datasets.labelled_items import LabelledItems
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.errors import DataError
from passl_sot.data.loader.shared_buffers import size_of
from passl_sot.data.rng import Key, Streams, image_rng
from passl_sot.data.transforms.base import output_size
from passl_sot.data.transforms.compose import build_batch_transforms, build_transforms
from passl_sot.imageio import jpeg
from passl_sot.imageio.decode import decode_multichannel, open_bytes
from passl_sot.imageio.errors import ImageError
from passl_sot.imageio.files import max_file_bytes, read_file
from passl_sot.imageio.kernels import jit
from passl_sot.imageio.lazy_image import LazyImage, as_array

_LOGGER = logging.getLogger("passl_sot.data")


class LabelledImages(LabelledItems):
    """Base class of the datasets of labelled image files.

    Batches hold `image` float32 [B, C, H, W], `label` int64 [B] or float32 [B, K] (soft targets of `Mixup`,
    or several labels per image) and `index` int64 [B]. Single samples are read as `dataset[index]`, or by the
    keys of the samplers, `dataset[(epoch, index)]`.

    Args:
        root: Folder that paths start from.
        paths: The files.
        labels: Label of each file, int64 [N]; without a meaning where there are several per image.
        class_names: Names of the classes, in label order.
        transforms: List of transforms, one after the other; see `transforms`, `policies`, `mixup`.
        apply_exif: Turn photographs upright by their EXIF orientation.
        batch_transforms: Steps for whole batches, in training: `Mixup`, and transforms of single images that
            shall come after it. `Normalize` must be in one of the two lists.
        named: Whether the data say what their classes are called; a list file alone only has numbers.
        channels: 3 for RGB; 1 for gray, into which pictures of any kind turn after augmentation; or the
            number of bands of multichannel files, on which transforms of colors don't work.
        multi_hot: Several labels per image, uint8 [N, C] of 0 and 1; None for one each.

    Attributes:
        output_hw: Height and width of all images in the end, or None where they depend on the file.
    """

    noun = "image"
    labels: np.ndarray

    def __init__(
        self,
        *,
        root: str,
        paths: StringTable,
        labels: np.ndarray,
        class_names: Sequence[str],
        transforms: Sequence[dict[str, Any]],
        apply_exif: bool,
        batch_transforms: Sequence[dict[str, Any]] | None = None,
        named: bool = True,
        channels: int = 3,
        multi_hot: np.ndarray | None = None,
    ):
        max_file_bytes()  # a wrong limit is one error, not one of each file
        self.root = root
        self.named = named
        self.paths = paths
        self.labels = np.asarray(labels, np.int64)
        self.multi_hot = multi_hot
        self.class_names = list(class_names)
        self.found_classes = list(class_names)
        self.channels = channels
        self.transforms = build_transforms(transforms, channels=channels)
        self.batch_stage = build_batch_transforms(
            batch_transforms, normalized=self.transforms.normalizes, channels=channels
        )
        if not (self.batch_stage or self.transforms).normalizes:
            raise ValueError(
                "dataset.transforms must hold {name: Normalize}, which makes the model's float input: last, "
                "or before RandomErasing; or it stands after Mixup in dataset.batch_transforms"
            )
        late = getattr(self.batch_stage, "transforms", [])
        self.output_hw = output_size([*self.transforms.transforms, *late])
        self.apply_exif = apply_exif

    def read(self, index: int) -> np.ndarray:
        """One image before any transform: uint8 [H, W, 3], gray ones too, or [H, W, channels].

        Raises:
            ImageError: The file can't be read.
        """
        return as_array(self.open(index))

    def stored(self, index: int) -> bytes | memoryview:
        """The bytes of one image as they lie on disk; an ImageError where they can't be read."""
        return read_file(self.path(index))

    def extent(self, index: int) -> Extent:
        """Where the bytes lie that `stored` gives."""
        return Extent(self.path(index))

    def identity(self, *, timeout: float | None = None) -> dict[str, np.ndarray]:
        """As of `Dataset`: names, labels and sizes of all images, and contents of up to 4,096 files, of large
        ones the beginning and the end.
        """
        return take_identity(self.paths, self.labels, self.multi_hot, self.extent, timeout=timeout)

    def differences(self, before: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]) -> list[str]:
        """As of `Dataset`: images added, removed, changed and labelled anew, with the names of some."""
        return differences(self.noun, before, now)

    def open(self, index: int) -> LazyImage:
        """As `read`, but decodes no more than is then asked for, where a file allows it."""
        path = self.path(index)
        if self.channels in (1, 3):
            # Gray images too are RGB until the end: transforms of colors see what they were made for.
            return open_bytes(self.stored(index), path, apply_exif=self.apply_exif)
        image = decode_multichannel(path)
        if image.shape[2] != self.channels:
            reason = f"has {image.shape[2]} channel(s), and dataset.channels is {self.channels}"
            raise ImageError(path, reason + zh("channels_differ"))
        return image

    def __getitem__(self, key: int | Key) -> dict[str, Any]:
        """As `sample`."""
        return self.sample(key)

    def sample(self, key: int | Key, out: np.ndarray | None = None) -> dict[str, Any]:
        """As of `Dataset`; `key` may be an index alone, `out` becomes the `image` if it fits.

        `label` is an integer, or float32 [C] of 0 and 1; `image` is float32 [3, H, W], or uint8 [H, W, 3]
        where it is `batch_transforms` that normalize. A file that can't be read is an ImageError.
        """
        if not isinstance(key, tuple):
            key = (0, key)
        epoch, index, *copy = key
        size = len(self)
        if not -size <= index < size:
            # Without it iterating over the dataset would never end.
            raise IndexError(f"image {index} of {size}")
        index = int(index) % size  # -1 has the draws of the last one
        rng = image_rng(self.seed, (epoch, index, *copy))
        image = self.transforms(self.open(index), rng, int(epoch), out)
        return {"image": image, "label": self._label(index), "index": index}

    def stack(self, indices: np.ndarray) -> np.ndarray | None:
        """Many images before any transform, uint8 [B, H, W, C]; None if they don't lie ready so."""
        return None

    def samples(self, keys: Sequence[Key], empty: Empty) -> dict[str, np.ndarray] | None:
        """The samples of many keys at once, as arrays [B, ...]; a DataError where a transform can't do it.

        None where images have to be taken one by one: `stack` has none, or a transform can't work so.
        """
        if not self.transforms.batched:
            return None
        # (epoch, index) each, or (epoch, index, copy) each.
        places = np.array(keys, np.int64)
        index = np.ascontiguousarray(places[:, 1])
        stacked = self.stack(index)
        if stacked is None:
            return None
        # Small images take a tenth of the time that they take one by one.
        images = self.transforms.of_batch(stacked, Streams(self.seed, places), empty)
        return {"image": images, "label": self._label(index), "index": index}

    def _label(self, index: Any) -> Any:
        if self.multi_hot is None:
            return self.labels[index]
        return self.multi_hot[index].astype(np.float32)

    def batch(self, keys: Sequence[Key], read: Read, empty: Empty = np.empty) -> dict[str, np.ndarray]:
        """As of `Dataset`; a DataError where images differ in size, or a transform of batches failed."""
        joined = None
        with contextlib.suppress(DataError):  # taken one by one they tell which image it is
            joined = self.samples(keys, empty)
        if joined is None:
            joined = self._join(keys, read, empty)
        if self.batch_stage is None:
            return joined
        try:
            images, labels = self.batch_stage(
                joined["image"], joined["label"], seed=self.seed, keys=keys, empty=empty
            )
        except DataError:
            raise
        except Exception:
            # It happens in a worker: without the traceback nobody could tell where.
            raise DataError(f"in batch_transforms:\n{traceback.format_exc()}") from None
        return {**joined, "image": images, "label": labels}

    def _join(self, keys: Sequence[Key], read: Read, empty: Empty) -> dict[str, Any]:
        """Samples read one by one; images stay a list where the batch stage will normalize them."""
        memory = None
        rows: list[np.ndarray | None] = [None] * len(keys)
        if self.transforms.normalizes and self.transforms.output_hw is not None:
            # Images are normalized straight into the batch.
            memory = empty((len(keys), self.channels, *self.transforms.output_hw), np.float32)
            rows = list(memory)
        samples = [read(key, row) for key, row in zip(keys, rows, strict=True)]
        shapes = {sample["image"].shape: sample["index"] for sample in samples}
        if len(shapes) > 1:
            listed = ", ".join(f"{list(shape)} (image {index})" for shape, index in shapes.items())
            raise DataError(
                f"the images of a batch differ in size after the transforms: {listed}. Before Normalize they "
                "need CenterCrop, RandomResizedCrop or Resize with size: [height, width]"
            )
        images: Any = [sample["image"] for sample in samples]
        # A subclass may have put others in their place.
        if memory is not None and all(image is row for image, row in zip(images, rows, strict=True)):
            images = memory
        elif self.transforms.normalizes:
            images = np.stack(images, out=empty((len(images), *images[0].shape), images[0].dtype))
        label = np.stack([sample["label"] for sample in samples])
        index = np.array([sample["index"] for sample in samples], np.int64)
        return {"image": images, "label": label, "index": index}

    def slot_bytes(self, batch_size: int) -> int:
        """As of `Dataset`; images of unknown size leave room for labels alone."""
        # Labels are counted as soft targets, one per class, in float64: too much, but never too little.
        targets = (self.batch_stage and self.batch_stage.num_classes) or len(self.class_names)
        height, width = self.output_hw or (0, 0)
        images = size_of((batch_size, self.channels, height, width), 4)
        return images + size_of((batch_size, targets), 8) + size_of((batch_size,), 8)

    def prepare(self, *, training: bool) -> None:
        """As of `Dataset`."""
        if not training and self.batch_stage is not None:
            raise DataError(
                "dataloader.val.dataset.batch_transforms is set, but batches are mixed and erased in "
                "training alone: leave it out, or write batch_transforms: null, with Normalize in transforms"
                + zh("val_batch_transforms")
            )
        missing = self.missing_speedups()
        if training and missing:
            _LOGGER.info(
                "%s not installed: images are prepared by Pillow, the same but slower; "
                "pip install 'passl_sot[fast]'" + zh("install_fast"),
                " and ".join(missing),
            )

    def missing_speedups(self) -> list[str]:
        """Packages of the extra `[fast]` that aren't installed."""
        found = {"numba": jit.available(), "simplejpeg": jpeg.available()}
        return [name for name, there in found.items() if not there]
