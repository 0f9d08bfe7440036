"""Joins samples into batches, inside of the worker processes."""

from __future__ import annotations

import traceback
from typing import Any

import numpy as np

from passl_sot.data.datasets import LabelledImages
from passl_sot.data.errors import DataError


class Collate:
    """Joins samples of a `GuardedReader` into a batch of arrays; as the reader, it never raises.

    Args:
        dataset: The dataset that the samples are from; its `batch_stage` works on every batch.
    """

    def __init__(self, dataset: LabelledImages):
        self.dataset = dataset

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch.

        Returns:
            `image` float32 [B, C, H, W], `label` int64 [B] or float32 [B, K] (soft targets of `Mixup`, or
            several labels),
            `index` int64 [B], `bad` (list of [index, reason]); after an error `bad` and `error` alone.
        """
        bad = [entry for sample in samples for entry in sample["bad"]]
        error = next((sample["error"] for sample in samples if "error" in sample), None) or _sizes(samples)
        if error is None:
            try:
                return {**self._join(samples), "bad": bad}
            except DataError as fault:
                error = ["", str(fault)]
            except Exception:
                # As in the reader: the user needs the traceback of the worker.
                error = ["", f"in batch_transforms:\n{traceback.format_exc()}"]
        return {"bad": bad, "error": error}

    def _join(self, samples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        images = np.stack([sample["image"] for sample in samples])
        several = self.dataset.multi_hot is not None
        labels = np.array([sample["label"] for sample in samples], np.float32 if several else np.int64)
        if self.dataset.batch_stage is not None:
            keys = [sample["asked"] for sample in samples]
            images, labels = self.dataset.batch_stage(
                images, labels, seed=self.dataset.seed, keys=keys, overwrite=True
            )
        index = np.array([sample["index"] for sample in samples], np.int64)
        return {"image": images, "label": labels, "index": index}


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
