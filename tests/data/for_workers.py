"""Parts of datasets that workers import, and Paddle not with them."""

from __future__ import annotations

import numpy as np

from passl_sot.data import Dataset, ImageFolder, ItemError


class Sequences(Dataset):
    """1 to 5 numbers each, no images or labels; the fourth can't be read."""

    noun = "sequence"

    def __init__(self, room: int):
        self.room = room

    def __len__(self) -> int:
        return 12

    def sample(self, key, out=None) -> dict:
        epoch, index = key
        if index == 3:
            raise ItemError(self.describe(index), "it is left out")
        return {"steps": np.full(1 + index % 5, self.seed + 10.0 * epoch + index), "index": index}

    def collate(self, samples) -> dict:
        steps = [sample["steps"] for sample in samples]
        padded = np.zeros((len(steps), max(map(len, steps))), np.float32)
        for row, values in zip(padded, steps, strict=True):
            row[: len(values)] = values
        return {"steps": padded, "index": np.array([sample["index"] for sample in samples], np.int64)}

    def slot_bytes(self, batch_size: int) -> int:
        return self.room


class SilentDisk(ImageFolder):
    """Reads pipes as well: they never answer, as a disk of the network may."""

    def stored(self, index: int) -> bytes:
        with open(self.path(index), "rb") as file:
            return file.read()


def fail(image, rng):
    """A transform in which something goes wrong."""
    raise KeyError("a transform's own trouble")
