"""PyTorch's own files, read without PyTorch and without running anything from them.

Since 1.6 `torch.save` writes a zip archive: `data.pkl` with the objects, and beside it the raw bytes of every
storage. Before (and with `_use_new_zipfile_serialization=False`) it wrote one stream: a magic number, a
protocol number, facts about the machine, the objects, the keys of the storages, and each storage's length and
bytes. In both the objects are a pickle that refers to storages by persistent identifiers, and a tensor is
a view into a storage: offset, sizes, strides. `safe_pickle` decodes it, which can't call anything.
"""

import io
import re
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from passl_sot.weights import CheckpointError
from passl_sot.weights.budget import Budget
from passl_sot.weights.safe_pickle import NUMPY_NAMES, Maker, Name, Record, load_pickle
from passl_sot.weights.safetensors_file import read_at
from passl_sot.weights.stored import DTYPES, ByteOrder, Storage, StoredTensor

MAGIC = 0x1950A86A20F9469CFC6C
# Errors of zipfile on damaged archives; RuntimeError on flags that make no sense, such as encryption.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, OSError, UnicodeError)
_STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    "ComplexFloat": "complex64", "ComplexDouble": "complex128", "Untyped": "uint8",
}  # fmt: skip
_STORAGE_TYPES = {
    f"{module}.{name}Storage": dtype
    for name, dtype in _STORAGES.items()
    for module in ("torch", "torch.cuda", "torch.storage")
}


def _rebuild(storage: Any, offset: int, shape: Any, stride: Any, *more: Any) -> StoredTensor:
    # more: requires_grad, hooks, and flags of a tensor that is conjugated or negated when used.
    if len(more) > 2 and more[2]:
        raise CheckpointError("it holds a conjugated or negated view; save it with .resolve_neg() first")
    return StoredTensor(storage, offset, shape, stride)


def _rebuild_v3(
    storage: Any, offset: int, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Name, *_: Any
) -> StoredTensor:
    name = dtype.text.removeprefix("torch.")
    if name not in DTYPES:
        raise CheckpointError(f"it holds a tensor of type {dtype.text}, which is not read here")
    return StoredTensor(storage, offset, shape, stride, name)


def _first(value: Any, *_: Any) -> Any:
    return value


def _from_type(function: Any, kind: Name, arguments: tuple, _state: Any) -> Any:
    # Tensors with attributes of their own: (how to rebuild, class, its arguments, attributes).
    rebuild = _NAMES[function.text] if isinstance(function, Name) else None
    if rebuild is None or not function.text.startswith("torch._utils._rebuild_"):
        raise CheckpointError(f"it rebuilds a {kind} by {function}, which weights don't need")
    return rebuild(*arguments)


# Other contents of training checkpoints: their objects become records.
_RECORDS = (
    "argparse.Namespace", "builtins.bytearray", "builtins.range", "builtins.slice", "datetime.date",
    "datetime.datetime", "datetime.timedelta", "torch.Generator", "torch.device", "types.SimpleNamespace",
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath", "pathlib._local.PurePosixPath",
)  # fmt: skip
_NAMES: dict[str, Maker | None] = {
    **NUMPY_NAMES,
    **dict.fromkeys(_RECORDS, Record),
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _first,
    "torch.Size": tuple,
    "yacs.config.CfgNode": NUMPY_NAMES["builtins.dict"],
    **dict.fromkeys(_STORAGE_TYPES),
    **dict.fromkeys(f"torch.{name}" for name in (*DTYPES, "Tensor")),
    **dict.fromkeys(("torch.contiguous_format", "torch.channels_last", "torch.preserve_format")),
}


def _load(file: BinaryIO, budget: Budget, *persistent: Maker) -> Any:
    try:
        return load_pickle(file, _NAMES, *persistent, budget=budget)
    except CheckpointError as error:
        if str(error).startswith("it asks for"):
            hint = "; if it is a whole model rather than a state dict, save model.state_dict()"
            raise CheckpointError(f"{error}{hint}") from None
        raise


def _storage(identifier: Any, read: Callable[[str, int], Any], byteorder: ByteOrder) -> Storage:
    """The storage of a persistent identifier: ("storage", type, key, device, count), at times with a view."""
    if not isinstance(identifier, tuple):
        identifier = (identifier,)
    if len(identifier) not in (5, 6) or identifier[0] != "storage":
        shown = next(iter(identifier), ())
        raise CheckpointError(
            f"it refers to a {reprlib.repr(shown)} outside its pickle, which weights don't; refused"
        )
    _, kind, key, _, count, *views = identifier
    kind = getattr(kind, "text", reprlib.repr(kind))  # of a Name
    if kind not in _STORAGE_TYPES:
        raise CheckpointError(f"it holds a storage of type {kind}, which is not read here")
    if not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**48:
        shown = f"{reprlib.repr(key)} of {reprlib.repr(count)}"
        raise CheckpointError(f"it is damaged (a storage {shown} elements)")
    storage = Storage(key, _STORAGE_TYPES[kind], count, partial(read, key), byteorder)
    if views and views[0] is not None:
        _, start, length = views[0]
        storage.start = int(start)
        storage.count = int(length)
        if not 0 <= storage.start <= 2**48 or not 0 <= storage.count <= 2**48:
            raise CheckpointError(f"it is damaged (a view {reprlib.repr(views[0])} of a storage)")
    return storage


def read_zip(archive: zipfile.ZipFile, budget: Budget) -> Any:
    """The objects of a file in the zip format; tensors are `StoredTensor`, which read from it later.

    Raises:
        CheckpointError: It is damaged, another kind of zip, or asks for what weights don't need.
    """
    names = archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if not roots:
        raise CheckpointError("it is a zip archive, but not one that torch.save wrote (no data.pkl)")
    root = roots[0]
    if any(name.startswith(f"{root}code/") for name in names):
        raise CheckpointError("it is a TorchScript program, not weights; save model.state_dict()")
    # Files from before PyTorch 2.1 don't say; they are from little-endian machines.
    byteorder: ByteOrder = "little"
    if f"{root}byteorder" in names and _member(archive, f"{root}byteorder").strip() == b"big":
        byteorder = "big"

    def read(key: str, length: int) -> Any:
        return memoryview(_member(archive, f"{root}data/{key}", length))[:length]

    pickled = io.BytesIO(_member(archive, f"{root}data.pkl"))
    return _load(pickled, budget, lambda identifier: _storage(identifier, read, byteorder))


def _member(archive: zipfile.ZipFile, name: str, length: int = 0) -> bytes:
    try:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            # A few kilobytes could expand to any size.
            raise CheckpointError(f"{name} is compressed, which torch.save never does")
        if info.file_size < length:
            raise CheckpointError(f"it is damaged ({name} has {info.file_size} bytes of {length})")
        return archive.read(info)
    except KeyError:
        raise CheckpointError(f"it is damaged (there is no {name} in it)") from None
    except ZIP_ERRORS as error:
        raise CheckpointError(f"it is damaged ({name}: {error})") from error


def read_legacy(file: BinaryIO, path: Path, budget: Budget) -> Any:
    """The objects of a file, open behind its magic number, in the format before the zip.

    Tensors are `StoredTensor`.

    Raises:
        CheckpointError: It is damaged, or asks for what weights don't need.
    """
    places: dict[str, tuple[int, int]] = {}  # key of a storage: where its bytes begin, how many there are
    itemsizes: dict[str, int] = {}  # by key of a storage

    def read(key: str, length: int) -> bytes:
        start, there = places[key]
        if there < length:
            raise CheckpointError(f"it is damaged (storage {key} has {there} bytes of {length})")
        return read_at(path, start, length)

    def persistent(identifier: Any) -> Storage:
        storage = _storage(identifier, read, byteorder)
        itemsizes[storage.key] = storage.itemsize
        return storage

    _load(file, budget)  # the protocol's number, 1001 in every release
    machine = _load(file, budget)
    byteorder: ByteOrder = "little"
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        byteorder = "big"
    content = _load(file, budget, persistent)
    keys = _load(file, budget)
    end = path.stat().st_size
    if not isinstance(keys, list):
        keys = [keys]
    for key in keys:
        if not isinstance(key, str) or key not in itemsizes:
            raise CheckpointError(f"it is damaged (a storage {reprlib.repr(key)} that no tensor uses)")
        count = int.from_bytes(file.read(8), byteorder, signed=True)
        places[key] = (file.tell(), count * itemsizes[key])
        if count < 0 or sum(places[key]) > end:
            raise CheckpointError(f"it is cut short: storage {key} should have {count} elements")
        file.seek(places[key][1], io.SEEK_CUR)
    lacking = sorted(itemsizes.keys() - places.keys())
    if lacking:
        raise CheckpointError(f"it is cut short: there is no storage {lacking[0]}")
    return content
