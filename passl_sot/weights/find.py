"""Finds the weights in a file: its kind, the state dicts in it, and the one to take."""

import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from passl_sot.utils.files import sha256_of
from passl_sot.weights import CheckpointError, reading, torch_file
from passl_sot.weights.budget import Budget
from passl_sot.weights.checkpoint import META_KEY, parse_header
from passl_sot.weights.openai_shards import budget_of, is_openai_folder, read_shards, sha256_of_folder
from passl_sot.weights.pdparams import as_array, load_paddle_pickle
from passl_sot.weights.safe_pickle import load_pickle
from passl_sot.weights.safetensors_file import is_safetensors, read_safetensors
from passl_sot.weights.stored import StoredTensor, read_arrays

_PADDLE_SUFFIXES = (".pdparams", ".pdema", ".pd", ".pdmodel")
# In this order: training files of timm's kind hold averaged weights, and the accuracies published from them
# are theirs; DeiT's and Swin's evaluate `model`.
_USUAL = (
    "state_dict_ema", "state_dict", "model", "model_state_dict", "model_state", "model_ema", "ema_state_dict",
    "ema", "module", "net",
)  # fmt: skip
# Beginnings of files that people take for weights: offset, bytes, and the cure.
_OTHER_KINDS = (
    (0, b"\x1f\x8b", "it is compressed by gzip: unpack it first"),
    (257, b"ustar", "it is a tar archive: unpack it first"),
    (0, b"version https://git-lfs", "it is a pointer of Git LFS: fetch the file itself"),
)


@dataclass
class Source:
    """A file of weights, read but for its tensors."""

    path: Path  # a file, or the folder of OpenAI's GPT
    kind: str  # for messages
    layout: Literal["torch", "paddle"]  # a Linear's weight is [out, in], or [in, out]
    content: Any  # nested dictionaries, with tensors and other values as leaves
    budget: Budget  # for the tensors
    preferred: str | None = None  # key of the state dict that the file itself recommends

    def sha256(self) -> str:
        """The file's checksum, or one over all files of the folder."""
        return sha256_of_folder(self.path) if self.path.is_dir() else sha256_of(self.path)


@dataclass
class StateDict:
    """The state dict that was taken out of a file."""

    arrays: dict[str, Any]  # NumPy's, by their names in the file
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
    if is_openai_folder(path):
        with reading(path):
            budget = budget_of(path)
            return Source(path, "folder of OpenAI's GPT", "torch", read_shards(path, budget), budget)
    if not path.is_file():
        suffixes = (".pth", ".pt", ".tar", ".safetensors")
        near = sorted(file.name for file in path.parent.glob("*") if file.suffix in suffixes)
        hint = f"; {path.parent} has {', '.join(near[:8])}" * bool(near)
        raise CheckpointError(f"no file {path}{hint}")
    with reading(path):
        with path.open("rb") as file:
            head = file.read(512)
        if not head:
            raise CheckpointError("it is empty")
        return _open(path, head, Budget.of(path))


def _open(path: Path, head: bytes, budget: Budget) -> Source:
    if is_safetensors(path, head) or path.suffix == ".safetensors":
        return _open_safetensors(path, budget)
    if head[:2] == b"PK":
        return _open_zip(path, budget)
    if head[:1] == b"\x80":
        return _open_pickle(path, budget)
    for offset, mark, cure in _OTHER_KINDS:
        if head[offset:].startswith(mark):
            raise CheckpointError(cure)
    if head.lstrip()[:1] == b"<":
        raise CheckpointError("it is a web page: the download failed")
    raise CheckpointError("it is damaged, or no .pth, .pt, .pth.tar, .safetensors, .npz or .pdparams file")


def _open_pickle(path: Path, budget: Budget) -> Source:
    if path.suffix in _PADDLE_SUFFIXES:
        return Source(path, "Paddle file", "paddle", load_paddle_pickle(path, budget), budget)
    with path.open("rb") as file:
        number = load_pickle(file, budget=budget)
        if isinstance(number, int) and number == torch_file.MAGIC:
            content = torch_file.read_legacy(file, path, budget)
            return Source(path, "PyTorch file (format before 1.6)", "torch", content, budget)
    raise CheckpointError("it is a pickle that torch.save didn't write; name it .pdparams if paddle.save did")


def _open_zip(path: Path, budget: Budget) -> Source:
    try:
        archive = zipfile.ZipFile(path)  # stays open for the tensors, which are read later
    except torch_file.ZIP_ERRORS as error:
        raise CheckpointError(f"it is damaged or cut short ({error})") from error
    names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        return Source(path, "NumPy .npz", "torch", read_npz(path, budget), budget)
    content = torch_file.read_zip(archive, budget)
    return Source(path, "PyTorch file (zip format)", "torch", content, budget)


def read_npz(path: Path, budget: Budget) -> dict[str, np.ndarray]:
    """The arrays of a `.npz`.

    Raises:
        CheckpointError: It is damaged, of other things than numbers, or too large for the budget.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # Of these no more than its size is unpacked, whatever the compressed bytes go on to.
            if any(
                member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members
            ):
                raise CheckpointError("it is compressed in a way that NumPy never does; refused")
            budget.take(sum(member.file_size for member in members))
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except CheckpointError:
        raise
    except Exception as error:  # NumPy's parser of headers lets through any that Python's has
        raise CheckpointError(f"it is damaged or holds Python objects, refused ({error})") from error


def _open_safetensors(path: Path, budget: Budget) -> Source:
    tensors, meta = read_safetensors(path, budget)
    if META_KEY not in meta:
        return Source(path, "safetensors", "torch", tensors, budget)
    parts: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        # The optimizer's arrays go by names of parameters too, but are no weights.
        if part in ("model", "ema"):
            parts.setdefault(part, {})[rest] = tensor
    best_by = parse_header(meta[META_KEY]).get("best_by", "raw")
    preferred = "model" if best_by == "raw" else "ema"
    return Source(path, "checkpoint of passl_sot", "paddle", parts, budget, preferred)


def _tensor(value: Any) -> StoredTensor | np.ndarray | None:
    """The tensor of an entry; None where it is none."""
    return value if isinstance(value, StoredTensor) else as_array(value)


def _state_dicts(content: Any, budget: Budget, prefix: str = "", depth: int = 4) -> dict[str, dict]:
    """Every dictionary in the file that has tensors with names, by its dotted key."""
    # Four levels: such as {"checkpoint": {"model": {"state_dict": ...}}}, and no endless recursion.
    if not isinstance(content, Mapping) or depth == 0:
        return {}
    budget.take(sys.getsizeof(content) + len(prefix))  # one dictionary may stand in many places
    found: dict[str, dict] = {}
    tensors = [_tensor(value) for name, value in content.items() if isinstance(name, str)]
    if any(tensor is not None and tensor.shape for tensor in tensors):  # a lone number is an accuracy
        found[prefix] = dict(content)
    for name, value in content.items():
        if isinstance(name, str):
            found |= _state_dicts(value, budget, f"{prefix}.{name}".removeprefix("."), depth - 1)
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
    with reading(source.path):
        found = _state_dicts(source.content, source.budget)
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
        else:
            result.arrays[name] = tensor
    with reading(source.path):
        _check_names([*found, *result.arrays, *(name for name, _ in result.skipped)])
        stored = {name: value for name, value in result.arrays.items() if isinstance(value, StoredTensor)}
        result.arrays |= read_arrays(stored, source.budget)
    return result


def _check_names(names: list[str]) -> None:
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:  # of half a surrogate pair, which pickles can hold
        raise CheckpointError("it is damaged (a name in it is no text)") from error
