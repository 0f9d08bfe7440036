"""Makes batches of samples, inside of the worker processes."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from passl_sot.data.errors import DataError
from passl_sot.data.loader.corrupt_files import GuardedReader
from passl_sot.data.rng import Key

# Gives memory for an array of a shape and a type, as `numpy.empty` does.
Empty = Callable[..., np.ndarray]


class Collate:
    """Reads the samples of a batch and joins them to arrays; as the reader, it never raises.

    Args:
        reader: Reads single samples; the `batch_stage` of its dataset works on every batch.
    """

    def __init__(self, reader: GuardedReader):
        self.reader = reader

    def __call__(self, keys: Sequence[Key], empty: Empty = np.empty) -> dict[str, Any]:
        """The batch.

        Args:
            keys: Which images.
            empty: Gives the memory that the images are written to in the end.

        Returns:
            `image` float32 [B, C, H, W], `label` int64 [B] or float32 [B, K] (soft targets of `Mixup`, or
            several labels),
            `index` int64 [B], `bad` (list of [index, reason]); after an error `bad` and `error` alone.
        """
        bad: list[list[Any]] = []
        try:
            joined = self.reader.read_all(keys, empty)
            if joined is None:
                joined, bad, error = self._join(keys, empty)
                if joined is None:
                    return {"bad": bad, "error": error}
            return {**self._finish(joined, keys, empty), "bad": bad}
        except DataError as fault:
            text = str(fault)
        except Exception:
            # As in the reader: the user needs the traceback of the worker.
            text = f"in batch_transforms:\n{traceback.format_exc()}"
        return {"bad": bad, "error": ["", text]}

    def _join(
        self, keys: Sequence[Key], empty: Empty
    ) -> tuple[dict[str, np.ndarray] | None, list[list[Any]], list[str] | None]:
        """Samples read one by one, and entries of `bad`; or None, `bad` and what is wrong."""
        floats = self._floats(len(keys), empty)
        rows = [None] * len(keys) if floats is None else list(floats)
        samples = [self.reader.read(key, row) for key, row in zip(keys, rows, strict=True)]
        bad = [entry for sample in samples for entry in sample["bad"]]
        error = next((sample["error"] for sample in samples if "error" in sample), None) or _sizes(samples)
        if error is not None:
            return None, bad, error
        images = floats
        if images is None or any(
            sample["image"] is not row for sample, row in zip(samples, rows, strict=True)
        ):
            images = self._stack([sample["image"] for sample in samples], empty)
        kind = np.int64 if self.reader.dataset.multi_hot is None else np.float32
        label = np.array([sample["label"] for sample in samples], kind)
        index = np.array([sample["index"] for sample in samples], np.int64)
        return {"image": images, "label": label, "index": index}, bad, None

    def _floats(self, images: int, empty: Empty) -> np.ndarray | None:
        """What images can be normalised into, float32 [B, C, H, W], where their size is known."""
        dataset = self.reader.dataset
        if dataset.transforms.output_hw is None or not dataset.transforms.normalizes:
            return None
        return empty((images, dataset.channels, *dataset.transforms.output_hw), np.float32)

    def _stack(self, images: list[np.ndarray], empty: Empty) -> Any:
        if not self.reader.dataset.transforms.normalizes:
            return images  # the batch stage will join them
        return np.stack(images, out=empty((len(images), *images[0].shape), images[0].dtype))

    def _finish(
        self, joined: dict[str, np.ndarray], keys: Sequence[Key], empty: Empty
    ) -> dict[str, np.ndarray]:
        dataset = self.reader.dataset
        if dataset.batch_stage is None:
            return joined
        images, labels = dataset.batch_stage(
            joined["image"], joined["label"], seed=dataset.seed, keys=keys, overwrite=True, empty=empty
        )
        return {**joined, "image": images, "label": labels}


def _sizes(samples: list[dict[str, Any]]) -> list[str] | None:
    shapes = {sample["image"].shape: sample["index"] for sample in samples}
    if len(shapes) == 1:
        return None
    listed = ", ".join(f"{list(shape)} (image {index})" for shape, index in shapes.items())
    return [
        "",
        f"the images of a batch differ in size after the transforms: {listed}. Before Normalize they need "
        "CenterCrop, RandomResizedCrop or Resize with size: [height, width]",
    ]
