"""The memory that batches travel through: slots that workers write and the training process reads in place.

A batch isn't copied on its way: its arrays, and the tensors that share their memory, are views of a slot. The
slot is used again when the last of them is gone, so a consumer may keep a batch as long as it likes.

The memory has no name and no file (`memfd_create`): nothing is left behind however a run ends, and it isn't
part of /dev/shm, which containers make 64 MB small.
"""

from __future__ import annotations

import collections
import math
import mmap
import os
import struct
import time
import weakref
from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

_ALIGNED = 64
# 1 + the image that a worker reads (0: none), and since when (ns).
_NOTE = struct.Struct("=qq")

# Name, type, shape and place of each array in a slot.
Layout = list[tuple[str, str, tuple[int, ...], int]]


class Ring:
    """Slots of one size, as the training process sees them, after a page on which workers say what they do.

    Args:
        slots: How many.
        slot_bytes: Size of each.

    Attributes:
        slots: How many there are.
        file: File descriptor of the memory, for workers.
        free: Places of the slots that are free.
    """

    def __init__(self, slots: int, slot_bytes: int):
        self.slots = slots
        self.slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.file = os.memfd_create("passl_sot batches")
        weakref.finalize(self, os.close, self.file)
        size = mmap.PAGESIZE + slots * self.slot_bytes
        os.ftruncate(self.file, size)
        self._memory = mmap.mmap(self.file, size)
        self.free = collections.deque(mmap.PAGESIZE + slot * self.slot_bytes for slot in range(slots))

    def take(self) -> int | None:
        """Place of a free slot in the memory; None while all are in use."""
        return self.free.popleft() if self.free else None

    def give_back(self, place: int) -> None:
        """Frees a slot that nothing was written to."""
        self.free.append(place)

    def whereabouts(self, worker: int) -> tuple[int | None, float]:
        """The image that a worker is reading, None while it reads none, and for how many seconds."""
        image, since = _NOTE.unpack_from(self._memory, worker * _NOTE.size)
        return image - 1 if image else None, (time.monotonic_ns() - since) / 1e9

    def arrays(self, place: int, layout: Layout) -> dict[str, np.ndarray]:
        """What a worker has put into a slot; the slot is free again when all of these arrays are gone."""
        left = [len(layout)]
        arrays = {}
        for name, dtype, shape, offset in layout:
            array = np.ndarray(shape, dtype, self._memory, place + offset)
            # Tensors made of it by DLPack keep it alive.
            weakref.finalize(array, _forget, self.free, place, left).atexit = False
            arrays[name] = array
        return arrays


def _forget(free: collections.deque[int], place: int, left: list[int]) -> None:
    left[0] -= 1
    if not left[0]:
        free.append(place)


def note(memory: mmap.mmap, worker: int, image: int | None) -> None:
    """Says which image a worker reads, None for none; called by the worker."""
    _NOTE.pack_into(memory, worker * _NOTE.size, 0 if image is None else image + 1, time.monotonic_ns())


class Slot:
    """A slot, as the worker sees it that fills it.

    Args:
        memory: The memory of the ring.
        place: Where the slot begins; None where there is none for this batch.
        slot_bytes: Its size.
    """

    def __init__(self, memory: mmap.mmap, place: int | None, slot_bytes: int):
        self._memory, self._place = memory, place or 0
        self._bytes = 0 if place is None else slot_bytes

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """Memory for the first array of the batch, of the slot itself where it fits."""
        if size_of(shape, np.dtype(dtype).itemsize) > self._bytes:
            return np.empty(shape, dtype)
        return np.ndarray(shape, dtype, self._memory, self._place)

    def put(self, arrays: Mapping[str, np.ndarray]) -> Layout | None:
        """Writes arrays to the slot, the first one unless it is there already.

        Returns:
            What was written where, for `Ring.arrays`; None where they don't fit.
        """
        layout: Layout = []
        offset = 0
        for name, array in arrays.items():
            layout.append((name, array.dtype.str, array.shape, offset))
            offset += size_of(array.shape, array.itemsize)
        if offset > self._bytes:
            return None
        for name, dtype, shape, begin in layout:
            target = np.ndarray(shape, dtype, self._memory, self._place + begin)
            if _address(target) != _address(arrays[name]):
                target[...] = arrays[name]
        return layout


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def size_of(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes that an array takes in a slot."""
    return -(-math.prod(shape) * itemsize // _ALIGNED) * _ALIGNED
