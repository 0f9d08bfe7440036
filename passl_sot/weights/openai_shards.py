"""The folder in which OpenAI published GPT: one row of numbers, cut into ten `.npy`, and a list of shapes.

Nothing in it has a name. The order is that of https://github.com/openai/finetune-transformer-lm: the table of
positions, that of tokens, and block by block what its graph makes, under the names that it has there.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np

from passl_sot.utils.files import sha256_of
from passl_sot.weights import CheckpointError
from passl_sot.weights.budget import Budget

SHAPES = "params_shapes.json"
_FIRST = ("model/positions_embed/w", "model/tokens_embed/w")  # in the graph both are "model/we"
_OF_BLOCK = (
    "attn/c_attn/w", "attn/c_attn/b", "attn/c_proj/w", "attn/c_proj/b", "ln_1/g", "ln_1/b",
    "mlp/c_fc/w", "mlp/c_fc/b", "mlp/c_proj/w", "mlp/c_proj/b", "ln_2/g", "ln_2/b",
)  # fmt: skip


def is_openai_folder(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / SHAPES).is_file()


def files_of(folder: Path) -> list[Path]:
    """The files of numbers, in order, and that of shapes."""
    shards = sorted(folder.glob("params_*.npy"), key=lambda path: (len(path.name), path.name))
    wanted = [folder / f"params_{number}.npy" for number in range(len(shards))]
    if not shards or shards != wanted:
        lacking = next((path.name for path in wanted if path not in shards), "params_0.npy")
        raise CheckpointError(f"it lacks {lacking}")
    return [*shards, folder / SHAPES]


def budget_of(folder: Path) -> Budget:
    """What reading the folder may take; see `Budget`."""
    return Budget(sum(path.stat().st_size for path in files_of(folder)))


def sha256_of_folder(folder: Path) -> str:
    """The checksum of what `sha256sum` would say of its files, in order."""
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in files_of(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_shards(folder: Path, budget: Budget) -> dict[str, np.ndarray]:
    """The arrays by the names of OpenAI's graph.

    Raises:
        CheckpointError: A file is missing, damaged, or holds Python objects; or the shapes are not GPT's.
    """
    *shards, description = files_of(folder)
    budget.take(2 * sum(path.stat().st_size for path in shards))
    try:
        shapes = json.loads(description.read_text(encoding="utf-8"))
        if not all(type(size) is int and size > 0 for shape in shapes for size in shape):
            raise ValueError(f"{SHAPES} has other things than sizes")
        counts = [math.prod(shape) for shape in shapes]
        pieces = [np.load(path, allow_pickle=False, mmap_mode="r").reshape(-1) for path in shards]
    except Exception as error:  # NumPy's parser of headers lets through any that Python's has
        raise CheckpointError(f"it is damaged or holds Python objects, refused ({error})") from error
    names = list(_FIRST)
    for number in range((len(counts) - len(_FIRST)) // len(_OF_BLOCK)):
        names += [f"model/h{number}/{name}" for name in _OF_BLOCK]
    if len(counts) != len(names):
        raise CheckpointError(f"its {SHAPES} has {len(counts)} shapes, which no GPT has")
    numbers = np.concatenate(pieces)
    if len(numbers) != sum(counts):
        raise CheckpointError(f"it holds {len(numbers):,} numbers, and its shapes want {sum(counts):,}")
    arrays = {}
    start = 0
    for name, shape, count in zip(names, shapes, counts, strict=True):
        # Convolutions of width 1 over the text, which a file has as [1, in, out].
        if len(shape) == 3 and shape[0] == 1:
            shape = shape[1:]
        arrays[name] = numbers[start : start + count].reshape(shape)
        start += count
    return arrays
