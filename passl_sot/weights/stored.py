"""Tensors as files keep them: a type, a shape and a place, whose numbers are read when they are asked for."""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from passl_sot.weights import CheckpointError
from passl_sot.weights.budget import Budget
from passl_sot.weights.safe_pickle import Record

ByteOrder = Literal["little", "big"]
MOST_AXES = 32  # NumPy takes 64; no weights have half of them
# PyTorch's names of types, and NumPy's of the same or, for those that are widened, of as many bits.
DTYPES = {
    "float32": "f4", "float64": "f8", "float16": "f2", "bfloat16": "u2", "int64": "i8", "int32": "i4",
    "int16": "i2", "int8": "i1", "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "bool": "?",
    "complex64": "c8", "complex128": "c16", "float8_e4m3fn": "u1", "float8_e5m2": "u1",
}  # fmt: skip


def _bfloat16(bits: np.ndarray) -> np.ndarray:
    # They are the upper half of a float32's.
    return (bits.astype("u4") << 16).view("f4")


def _float8_e5m2(bits: np.ndarray) -> np.ndarray:
    # They are the upper half of a float16's.
    return (bits.astype("u2") << 8).view("f2").astype("f4")


def _float8_e4m3fn(bits: np.ndarray) -> np.ndarray:
    # Sign, four bits of exponent, three of the fraction; no infinities, and all bits set is NaN.
    code = np.arange(256)
    exponent = code >> 3 & 15
    fraction = (code & 7).astype("f8")
    size = np.where(exponent, np.ldexp(8 + fraction, exponent - 10), np.ldexp(fraction, -9))
    size[code & 127 == 127] = np.nan
    return np.where(code < 128, size, -size).astype("f4")[bits]


# What NumPy has no type for, as float32, which holds each of their values exactly.
_WIDENED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bfloat16": _bfloat16,
    "float8_e4m3fn": _float8_e4m3fn,
    "float8_e5m2": _float8_e5m2,
}


@dataclass(eq=False)
class Storage:
    """The numbers that one or more tensors view."""

    key: str  # its name in the file
    dtype: str  # PyTorch's name of the element type
    count: int  # of elements
    read: Callable[[int], Any]  # gives so many of its bytes
    byteorder: ByteOrder = "little"
    start: int = 0  # first element, where the file keeps a view of a larger storage

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def end(self) -> int:
        """The byte behind its last."""
        return (self.start + self.count) * self.itemsize


class StoredTensor(Record):
    """A view into a storage, with PyTorch's name of its type."""

    def __init__(self, storage: Storage, offset: int, shape: Any, stride: Any, dtype: str | None = None):
        self.storage = storage
        self.offset = offset
        self.shape = tuple(shape)
        self.stride = tuple(stride)
        self.dtype = dtype or storage.dtype
        numbers = (self.offset, *self.shape, *self.stride)
        sound = isinstance(storage, Storage) and len(self.shape) == len(self.stride) <= MOST_AXES
        if not sound or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            shown = f"{reprlib.repr(self.shape)} and strides {reprlib.repr(self.stride)}"
            raise CheckpointError(f"it is damaged (a tensor of sizes {shown})")

    @property
    def view(self) -> tuple:
        """Equal for tensors of the same numbers of one storage."""
        return self.storage.start, self.storage.count, self.offset, self.shape, self.stride, self.dtype

    def array(self, raw: Any, budget: Budget) -> np.ndarray:
        """The numbers as an array of their own, in C order, out of all bytes of the storage.

        Raises:
            CheckpointError: The tensor reaches beyond its storage, or is too large for the budget.
        """
        storage = self.storage
        stored = np.dtype(DTYPES[self.dtype])
        values = np.frombuffer(
            memoryview(raw)[storage.start * storage.itemsize : storage.end],
            stored.newbyteorder(storage.byteorder),
        )
        count = math.prod(self.shape)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        if count and last >= values.size:
            raise CheckpointError(
                f"it is damaged (a tensor of {list(self.shape)} reaches beyond its storage of {values.size})"
            )
        widen = _WIDENED.get(self.dtype)
        itemsize = stored.itemsize
        if widen:
            itemsize = 4
        # Small storages become large arrays by strides of 0, and by many overlapping views.
        budget.take(count * itemsize)
        if count:
            # An axis of one element may have any stride.
            steps = [s * values.itemsize * (n > 1) for n, s in zip(self.shape, self.stride, strict=True)]
            values = np.lib.stride_tricks.as_strided(
                values[self.offset :], self.shape, steps, writeable=False
            )
            values = np.array(values, dtype=stored, order="C")
        else:
            values = np.zeros(self.shape, stored)
        if widen:
            values = widen(values)
        return values


def read_arrays(tensors: Mapping[str, StoredTensor], budget: Budget) -> dict[str, np.ndarray]:
    """The arrays of tensors of one file; those that are one view of one storage share an array.

    What NumPy has no type for (bfloat16, the two 8-bit floats) is float32.

    Raises:
        CheckpointError: As of `StoredTensor.array`; names the tensor.
    """
    names_of: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        names_of.setdefault(tensor.storage.key, []).append(name)
    found = {}
    # Storage by storage, so that each is read once, and freed.
    for names in names_of.values():
        arrays: dict[tuple, np.ndarray] = {}
        name = names[0]
        try:
            raw = tensors[name].storage.read(max(tensors[name].storage.end for name in names))
            for name in names:
                view = tensors[name].view
                if view not in arrays:
                    arrays[view] = tensors[name].array(raw, budget)
                found[name] = arrays[view]
        except (CheckpointError, MemoryError) as error:
            raise CheckpointError(f"{name}: {str(error) or 'too large for this memory'}") from None
        except ValueError as error:  # NumPy's, of shapes that no array can have
            raise CheckpointError(f"{name}: it is damaged ({error})") from error
    return {name: found[name] for name in tensors}
