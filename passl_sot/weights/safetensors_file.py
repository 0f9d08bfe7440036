"""Safetensors files, whose numbers are read when they are asked for."""

# The library's reader for NumPy ends with an error at the types that NumPy lacks, bfloat16 among them.

import json
import math
import reprlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from passl_sot.weights import CheckpointError
from passl_sot.weights.budget import Budget
from passl_sot.weights.stored import MOST_AXES, Storage, StoredTensor

_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
_JSON = 64  # bytes of memory that a byte of JSON text becomes at most, nearly: "[[],[],..."


def is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file of these first nine bytes or more is safetensors: a JSON text's length, and "{"."""
    # Asked before anything else: the length's bytes may be those of another kind's mark, such as a pickle's
    # 0x80 in every 32nd file.
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= path.stat().st_size


def read_safetensors(path: Path, budget: Budget) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors, and the texts that the header holds beside them.

    Raises:
        CheckpointError: It is damaged, or holds a type that is not read here.
    """
    if not path.is_file():  # opening a pipe would wait without end
        raise CheckpointError("it is no regular file")
    with path.open("rb") as file:
        head = file.read(9)
        if not is_safetensors(path, head):
            raise CheckpointError("it is damaged or cut short (its header doesn't fit)")
        size = int.from_bytes(head[:8], "little")
        budget.take(_JSON * size)
        file.seek(8)
        text = file.read(size)
    try:
        header = json.loads(text.decode())
        meta = header.pop("__metadata__", None) or {}
        if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
            raise CheckpointError("it is damaged (the __metadata__ of its header are no texts by name)")
        tensors = {name: _tensor(path, 8 + size, name, entry) for name, entry in header.items()}
        # Half of a surrogate pair, which JSON can write, is no text that one could print or hash.
        "".join([*tensors, *meta, *meta.values()]).encode()
        _check_places(entry["data_offsets"] for entry in header.values())
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"it is damaged or no safetensors file ({error})") from error
    return tensors, meta


def _tensor(path: Path, begin: int, name: str, entry: dict) -> StoredTensor:
    """One entry of a file whose tensors begin at that byte."""
    dtype = _TYPES.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(f"{name} is of type {reprlib.repr(entry['dtype'])}, which is not read here")
    shape = entry["shape"]
    start, end = entry["data_offsets"]
    # Before anything is multiplied: products of thousands of numbers take hours.
    if len(shape) > MOST_AXES:
        raise CheckpointError(f"it is damaged ({reprlib.repr(name)} has {len(shape):,} axes)")
    if not all(type(number) is int and 0 <= number < 2**63 for number in (start, end, *shape)):
        raise CheckpointError(f"it is damaged ({name} has a negative or enormous size, or one that is none)")
    storage = Storage(name, dtype, math.prod(shape), partial(read_at, path, begin + start))
    tensor = StoredTensor(storage, 0, shape, [math.prod(shape[axis + 1 :]) for axis in range(len(shape))])
    if end - start != storage.end:
        raise CheckpointError(f"it is damaged ({name} of {shape} has {end - start} bytes)")
    if begin + end > path.stat().st_size:
        raise CheckpointError(f"it is damaged or cut short: {name} lies beyond its end")
    return tensor


def _check_places(places: Iterable[list[int]]) -> None:
    """The format's own rule: each tensor begins where another ends."""
    reached = 0
    for start, end in sorted(places):
        if start != reached:
            raise CheckpointError("it is damaged (its tensors overlap, or leave bytes between them)")
        reached = end


def read_at(path: Path, start: int, length: int) -> bytes:
    """So many bytes of a file."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)
