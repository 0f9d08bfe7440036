"""Finds the weights in a file: its kind, the state dicts in it, and the one to take."""

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from passl_sot.weights import CheckpointError, is_safetensors, torch_file
from passl_sot.weights.pdparams import as_array, load_paddle_pickle
from passl_sot.weights.safe_pickle import load_pickle
from passl_sot.weights.torch_file import Storage, TorchTensor

_PADDLE_SUFFIXES = (".pdparams", ".pdema", ".pd", ".pdmodel")
_OWN_HEADER = "passl_sot"
# In this order: training files of timm's kind hold averaged weights, and the accuracies published from them
# are theirs; DeiT's and Swin's evaluate `model`.
_USUAL = (
    "state_dict_ema", "state_dict", "model", "model_state_dict", "model_state", "model_ema", "ema_state_dict",
    "ema", "module", "net",
)  # fmt: skip
_SAFETENSORS_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip
# Beginnings of files that people take for weights: offset, bytes, and the cure.
_OTHER_KINDS = (
    (0, b"\x1f\x8b", "it is compressed by gzip: unpack it first"),
    (257, b"ustar", "it is a tar archive: unpack it first"),
    (0, b"version https://git-lfs", "it is a pointer of Git LFS: fetch the file itself"),
)


@dataclass
class Source:
    """A file of weights, read but for its tensors."""

    path: Path
    kind: str  # for messages
    layout: Literal["torch", "paddle"]  # a Linear's weight is [out, in], or [in, out]
    content: Any  # nested dictionaries, with tensors and other values as leaves
    preferred: str | None = None  # key of the state dict that the file itself recommends


@dataclass
class StateDict:
    """The state dict that was taken out of a file."""

    arrays: dict[str, np.ndarray]  # by their names in the file
    key: str  # where it was: a dotted key, or "" for the file's top
    others: list[str] = field(default_factory=list)  # keys of the file's other state dicts
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (name, type) of other entries

    def __str__(self) -> str:
        text = f"taken: {self.key or 'the file itself, which is a bare state dict'}"
        if self.others:
            text += f"; also there: {', '.join(self.others)} (choose with --key)"
        return text


def read_source(path: str | Path) -> Source:
    """Opens a file of weights of any kind known here; its kind is told by its content, not by its name.

    Raises:
        CheckpointError: Missing, empty, damaged, of another kind, or asking for what weights don't need;
            nothing from the file was run.
    """
    path = Path(path)
    if not path.is_file():
        suffixes = (".pth", ".pt", ".tar", ".safetensors")
        near = sorted(file.name for file in path.parent.glob("*") if file.suffix in suffixes)
        hint = f"; {path.parent} has {', '.join(near[:8])}" * bool(near)
        raise CheckpointError(f"no file {path}{hint}")
    with path.open("rb") as file:
        head = file.read(512)
    try:
        if not head:
            raise CheckpointError("it is empty")
        return _open(path, head)
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"can't read {path}: {error.strerror or error}") from error


def _open(path: Path, head: bytes) -> Source:
    if is_safetensors(path, head):
        return _open_safetensors(path)
    if path.suffix == ".safetensors":
        raise CheckpointError("it is damaged or cut short (its header doesn't fit)")
    if head[:2] == b"PK":
        return _open_zip(path)
    if head[:1] == b"\x80":
        return _open_pickle(path)
    for offset, mark, cure in _OTHER_KINDS:
        if head[offset:].startswith(mark):
            raise CheckpointError(cure)
    if head.lstrip()[:1] == b"<":
        raise CheckpointError("it is a web page: the download failed")
    raise CheckpointError("it is damaged, or no .pth, .pt, .pth.tar, .safetensors, .npz or .pdparams file")


def _open_pickle(path: Path) -> Source:
    if path.suffix in _PADDLE_SUFFIXES:
        return Source(path, "Paddle file", "paddle", load_paddle_pickle(path))
    with path.open("rb") as file:
        if load_pickle(file) == torch_file.MAGIC:
            return Source(
                path, "PyTorch file (format before 1.6)", "torch", torch_file.read_legacy(file, path)
            )
    raise CheckpointError("it is a pickle that torch.save didn't write; name it .pdparams if paddle.save did")


def _open_zip(path: Path) -> Source:
    try:
        archive = zipfile.ZipFile(path)  # stays open for the tensors, which are read later
    except torch_file.ZIP_ERRORS as error:
        raise CheckpointError(f"it is damaged or cut short ({error})") from error
    names = archive.namelist()
    if not names or not all(name.endswith(".npy") for name in names):
        return Source(path, "PyTorch file (zip format)", "torch", torch_file.read_zip(archive))
    try:
        with np.load(path, allow_pickle=False) as file:
            return Source(path, "NumPy .npz", "torch", dict(file))
    except (*torch_file.ZIP_ERRORS, ValueError, MemoryError) as error:
        raise CheckpointError(f"it is damaged or holds Python objects, refused ({error})") from error


def _open_safetensors(path: Path) -> Source:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(size))
            meta = header.pop("__metadata__", None) or {}
            begin = 8 + size
            tensors = {name: _safe_tensor(path, begin, name, entry) for name, entry in header.items()}
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"it is damaged or no safetensors file ({error})") from error
    if _OWN_HEADER not in meta:
        return Source(path, "safetensors", "torch", tensors)
    parts: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    # The optimizer's arrays go by names of parameters too, but are no weights.
    parts.pop("optimizer", None)
    best_by = json.loads(meta[_OWN_HEADER]).get("best_by", "raw")
    preferred = "model" if best_by == "raw" else "ema"
    return Source(path, "checkpoint of passl_sot", "paddle", parts, preferred)


def _safe_tensor(path: Path, begin: int, name: str, entry: dict) -> TorchTensor:
    """One entry of a safetensors file whose tensors begin at that byte."""
    dtype = _SAFETENSORS_TYPES.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(f"{name} is of type {entry['dtype']}, which is not read here")
    shape = [int(side) for side in entry["shape"]]
    start, end = entry["data_offsets"]
    storage = Storage(name, dtype, math.prod(shape), partial(torch_file.read_at, path, begin + start))
    if start < 0 or end - start != storage.count * storage.itemsize:
        raise CheckpointError(f"it is damaged ({name} of {shape} has {end - start} bytes)")
    if begin + end > path.stat().st_size:
        raise CheckpointError(f"it is cut short: {name} lies beyond its end")
    return TorchTensor(storage, 0, shape, [math.prod(shape[axis + 1 :]) for axis in range(len(shape))])


def _tensor(value: Any) -> TorchTensor | np.ndarray | None:
    """The tensor of an entry; None where it is none."""
    return value if isinstance(value, TorchTensor) else as_array(value)


def _state_dicts(content: Any, prefix: str = "", depth: int = 4) -> dict[str, dict]:
    """Every dictionary in the file that has tensors with names, by its dotted key."""
    # Four levels: such as {"checkpoint": {"model": {"state_dict": ...}}}, and no endless recursion.
    if not isinstance(content, Mapping) or depth == 0:
        return {}
    found: dict[str, dict] = {}
    tensors = [_tensor(value) for name, value in content.items() if isinstance(name, str)]
    if any(tensor is not None and tensor.shape for tensor in tensors):  # a lone number is an accuracy
        found[prefix] = dict(content)
    for name, value in content.items():
        if isinstance(name, str):
            found |= _state_dicts(value, f"{prefix}.{name}".removeprefix("."), depth - 1)
    return found


def _choose(found: dict[str, dict], source: Source) -> str:
    if source.preferred in found:
        return source.preferred
    candidates = [key for key in found if "optim" not in key]
    for key in _USUAL:
        below = [name for name in candidates if name.split(".")[0] == key]
        if below:  # itself, or such as {"model": {"state_dict": ...}}
            return min(below, key=len)
    counts = {key: sum(_tensor(value) is not None for value in found[key].values()) for key in candidates}
    if "" in counts and counts[""] == max(counts.values()):
        return ""  # and not because of a lone tensor beside the state dicts, such as a generator's state
    candidates = [key for key in candidates if key]
    if len(candidates) == 1:
        return candidates[0]
    keys = "|".join(found)
    raise CheckpointError(f"{source.path}: it holds several state dicts: choose one with --key {keys}")


def find_state_dict(source: Source, key: str | None = None) -> StateDict:
    """Takes the state dict of a dotted key out of a file; without one it looks at the usual places.

    Raises:
        CheckpointError: There is none, none by that key, or several without a usual name; lists them.
    """
    found = _state_dicts(source.content)
    if not found:
        held = f"a {type(source.content).__name__}"
        if isinstance(source.content, Mapping) and source.content:
            held = f"the keys {', '.join(map(str, list(source.content)[:8]))}"
        raise CheckpointError(f"{source.path} holds no tensors by name: it is {source.kind} with {held}")
    chosen = key
    if chosen is None:
        chosen = _choose(found, source)
    if chosen not in found:
        keys = ", ".join(name or "(the file itself)" for name in found)
        raise CheckpointError(f"{source.path} has no state dict {key!r}; it has {keys}")
    result = StateDict({}, chosen, [name for name in found if name not in (chosen, "")])
    for name, value in found[chosen].items():
        tensor = _tensor(value)
        if tensor is None or not isinstance(name, str):
            result.skipped.append((str(name), type(value).__name__))
            continue
        try:
            result.arrays[name] = tensor.array() if isinstance(tensor, TorchTensor) else tensor
        except (CheckpointError, MemoryError) as error:
            reason = str(error) or "too large for this memory"
            raise CheckpointError(f"{source.path}: {name}: {reason}") from None
    return result
