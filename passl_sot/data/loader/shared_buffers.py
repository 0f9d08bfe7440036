"""The memory that batches travel through: slots that workers write and the training process reads in place.

A batch isn't copied on its way: its arrays, and the tensors that share their memory, are views of a slot. The
slot is used again when the last of them is gone, so a consumer may keep a batch as long as it likes.
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
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

_ALIGNED = 64
# 1 + the item that a worker reads (0: none), and since when (ns).
_PROGRESS = struct.Struct("=qq")

# Name, type, shape and offset of each array in a slot.
Layout = list[tuple[str, str, tuple[int, ...], int]]


class SharedMemory:
    """Memory without a name, which a worker shares that is given the object when it is started.

    Args:
        size: Bytes.
        file: Descriptor of memory that another process has made.
    """

    def __init__(self, size: int, file: int | None = None):
        self.size = size
        # memfd_create leaves nothing behind however a run ends, and isn't part of /dev/shm, which containers
        # make 64 MB small. Both can't be said of multiprocessing.shared_memory.
        if file is None:
            file = os.memfd_create("passl_sot")
            os.ftruncate(file, size)
        self.file = file
        weakref.finalize(self, os.close, file)
        self.memory = mmap.mmap(self.file, size)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (self.size, reduction.DupFd(self.file))  # type: ignore[attr-defined]


def _attach(size: int, handle: Any) -> SharedMemory:
    return SharedMemory(size, handle.detach())


class BufferPool:
    """Slots of one size, after a page on which workers note the item they read.

    Args:
        slots: How many.
        slot_bytes: Size of each.

    Attributes:
        slots: How many there are.
        shared: The memory, for workers.
        free: Offsets of the free slots.
    """

    def __init__(self, slots: int, slot_bytes: int):
        self.slots = slots
        self.slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.shared = SharedMemory(mmap.PAGESIZE + slots * self.slot_bytes)
        self.free = collections.deque(mmap.PAGESIZE + slot * self.slot_bytes for slot in range(slots))

    def acquire(self) -> int | None:
        """Offset of a free slot; None while all are in use."""
        if not self.free:
            return None
        return self.free.popleft()

    def release(self, offset: int | None) -> None:
        """Frees a slot that nothing was written to."""
        if offset is not None:
            self.free.append(offset)

    def progress(self, worker: int) -> tuple[int | None, float]:
        """The item that a worker is reading, None while it reads none, and for how many seconds."""
        item, since = _PROGRESS.unpack_from(self.shared.memory, worker * _PROGRESS.size)
        seconds = (time.monotonic_ns() - since) / 1e9
        if not item:
            return None, seconds
        return item - 1, seconds

    def arrays(self, offset: int, layout: Layout) -> dict[str, np.ndarray]:
        """The arrays that a worker has put into a slot; the slot is free again when all of them are gone."""
        left = [len(layout)]  # counted down by the arrays as they go
        arrays = {}
        for name, dtype, shape, begin in layout:
            array = np.ndarray(shape, dtype, self.shared.memory, offset + begin)
            # Tensors made of an array by DLPack keep it alive. At exit the memory goes with the process.
            weakref.finalize(array, _count_down, self.free, offset, left).atexit = False
            arrays[name] = array
        return arrays


def _count_down(free: collections.deque[int], offset: int, left: list[int]) -> None:
    left[0] -= 1
    if not left[0]:
        free.append(offset)


def note_progress(memory: mmap.mmap, worker: int, item: int | None) -> None:
    """Notes the item that a worker begins to read, None when it is done; called by the worker."""
    if item is None:
        item = -1
    # The clock is the machine's, the same in all of its processes.
    _PROGRESS.pack_into(memory, worker * _PROGRESS.size, item + 1, time.monotonic_ns())


class Slot:
    """A slot, as seen by the worker that fills it.

    Args:
        memory: The memory of the buffer pool.
        offset: Where the slot begins; None where there is none for this batch.
        slot_bytes: Its size.
    """

    def __init__(self, memory: mmap.mmap, offset: int | None, slot_bytes: int):
        self._memory = memory
        self._offset = offset or 0
        if offset is None:
            slot_bytes = 0
        self._bytes = slot_bytes

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """Memory for the first array of the batch, of the slot itself where it fits."""
        if size_of(shape, np.dtype(dtype).itemsize) > self._bytes:
            return np.empty(shape, dtype)
        return np.ndarray(shape, dtype, self._memory, self._offset)

    def put(self, arrays: Mapping[str, np.ndarray]) -> Layout | None:
        """Writes arrays to the slot, the first one unless it is there already.

        Returns:
            The layout for `BufferPool.arrays`; None where they don't fit.
        """
        layout: Layout = []
        size = 0
        for name, array in arrays.items():
            layout.append((name, array.dtype.str, array.shape, size))
            size += size_of(array.shape, array.itemsize)
        if size > self._bytes:
            return None
        for name, dtype, shape, begin in layout:
            target = np.ndarray(shape, dtype, self._memory, self._offset + begin)
            # Images are normalized straight into the slot, which saves another pass over them.
            if _address(target) != _address(arrays[name]):
                target[...] = arrays[name]
        return layout


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def size_of(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes that an array takes in a slot."""
    return -(-math.prod(shape) * itemsize // _ALIGNED) * _ALIGNED
