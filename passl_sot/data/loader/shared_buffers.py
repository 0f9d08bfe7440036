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
    """Memory of `size` bytes without a name, which a worker shares that is given the object at its start."""

    def __init__(self, size: int, file: int | None = None):
        self.size = size
        # memfd_create leaves nothing behind however a run ends, and isn't part of /dev/shm, which containers
        # make 64 MB small. Both can't be said of multiprocessing.shared_memory.
        if file is None:  # else it is memory that another process has made
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
    """Slots of at least `slot_bytes` each, after a page on which workers note the item they read.

    Attributes:
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
        return self.free.popleft() if self.free else None

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
    number = 0 if item is None else item + 1
    # The clock is the machine's, the same in all of its processes.
    _PROGRESS.pack_into(memory, worker * _PROGRESS.size, number, time.monotonic_ns())


class Slot:
    """A slot as the worker sees it that fills it; `offset` is None where there is none for a batch."""

    def __init__(self, memory: mmap.mmap, offset: int | None, slot_bytes: int):
        self._memory = memory
        self._offset = offset or 0
        self._bytes = 0 if offset is None else slot_bytes

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """Memory for the first array of the batch, of the slot itself where it fits."""
        if size_of(shape, np.dtype(dtype).itemsize) > self._bytes:
            return np.empty(shape, dtype)
        return np.ndarray(shape, dtype, self._memory, self._offset)

    def put(self, arrays: Mapping[str, np.ndarray]) -> Layout | None:
        """Writes arrays to the slot; their layout for `BufferPool.arrays`, or None where they don't fit."""
        if sum(size_of(array.shape, array.itemsize) for array in arrays.values()) > self._bytes:
            return None
        layout: Layout = []
        begin = 0
        for name, array in arrays.items():
            target = np.ndarray(array.shape, array.dtype, self._memory, self._offset + begin)
            # Images are normalized straight into the slot, which saves another pass over them.
            if target.ctypes.data != array.ctypes.data:
                target[...] = array
            layout.append((name, array.dtype.str, array.shape, begin))
            begin += size_of(array.shape, array.itemsize)
        return layout


def size_of(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes that an array takes in a slot."""
    return -(-math.prod(shape) * itemsize // _ALIGNED) * _ALIGNED
