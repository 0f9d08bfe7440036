"""Checkpoints that can't be half written and can't run code.

One safetensors file holds everything: tensors under `model.`, `ema.` and `optimizer.`, and in its header
a JSON text with the config, class names, preprocessing, versions and the run's position. It is written to
a temporary name, read back, compared, and only then renamed. A checksum in the header covers all of it.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import save as serialize

from passl_sot.config import zh
from passl_sot.utils.files import replace_atomically, temporary_name
from passl_sot.weights import CheckpointError, reading
from passl_sot.weights.budget import Budget
from passl_sot.weights.pdparams import read_pdparams
from passl_sot.weights.safetensors_file import is_safetensors, read_safetensors
from passl_sot.weights.stored import read_arrays

# 1: the checksum covers names and contents of tensors. 2: also their shapes and types, and the JSON text.
FORMAT = 2
META_KEY = "passl_sot"
DIGEST_KEY = "sha256"
_DEEPEST = 100  # sections in each other
_ELSEWHERE = " or set output_dir to another place"
Check = Callable[[Path, dict], None]


@dataclass
class Checkpoint:
    """The content of a checkpoint file."""

    path: Path
    tensors: dict[str, np.ndarray]  # by prefixed name
    meta: dict  # the JSON part

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays below `prefix.`, with it removed; empty where there are none."""
        start = prefix + "."
        return {k[len(start) :]: v for k, v in self.tensors.items() if k.startswith(start)}

    def weights(self) -> dict[str, dict[str, np.ndarray]]:
        """The weights that it holds, by kind: "raw", "ema"."""
        kinds = {"raw": self.part("model"), "ema": self.part("ema")}
        return {kind: arrays for kind, arrays in kinds.items() if arrays}


def _digest(tensors: dict[str, np.ndarray], text: str, version: int) -> str:
    """The checksum of tensors and JSON text as the format of that number defines it."""
    total = hashlib.sha256()
    if version > 1:
        total.update(text.encode())
    for name in sorted(tensors):
        # A scalar's buffer isn't contiguous bytes to hashlib, one of a dimension is.
        array = np.atleast_1d(np.asarray(tensors[name], order="C"))
        title = name
        if version > 1:
            title = f"\n{name} {array.dtype} {tensors[name].shape}\n"
        total.update(title.encode())
        total.update(array.data)
    return total.hexdigest()


def write_checkpoint(
    path: Path, tensors: dict[str, np.ndarray], meta: dict, *, previous: Path | None = None
) -> None:
    """Writes a checkpoint so that `path` always holds a whole one: the old or the new.

    `meta` is anything that JSON can hold; `previous`, where the file that stood at `path` is kept.

    Raises:
        CheckpointError: The disk is full or read-only, or the file read back differs; `path` is untouched.
    """
    text = json.dumps({**meta, "format": FORMAT})
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    blob = serialize(arrays, metadata={META_KEY: text, DIGEST_KEY: _digest(arrays, text, FORMAT)})
    advice = f". The previous one is untouched; free some space ({len(blob) / 1e6:.0f} MB needed)"
    kept = None
    try:
        with explained(path, advice + _ELSEWHERE, "checkpoint "):
            if previous and path.exists():
                kept = _second_name(path, previous)
            write_whole(path, blob)
            # Only now: the old file may be a damaged one, and `previous` so far the last whole one.
            if kept:
                os.replace(kept, previous)
    finally:
        if kept:
            kept.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file, and its folder, so that `path` always holds a whole one.

    Raises:
        CheckpointError: What the disk gives back differs.
        OSError: It can't be written.
    """

    def write(file: BinaryIO) -> None:
        file.write(content)
        file.seek(0)
        # A silent fault of the disk would otherwise show when the file is needed.
        if file.read() != content:
            raise CheckpointError(f"{path} differs from what was written to it: check the disk")

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, write)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Gives a written checkpoint a second name, atomically; a hard link where the file system has them.

    Raises:
        CheckpointError: The disk is full or read-only; `target` is untouched.
    """
    with explained(target, f". {source} is whole; free some space{_ELSEWHERE}", "checkpoint "):
        os.replace(_second_name(source, target), target)


def _second_name(source: Path, target: Path) -> Path:
    """A temporary file beside `target` with the contents of `source`."""
    temporary = temporary_name(target)
    try:
        os.link(source, temporary)
    except OSError:
        try:
            # As another's link could stand there by now, it must be a new file.
            with source.open("rb") as old, temporary.open("xb") as new:
                shutil.copyfileobj(old, new)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    return temporary


@contextmanager
def explained(path: Path, advice: str | None = None, kind: str = "") -> Iterator[Path]:
    """A block that writes to `path`; by default the advice is that for a run's other files.

    Raises:
        CheckpointError: It could not; names the file.
    """
    try:
        yield path
    except OSError as error:
        if advice is None:
            advice = f". The checkpoints are untouched; free some space{_ELSEWHERE}"
            advice += zh("output_not_writable_disk")
        raise CheckpointError(f"can't write {kind}{path}: {error.strerror or error}{advice}") from error


def remove_leftovers(folder: Path) -> None:
    """Deletes temporary files of writers that were killed, of checkpoints and of a run's other files."""
    for pattern in ("*.safetensors.*.tmp", ".metrics.jsonl.*.tmp"):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)


def read_checkpoint(path: str | Path, check: Check | None = None) -> Checkpoint:
    """Reads and verifies a checkpoint of this framework; the suffix of `path` may be left out.

    Raises:
        CheckpointError: It is missing, truncated, altered, of a newer version, or something else; or `check`,
            which gets file and JSON part, misses something.
    """
    path = _with_suffix(Path(path), "checkpoint")
    with reading(path):
        budget = Budget.of(path)
        tensors, header = read_safetensors(path, budget)
        if META_KEY not in header:
            raise CheckpointError("it holds tensors but no passl_sot header: it is weights, not a checkpoint")
        saved = Checkpoint(path, read_arrays(tensors, budget), parse_header(header[META_KEY]))
        if header.get(DIGEST_KEY) != _digest(saved.tensors, header[META_KEY], saved.meta["format"]):
            raise CheckpointError("it is damaged: its contents don't match the checksum in its header")
    if check:
        check(path, saved.meta)
    return saved


def read_header(path: str | Path) -> tuple[Path, dict]:
    """The file of a checkpoint, and its JSON part alone, which only `read_checkpoint` compares by checksum.

    Raises:
        CheckpointError: It is missing or damaged, or holds bare weights.
    """
    path = _with_suffix(Path(path), "checkpoint")
    with reading(path):
        header = _texts(path)
        if META_KEY not in header:
            raise CheckpointError(
                "it is no checkpoint, which would hold its config: name one with -c" + zh("config_missing")
            )
        return path, parse_header(header[META_KEY])


def is_checkpoint(path: str | Path) -> bool:
    """Whether weights are a checkpoint's, by the head of the file; a CheckpointError where it is damaged."""
    path = _with_suffix(Path(path))
    with reading(path):
        return META_KEY in _texts(path)


def _texts(path: Path) -> dict[str, str]:
    """The texts beside the tensors of a safetensors file; none of another kind of file."""
    with path.open("rb") as file:
        head = file.read(16)
    if not is_safetensors(path, head):
        return {}
    return read_safetensors(path, Budget.of(path))[1]


def parse_header(text: str) -> dict:
    """The JSON part, of a format that this version knows; else a CheckpointError without a file's name."""
    try:
        meta = json.loads(text)
        # Half of a surrogate pair is no text that one could print.
        json.dumps(meta, ensure_ascii=False).encode()
        depth = _depth(meta)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"it is damaged: its header is no JSON text ({error})") from error
    version = isinstance(meta, dict) and meta.get("format")
    if depth > _DEEPEST:
        raise CheckpointError(f"it is damaged: its header has sections in each other, {depth} deep")
    if type(version) is not int or version < 1:
        raise CheckpointError("it is damaged: its header has no format number")
    if version > FORMAT:
        raise CheckpointError(
            f"it is of format {version}, written by a newer version of passl_sot; this one reads up to "
            f"format {FORMAT}: update passl_sot" + zh("written_by_newer")
        )
    return meta


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return 0
    return 1 + max(map(_depth, value), default=0)


def require(path: str | Path, meta: Mapping[str, Any], wanted: Mapping[str, type]) -> None:
    """Checks that a checkpoint's JSON part has the `wanted` dotted keys, sections first, with such values.

    An `int` is a count: 0 or more.

    Raises:
        CheckpointError: A key is missing or holds something of another type; names file and key.
    """
    for key, kind in wanted.items():
        value: Any = meta
        for part in key.split("."):
            if part not in value:
                raise CheckpointError(f"{path} is incomplete: its header has no {key}")
            value = value[part]
        require_kind(path, key, value, kind)


def require_kind(path: str | Path, key: str, value: Any, kind: type, least: int = 0) -> None:
    """Checks a value of a checkpoint's JSON part: an `int` counts from `least`, a `float` is finite.

    Raises:
        CheckpointError: It is of another kind; names file and key.
    """
    fault = ""
    if type(value) is not kind:
        fault = f"a {type(value).__name__}, not a {kind.__name__}"
    elif kind is float and not math.isfinite(value):
        fault = "not finite"
    elif kind is int and not is_count(value, least):
        fault = "no count"
    if fault:
        raise CheckpointError(f"{path} is damaged: {key} in its header is {fault}")


def is_count(value: Any, least: int = 0) -> bool:
    """Whether a value of a JSON text is a whole number that can count something."""
    return type(value) is int and least <= value < 2**53


def _position(path: Path) -> tuple[float, ...]:
    """Sort key (epoch, batch, step); unreadable files sort last: they are tried, and reported, first."""
    # Not the file's time, which copying changes.
    with suppress(CheckpointError, OSError, KeyError, TypeError):
        progress = parse_header(read_safetensors(path, Budget.of(path))[1][META_KEY])["progress"]
        place = (progress["epoch"], progress["batches"], progress["step"])
        if all(map(is_count, place)):
            return place
    return (math.inf,)


def find_latest(folder: Path, warn: Callable[[str], None], check: Check | None = None) -> Checkpoint | None:
    """The newest whole checkpoint of a run folder; None where there is none.

    Damaged ones, by `read_checkpoint`, are passed over with a warning.

    Raises:
        CheckpointError: There are checkpoints, but all are damaged.
    """
    files = [p for p in folder.glob("*.safetensors") if re.fullmatch(r"last|previous|best|epoch_\d+", p.stem)]
    # At equal progress `last` counts: `epoch_N` may be of the same epoch, from before its evaluation.
    candidates = sorted(files, key=lambda p: (_position(p), p.stem == "last"), reverse=True)
    for path in candidates:
        try:
            return read_checkpoint(path, check)
        except CheckpointError as error:
            warn(f"{error}; trying the one before it")
    if candidates:
        raise CheckpointError(f"no checkpoint in {folder} can be read; move the folder away to start anew")
    return None


def read_weights(path: str | Path, prefer: str | None = None) -> tuple[dict[str, np.ndarray], dict]:
    """Reads model weights from any file this project trusts, without running code from it.

    Args:
        path: A checkpoint of ours (`prefer` chooses raw or averaged weights, by default those that
            chose the run's best), a plain `.safetensors`, or a `.pdparams`. The suffix may be left out.
        prefer: "raw" or "ema".

    Returns:
        Arrays by Paddle name, and the checkpoint's JSON part ({} for plain weights).

    Raises:
        CheckpointError: Missing, damaged, of a foreign kind, or without the weights that `prefer` asks for.
    """
    path = _with_suffix(Path(path))
    # By contents, not by name: downloads often have the wrong suffix.
    with path.open("rb") as file:
        head = file.read(16)
    if not is_safetensors(path, head) and (head[:2] == b"PK" or path.suffix in (".pth", ".pt", ".tar")):
        raise CheckpointError(f"{path} is a PyTorch file: convert it with tools/convert_torch.py first")
    with reading(path):
        budget = Budget.of(path)
        if not is_safetensors(path, head) and head[:1] == b"\x80":
            return read_pdparams(path, budget), {}
        tensors, header = read_safetensors(path, budget)
        if META_KEY not in header:
            return read_arrays(tensors, budget), {}
    checkpoint = read_checkpoint(path)
    kind = prefer or checkpoint.meta.get("best_by", "raw")
    if kind not in ("raw", "ema"):
        raise CheckpointError(f"{path} is damaged: best_by in its header is {kind!r}, not 'raw' or 'ema'")
    weights = checkpoint.weights()
    if kind not in weights:
        raise CheckpointError(f"{path} has no {kind} weights; it holds {', '.join(weights)}")
    return weights[kind], checkpoint.meta


def _with_suffix(path: Path, kind: str = "weights file") -> Path:
    for candidate in (path, *(Path(f"{path}{s}") for s in (".safetensors", ".pdparams"))):
        if candidate.is_file():
            return candidate
    folder = path
    if not path.is_dir():
        folder = path.parent
    names = sorted(p.name for p in folder.glob("*") if p.suffix in (".safetensors", ".pdparams"))
    near = ""
    if names:
        near = f"; {folder} has {', '.join(names[:8])}"
    raise CheckpointError(f"no {kind} {path}{near}")
