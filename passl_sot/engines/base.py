"""The contract of an engine, and the door to all of them.

An exported folder holds one graph in up to three formats; each engine reads its own:

| engine | reads | comes with |
|---|---|---|
| paddle | inference.json, inference.pdiparams | Paddle, as `paddle.jit.load` |
| inference | the same | Paddle, as Paddle Inference |
| onnxruntime | inference.onnx | the extra `export` |
| openvino | inference.xml, inference.bin | the extra `export` |

The graph's outputs are probabilities, for programs that read the first alone, and logits, which engines give.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from passl_sot.config import UserError

STEM = "inference"
Precision = Literal["f32", "bf16", "int8"]
# The files that each engine reads, below an exported folder.
FILES = {
    "paddle": (f"{STEM}.json", f"{STEM}.pdiparams"),
    "inference": (f"{STEM}.json", f"{STEM}.pdiparams"),
    "onnxruntime": (f"{STEM}.onnx",),
    "openvino": (f"{STEM}.xml", f"{STEM}.bin"),
}
ENGINES = tuple(FILES)


class EngineError(UserError, ValueError):
    """An engine can't be had, or can't read what it is given."""


class Engine(Protocol):
    """Computes a model: float32 arrays, one for each input of the model, to its output `[B, K]`."""

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """The output; inputs have the same first axis B, of any size."""


def open_engine(
    name: str, folder: Path, *, precision: Precision = "f32", threads: int | None = None
) -> Engine:
    """Opens the model of an exported folder by an engine.

    Args:
        name: One of `ENGINES`.
        precision: Numbers that it computes in.
        threads: Cores to use; None for all that the process may use.

    Raises:
        EngineError: Unknown name; the engine isn't installed; the folder lacks its files or they are damaged.
    """
    if name not in FILES:
        raise EngineError(f"there is no engine {name!r}: choose among {', '.join(ENGINES)}")
    missing = [file for file in FILES[name] if not (folder / file).is_file()]
    if missing:
        raise EngineError(
            f"{folder} has no {' and no '.join(missing)}, which {name} reads: export that format too"
        )
    module = importlib.import_module(f"passl_sot.engines.{name}_engine")
    make: Callable[..., Engine] = module.make
    return make(folder, precision, threads)
