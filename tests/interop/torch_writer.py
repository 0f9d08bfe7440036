"""Writes files as `torch.save` does, without PyTorch, so that the reader is tested wherever the tests run.

The pickles are made by Python's own pickler from stand-ins under PyTorch's names, and are the bytes that
PyTorch 2.13 writes (`test_real_torch.py` compares them where PyTorch is installed).
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
STORAGES = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short"}
STORAGES |= {"i1": "Char", "u1": "Byte", "b1": "Bool", "c8": "ComplexFloat", "bf16": "BFloat16"}


def _stand_ins() -> dict[str, ModuleType]:
    names = ("torch", "torch._utils", "torch.nn", "torch.nn.parameter", "argparse_free")
    modules = {name: ModuleType(name) for name in names[:4]}
    for name in STORAGES.values():
        kind = type(f"{name}Storage", (), {"__module__": "torch"})
        setattr(modules["torch"], f"{name}Storage", kind)
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_tensor_v3", "_rebuild_qtensor"):

        def function():
            """Never called."""

        function.__module__, function.__name__, function.__qualname__ = "torch._utils", name, name
        setattr(modules["torch._utils"], name, function)
    return modules


MODULES = _stand_ins()


@contextmanager
def pretended_torch():
    """Lets the pickler find the stand-ins."""
    before = {name: sys.modules.get(name) for name in MODULES}
    sys.modules.update(MODULES)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class Storage:
    """Numbers that tensors share. `kind` is a NumPy code, or "bf16" for float32 values cut to bfloat16."""

    def __init__(self, values: np.ndarray, kind: str | None = None):
        self.values = np.ascontiguousarray(values).reshape(-1)
        self.kind = kind or self.values.dtype.str[1:]
        raw = self.values
        if self.kind == "bf16":
            raw = (raw.astype("f4").view("u4") >> 16).astype("u2")
        self.raw = raw.tobytes()

    @property
    def count(self) -> int:
        return len(self.values)


class Tensor:
    """A view into a storage, pickled as PyTorch pickles a tensor."""

    def __init__(
        self, storage: Storage, offset: int, size: tuple, stride: tuple, requires_grad: bool = False
    ):
        self.parts = (storage, offset, size, stride, requires_grad)

    @classmethod
    def of(cls, array: np.ndarray, kind: str | None = None) -> "Tensor":
        """A contiguous tensor with a storage of its own."""
        array = np.asarray(array)
        strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
        return cls(Storage(array, kind), 0, array.shape, strides)

    def __reduce_ex__(self, protocol: int) -> tuple:
        return MODULES["torch._utils"]._rebuild_tensor_v2, (*self.parts, OrderedDict())


class Parameter(Tensor):
    """A tensor pickled as `torch.nn.Parameter` is."""

    def __reduce_ex__(self, protocol: int) -> tuple:
        data = Tensor(*self.parts[:4])
        return MODULES["torch._utils"]._rebuild_parameter, (data, True, OrderedDict())


class _Pickler(pickle.Pickler):
    def __init__(self, file: Any, legacy: bool, keys: list[str] | None, protocol: int):
        super().__init__(file, protocol=protocol)
        self.legacy, self.keys, self.storages = legacy, keys, {}

    def persistent_id(self, obj: Any) -> tuple | None:
        if not isinstance(obj, Storage):
            return None
        number = len(self.storages)
        given = self.keys[number] if self.keys and number < len(self.keys) else str(number)
        key = self.storages.setdefault(id(obj), (given, obj))[0]
        kind = getattr(MODULES["torch"], f"{STORAGES[obj.kind]}Storage")
        if not self.legacy:
            return "storage", kind, key, "cpu", obj.count
        fresh = (key + " ")[:-1]  # a string of its own every time, so that it is never a reference
        return "storage", kind, fresh, "cpu", obj.count, None


def pickled(content: Any, legacy: bool = False, keys: list[str] | None = None, protocol: int = 2) -> tuple:
    """The pickle of `content`, and (key, storage) of each storage in it."""
    file = io.BytesIO()
    pickler = _Pickler(file, legacy, keys, protocol)
    with pretended_torch():
        pickler.dump(content)
    return file.getvalue(), list(pickler.storages.values())


def write_zip(path: Path, content: Any, **replaced: bytes | None) -> Path:
    """The format since 1.6. `replaced` gives other bytes for a member (dots as __), None leaves it out."""
    text, storages = pickled(content)
    members = {"data.pkl": text, ".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}
    members |= {f"data/{key}": storage.raw for key, storage in storages}
    members |= {"version": b"3\n", ".data/serialization_id": b"0" * 40}
    members |= {name.replace("__", ".").replace("data_", "data/"): raw for name, raw in replaced.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, raw in members.items():
            if raw is not None:
                archive.writestr(f"archive/{name}", raw)
    return path


def legacy_bytes(content: Any, keys: list[str] | None = None, protocol: int = 2) -> bytes:
    """The format before 1.6."""
    text, storages = pickled(content, legacy=True, keys=keys, protocol=protocol)
    begin = b"".join(pickle.dumps(part, protocol) for part in (MAGIC, 1001, SYSTEM))
    ordered = sorted(storages, key=lambda pair: pair[0])
    end = pickle.dumps([key for key, _ in ordered], protocol)
    for _, storage in ordered:
        end += storage.count.to_bytes(8, "little") + storage.raw
    return begin + text + end


def write_legacy(path: Path, content: Any, **options: Any) -> Path:
    """Writes `legacy_bytes`."""
    path.write_bytes(legacy_bytes(content, **options))
    return path
