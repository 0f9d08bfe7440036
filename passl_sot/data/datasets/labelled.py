"""Labelled images on disk: ImageNet-layout folders and list files.

A dataset is read as `dataset[index]` or by the keys of the samplers, `dataset[(epoch, index)]` and
`dataset[(epoch, index, copy)]`; random augmentation depends on the seed and the key alone (see `draws`).
What is done to whole batches is in `batch`.
"""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from passl_sot.config.chinese import zh
from passl_sot.config.ranges import Count, Range
from passl_sot.config.registry import Registry
from passl_sot.data.datasets.folders import EXTENSIONS, scan_folder
from passl_sot.data.datasets.list_files import read_class_names, read_labels, read_list, read_multi_hot
from passl_sot.data.datasets.splits import VAL_SHARE, hold_out
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.errors import DataError
from passl_sot.data.rng import Key, Streams, of_image
from passl_sot.data.transforms.batch import build_batch_transforms
from passl_sot.data.transforms.compose import build_transforms, output_size
from passl_sot.data.transforms.image import TRANSFORMS
from passl_sot.imageio.decode import open_image, read_file
from passl_sot.imageio.errors import ImageError
from passl_sot.imageio.lazy_image import LazyImage, as_array
from passl_sot.imageio.multichannel import ARRAY_ENDING, decode_multichannel

DATASETS: Registry = Registry("dataset", "passl_sot.data.datasets.labelled")


class LabelledImages:
    """What all datasets of labelled image files share.

    Attributes:
        labels: int64 [N]; without a meaning where there are several per image.
        multi_hot: Several labels per image, uint8 [N, C] of 0 and 1; None for one each.
        class_names: Name of each label.
        found_classes: Names of the classes that the data themselves hold; differs from `class_names` after
            `use_class_names`.
        named: Whether the data say what their classes are called; a list file alone only has numbers.
        transforms: The `Compose` that each image passes through.
        batch_stage: The `BatchStage` that batches pass through; None where there is none.
        output_hw: Height and width of all images in the end, or None where they depend on the file.
        channels: Channels of the images in the end.
        seed: Seed of the random augmentation; set by `build_dataloader`.
    """

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
        later = self.batch_stage.transforms if self.batch_stage else []
        self.output_hw = output_size([*self.transforms.transforms, *later])
        self.apply_exif = apply_exif
        self.seed = 0

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """The file of one image."""
        return os.path.join(self.root, self.paths[index])

    def read(self, index: int) -> np.ndarray:
        """One image before any transform: uint8 [H, W, 3], grey ones too, or [H, W, channels].

        Raises:
            ImageError: The file can't be read.
        """
        return as_array(self.open(index))

    def stored(self, index: int) -> bytes:
        """The bytes of one image as it lies on disk.

        Raises:
            ImageError: They can't be read.
        """
        return read_file(self.path(index))

    def open(self, index: int) -> LazyImage:
        """As `read`, but decodes no more than is then asked for, where a file allows it."""
        path = self.path(index)
        if self.channels not in (1, 3):
            image = decode_multichannel(path)
            if image.shape[2] != self.channels:
                words = f"has {image.shape[2]} channel(s), and dataset.channels is {self.channels}"
                raise ImageError(path, words + zh("channels_differ"))
            return image
        return open_image(path, apply_exif=self.apply_exif)

    def __getitem__(self, key: int | Key) -> dict[str, Any]:
        """One sample; see `sample`."""
        return self.sample(key)

    def sample(self, key: int | Key, out: np.ndarray | None = None) -> dict[str, Any]:
        """One sample.

        Args:
            key: Index, (epoch, index), or (epoch, index, copy).
            out: Where the image is written to if it can be; it is the `image` of the sample then.

        Returns:
            `image`, `label` (an integer, or float32 [C] of 0 and 1) and `index`. The image is float32
            [3, H, W], or uint8 [H, W, 3] where it is `batch_transforms` that normalise.

        Raises:
            ImageError: The file can't be read.
        """
        epoch, index, *copy = key if isinstance(key, tuple) else (0, key)
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"image {index} of {size}")
        index = int(index) % size
        rng = of_image(self.seed, (epoch, index, *copy))
        image = self.transforms(self.open(index), rng, int(epoch), out)
        several = self.multi_hot
        label = int(self.labels[index]) if several is None else several[index].astype(np.float32)
        return {"image": image, "label": label, "index": index}

    def stack(self, indices: np.ndarray) -> np.ndarray | None:
        """Many images before any transform, uint8 [B, H, W, C]; None if they don't lie ready so."""
        return None

    def samples(self, keys: Sequence[Key], empty: Callable[..., np.ndarray]) -> dict[str, np.ndarray] | None:
        """What `sample` gives for many keys, as arrays [B, ...]; small images take a tenth of the time.

        Args:
            keys: (epoch, index) each, or (epoch, index, copy) each.
            empty: Gives memory for normalised images, as `numpy.empty`.

        Returns:
            None where images have to be taken one by one, as `stack` or a transform wants it.

        Raises:
            DataError: A transform can't do it.
        """
        if not self.transforms.batched:
            return None
        places = np.array(keys, np.int64)
        index = np.ascontiguousarray(places[:, 1])
        stacked = self.stack(index)
        if stacked is None:
            return None
        several = self.multi_hot
        label = self.labels[index] if several is None else several[index].astype(np.float32)
        images = self.transforms.of_batch(stacked, Streams(self.seed, places), empty)
        return {"image": images, "label": label, "index": index}

    def class_counts(self) -> np.ndarray:
        """Images per class, int64 [C]; labels out of range aren't counted."""
        if self.multi_hot is not None:
            return self.multi_hot.sum(axis=0, dtype=np.int64)
        valid = self.labels[(self.labels >= 0) & (self.labels < len(self.class_names))]
        return np.bincount(valid, minlength=len(self.class_names))

    def use_class_names(self, class_names: Sequence[str]) -> None:
        """Numbers the classes as another list does, such as that of a checkpoint.

        Args:
            class_names: All names in label order; may hold more classes than these data.

        Raises:
            DataError: These data hold a class that the list doesn't.
        """
        if not self.named:
            if len(self.found_classes) > len(class_names):
                raise DataError(
                    f"{self.root}: labels go up to {len(self.found_classes) - 1}, but there are "
                    f"{len(class_names)} classes" + zh("label_beyond_classes")
                )
            self.class_names = list(class_names)
            if self.multi_hot is not None:
                more = len(class_names) - self.multi_hot.shape[1]
                self.multi_hot = np.pad(self.multi_hot, ((0, 0), (0, more)))
            return
        number = {name: label for label, name in enumerate(class_names)}
        strangers = [name for name in self.found_classes if name not in number]
        if strangers:
            faults = [
                f"{self.root} holds class '{name}', which {nearest(name, class_names)}" for name in strangers
            ]
            raise DataError(faults)
        table = np.array([number[name] for name in self.class_names], np.int64)
        if self.multi_hot is not None:
            columns = np.zeros((len(self), len(class_names)), np.uint8)
            columns[:, table] = self.multi_hot
            self.multi_hot = columns
        known = (self.labels >= 0) & (self.labels < len(table))
        self.labels = np.where(known, table[np.where(known, self.labels, 0)], self.labels)
        self.class_names = list(class_names)


@DATASETS.register()
class ImageFolder(LabelledImages):
    """A folder with one folder of images per class, as ImageNet has it: `dataroot/<class>/**/*.jpg`.

    Classes are numbered in natural order of their folders' names (0, 1, 2, 10). Folders inside a class folder
    belong to it, links to folders are followed; hidden files and files with other endings are left out and
    counted in `ignored_files`.

    Args:
        dataroot: The folder that holds the class folders, such as `data/imagenet/train`.
        transforms: List of transforms, one after the other; see `transforms`, `rand_augment`, `erasing`.
        batch_transforms: What is done to batches, in training: `Mixup`, and transforms of single images that
            shall come after it. `Normalize` must be in one of the two lists.
        apply_exif: Turn photographs upright by their EXIF orientation.
        extensions: Endings of image files, in any case.
        part: "all" images; or, for a folder without splits of its own, those for "train" or for "val", by a
            rule that depends on the paths alone (see `own_folder.hold_out`).
        val_share: Share of each class that is for "val".
        channels: 3 for colours; 1 for grey, into which pictures of any kind turn after augmentation; or what
            files of several bands have (see `bands`), on which transforms of colours don't work.
    """

    def __init__(
        self,
        *,
        dataroot: str,
        transforms: Annotated[list, TRANSFORMS],
        batch_transforms: Annotated[list, TRANSFORMS] | None = None,
        apply_exif: bool = True,
        extensions: tuple[str, ...] = EXTENSIONS,
        part: Literal["all", "train", "val"] = "all",
        val_share: Annotated[float, Range(above=0, below=1)] = VAL_SHARE,
        channels: Count = 3,
    ):
        root = os.path.expanduser(dataroot)
        scan = scan_folder(root, extensions if channels in (1, 3) else (*extensions, ARRAY_ENDING))
        if part != "all":
            kept = choose_part(scan.paths, scan.labels, scan.class_names, part, val_share)
            scan.paths, scan.labels = [scan.paths[i] for i in kept], [scan.labels[i] for i in kept]
        self.ignored_files = scan.ignored_files
        super().__init__(
            root=root,
            paths=StringTable(scan.paths),
            labels=np.array(scan.labels, np.int64),
            class_names=scan.class_names,
            transforms=transforms,
            batch_transforms=batch_transforms,
            apply_exif=apply_exif,
            channels=channels,
        )


def choose_part(
    paths: Sequence[str], labels: Sequence[int], class_names: Sequence[str], part: str, val_share: float
) -> list[int]:
    """Which images are those of one part, "train" or "val"; see `ImageFolder`."""
    by_class: dict[int, list[str]] = {label: [] for label in range(len(class_names))}
    for path, label in zip(paths, labels, strict=True):
        by_class[label].append(path)
    held_out = {
        path
        for label, members in by_class.items()
        for path, flag in zip(members, hold_out(members, val_share, class_names[label]), strict=True)
        if flag
    }
    return [i for i, path in enumerate(paths) if (path in held_out) == (part == "val")]


@DATASETS.register()
class ListFile(LabelledImages):
    """Images and labels from a text file with a line `path<tab or space>label` per image.

    UTF-8 with or without byte-order mark, line ends of Unix or Windows; paths may hold spaces and are
    relative to `dataroot` unless absolute; empty lines and lines that begin with `#` are skipped.

    Args:
        dataroot: Folder that paths start from.
        list_file: The list.
        transforms: List of transforms, one after the other; see `transforms`, `rand_augment`, `erasing`.
        class_names: File with the name of each class: one per line in label order, or `label name` lines.
            Without it classes are named "0", "1", ... up to the largest label.
        batch_transforms: What is done to batches, in training: `Mixup`, and transforms of single images that
            shall come after it. `Normalize` must be in one of the two lists.
        apply_exif: Turn photographs upright by their EXIF orientation.
        channels: As for `ImageFolder`.
        multi_label: true: lines give any number of labels, `path<tab>0,3`, or `path<tab>-` for none.
            "multi_hot": lines give a 0 or 1 for each class, `path<tab>0,1,0`, as PaddleClas has them.
    """

    def __init__(
        self,
        *,
        dataroot: str,
        list_file: str,
        transforms: Annotated[list, TRANSFORMS],
        batch_transforms: Annotated[list, TRANSFORMS] | None = None,
        class_names: str | None = None,
        apply_exif: bool = True,
        channels: Count = 3,
        multi_label: bool | Literal["multi_hot"] = False,
    ):
        path = os.path.expanduser(list_file)
        names = None if class_names is None else read_class_names(os.path.expanduser(class_names))
        several: np.ndarray | None = None
        if multi_label:
            classes = None if names is None else len(names)
            paths, several = _read_several(path, classes, zeros_and_ones=multi_label == "multi_hot")
            table, labels, last = StringTable(paths), np.zeros(len(paths), np.int64), several.shape[1] - 1
        else:
            table, labels = read_list(path)
            last = int(labels.max())
        self.list_file = list_file
        super().__init__(
            root=os.path.expanduser(dataroot),
            paths=table,
            labels=labels,
            class_names=names or [str(label) for label in range(last + 1)],
            transforms=transforms,
            batch_transforms=batch_transforms,
            apply_exif=apply_exif,
            named=names is not None,
            channels=channels,
            multi_hot=several,
        )


def _read_several(path: str, classes: int | None, *, zeros_and_ones: bool) -> tuple[list[str], np.ndarray]:
    """Paths and uint8 [N, C] of 0 and 1 of a list of several labels per image.

    Args:
        path: The list.
        classes: Number C of classes; None takes that of the list.
        zeros_and_ones: Which format it has: a 0 or 1 for each class, or class numbers.
    """
    if zeros_and_ones:
        paths, result = read_multi_hot(path)
        if classes is not None and result.shape[1] != classes:
            raise DataError(
                f"{path} has {result.shape[1]} zeros and ones a line, and class_names holds {classes}"
                + zh("label_count_not_class_count")
            )
        return paths, result
    paths, numbers = read_labels(path)
    last = max(itertools.chain(*numbers))
    if classes is not None and last >= classes:
        raise DataError(
            f"{path} has label {last}, and class_names holds {classes}" + zh("label_beyond_classes")
        )
    result = np.zeros((len(paths), classes or last + 1), np.uint8)
    for row, chosen in enumerate(numbers):
        result[row, chosen] = 1
    return paths, result


def nearest(name: str, names: Sequence[str]) -> str:
    """Words for an error about an unknown class name: "is not among the 10 known classes (nearest: ...)"."""
    text = f"is not among the {len(names)} known classes"
    close = difflib.get_close_matches(name, list(names)[:5000], n=2)
    return text + (f" (nearest: {', '.join(repr(c) for c in close)})" if close else "")
