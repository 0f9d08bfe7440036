"""The memory that batches travel through: slots that workers write and the training process reads in place.

A batch isn't copied on its way: its arrays, and the tensors that share their memory, are views of a slot. The
slot is used again when the last of them is gone, so a consumer may keep a batch as long as it likes.
"""

import collections
import math
import mmap
import os
import weakref
from multiprocessing.heap import Arena
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

_ALIGNED = 64

# Name, type, shape and offset of each array in a slot.
Layout = list[tuple[str, str, tuple[int, ...], int]]


def shared_memory(size: int) -> Arena:
    """Memory of `size` bytes, its `buffer`, that a worker shares which is given the object at its start."""
    # memfd_create leaves nothing behind however a run ends, and isn't part of /dev/shm, which containers
    # make 64 MB small. Both can't be said of files that `Arena` makes, or multiprocessing.shared_memory.
    file = os.memfd_create("passl_sot")
    os.ftruncate(file, size)
    arena = Arena(size, file)
    weakref.finalize(arena, os.close, file)
    return arena


def progress_in(memory: mmap.mmap, worker: int) -> np.ndarray:
    """A worker's `BatchReader.progress`, of those on the first page."""
    return np.ndarray(2, np.int64, memory, 16 * worker)


class BufferPool:
    """Slots of at least `slot_bytes` each, after a page on which workers note the item they read.

    Attributes:
        shared: The memory, for workers.
        free: Offsets of the free slots.
    """

    def __init__(self, slots: int, slot_bytes: int):
        self.slots = slots
        self.slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.shared = shared_memory(mmap.PAGESIZE + slots * self.slot_bytes)
        self.free = collections.deque(mmap.PAGESIZE + slot * self.slot_bytes for slot in range(slots))

    def release(self, offset: int | None) -> None:
        """Frees a slot that nothing was written to."""
        if offset is not None:
            self.free.append(offset)

    def arrays(self, offset: int, layout: Layout) -> dict[str, np.ndarray]:
        """The arrays that a worker has put into a slot; the slot is free again when all of them are gone."""
        slot = slot_at(self.shared.buffer, offset, self.slot_bytes)
        # Arrays keep it alive, as tensors made of them by DLPack do. At exit memory goes with the process.
        weakref.finalize(slot, self.free.append, offset).atexit = False
        return {name: np.ndarray(shape, dtype, slot, begin) for name, dtype, shape, begin in layout}


def slot_at(memory: mmap.mmap, offset: int | None, slot_bytes: int) -> np.ndarray:
    """The bytes of a slot; none where there is no slot for a batch."""
    return np.ndarray(0 if offset is None else slot_bytes, np.uint8, memory, offset or 0)


def empty_in(slot: np.ndarray, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Memory for the first array of a batch, of its slot where it fits."""
    if size_of(shape, np.dtype(dtype).itemsize) > slot.nbytes:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, slot)


def move(batch: dict[str, Any], slot: np.ndarray) -> Layout:
    """Moves the arrays of a batch to a slot; without any, or where they don't fit, the layout is empty."""
    arrays = {name: value for name, value in batch.items() if isinstance(value, np.ndarray)}
    if sum(size_of(array.shape, array.itemsize) for array in arrays.values()) > slot.nbytes:
        return []
    layout: Layout = []
    begin = 0
    for name, array in arrays.items():
        target = np.ndarray(array.shape, array.dtype, slot, begin)
        # Images are normalized straight into the slot, which saves another pass over them.
        if target.ctypes.data != array.ctypes.data:
            target[...] = array
        layout.append((name, array.dtype.str, array.shape, begin))
        begin += size_of(array.shape, array.itemsize)
        del batch[name]
    return layout


def size_of(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes that an array takes in a slot."""
    return -(-math.prod(shape) * itemsize // _ALIGNED) * _ALIGNED
