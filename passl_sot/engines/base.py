"""The contract of an engine, and the door to all of them.

An exported folder holds one graph in up to three formats; each engine reads its own:

| engine | reads | computes in | comes with |
|---|---|---|---|
| paddle | inference.json, inference.pdiparams | f32 | Paddle, as `paddle.jit.load` |
| inference | the same | f32, bf16 | Paddle, as Paddle Inference |
| onnxruntime | inference.onnx | f32, int8 | the extra `export` |
| openvino | inference.xml, inference.bin | f32, bf16, int8 | the extra `export` |

The graph's outputs are probabilities, for programs that read the first alone, and logits, which engines give.
"""

import importlib
import importlib.util
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from passl_sot.config import UserError
from passl_sot.launch.cpu_env import usable_threads

STEM = "inference"
Precision = Literal["f32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# The files that each engine reads, below an exported folder.
FILES = {
    "paddle": (f"{STEM}.json", f"{STEM}.pdiparams"),
    "inference": (f"{STEM}.json", f"{STEM}.pdiparams"),
    "onnxruntime": (f"{STEM}.onnx",),
    "openvino": (f"{STEM}.xml", f"{STEM}.bin"),
}
ENGINES = tuple(FILES)
# What `passl-sot export --formats` calls these files.
FORMAT_OF = {"paddle": "paddle", "inference": "paddle", "onnxruntime": "onnx", "openvino": "openvino"}
COMPUTES_IN: dict[str, tuple[Precision, ...]] = {
    "paddle": ("f32",),
    "inference": ("f32", "bf16"),
    "onnxruntime": ("f32", "int8"),
    "openvino": ("f32", "bf16", "int8"),
}
# Packages beside Paddle.
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
Compute = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


class EngineError(UserError, ValueError):
    """An engine can't be had, or can't read what it is given."""


class Input(NamedTuple):
    """An input of a model.

    Attributes:
        name: As the graph has it.
        shape: With None where any number will do.
        whole: Whether it takes whole numbers, int64, rather than float32.
    """

    name: str
    shape: list[int | None]
    whole: bool = False


class Engine:
    """Computes a model: arrays, one for each input of the model, to its output `[B, K]`.

    Threads may share one; it computes for one at a time, as one call uses all its cores.

    Args:
        name: One of `ENGINES`.
        compute: Takes contiguous arrays for these inputs and gives all outputs, logits last.
        inputs: What it takes; None where the model says itself what fits.

    Raises:
        EngineError: (When called) the arrays aren't of these shapes.
    """

    def __init__(self, name: str, compute: Compute, inputs: Sequence[Input] | None = None):
        self.name = name
        self.inputs = inputs
        self._compute = compute
        self._lock = threading.Lock()

    def __call__(self, *inputs: Any) -> np.ndarray:
        """The output; inputs have the same first axis B, of any size."""
        return self.outputs(*inputs)[-1]

    def outputs(self, *inputs: Any) -> Sequence[np.ndarray]:
        """All outputs: an exported graph's probabilities and logits, of a model in memory the logits."""
        arrays: list[np.ndarray] = [np.ascontiguousarray(array, _type_for(array)) for array in inputs]
        if self.inputs is not None:
            found = [array.shape for array in arrays]
            shapes = [given.shape for given in self.inputs]
            if len(found) != len(shapes) or not all(map(_fits, found, shapes)):
                wanted = ", ".join(map(_shown, shapes))
                raise EngineError(f"the model takes {wanted}, not {', '.join(map(_shown, found))}")
        with self._lock:
            return self._compute(arrays)


def _type_for(array: Any) -> type:
    """int64 stays, as numbers of tokens are; all else is computed in float32."""
    return np.int64 if getattr(array, "dtype", None) == np.int64 else np.float32


def _fits(found: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(found) == len(wanted) and all(w in (None, f) for f, w in zip(found, wanted, strict=True))


def _shown(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def inputs_of(specs: Iterable[Any]) -> list[Input]:
    """What a model or graph takes, by Paddle's descriptions of it."""
    return [Input(spec.name, known(spec.shape), str(spec.dtype).endswith("int64")) for spec in specs]


def known(shape: Sequence[Any]) -> list[int | None]:
    """A shape as engines give it, with -1, 0 or a name where any number will do."""
    return [size if isinstance(size, int) and size > 0 else None for size in shape]


def installed(name: str) -> bool:
    """Whether the package of an engine is there."""
    return name not in PACKAGES or importlib.util.find_spec(PACKAGES[name]) is not None


def installed_formats() -> list[str]:
    """The formats that some engine here can read."""
    return sorted({FORMAT_OF[name] for name in ENGINES if installed(name)})


def missing_files(name: str, folder: Path) -> list[str]:
    """The files of an engine that a folder lacks."""
    return [file for file in FILES[name] if not (folder / file).is_file()]


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """The greatest difference of an output from the right one, of its greatest number."""
    return float(abs(found - wanted).max() / max(abs(wanted).max(), 1e-30))


def open_engine(
    name: str,
    folder: Path,
    *,
    precision: Precision = "f32",
    threads: int | None = None,
    batch: int | None = None,
) -> Engine:
    """Opens the model of an exported folder by an engine.

    Args:
        name: One of `ENGINES`.
        precision: Numbers that it computes in; "int8" is for a folder that was exported so.
        threads: Cores to use; None for all that the process may use (`usable_threads`). Of "paddle" all
            models in the process share this number.
        batch: A number of inputs computed together to be fastest at: "openvino" then compiles the model once
            more for it, when it first comes.

    Raises:
        EngineError: Unknown name; the folder lacks its files or they are damaged; it can't compute so.
        MissingExtraError: Its package isn't installed.
    """
    if name not in FILES:
        raise EngineError(f"there is no engine {name!r}: choose among {', '.join(ENGINES)}")
    require_precision(name, precision)
    missing = missing_files(name, folder)
    if missing:
        raise EngineError(
            f"{folder} has no {' and no '.join(missing)}, which {name} reads: export that format too"
        )
    module = importlib.import_module(f"passl_sot.engines.{name}_engine")
    make: Callable[..., Engine] = module.make
    try:
        return make(folder, precision, threads or usable_threads(), batch)
    except UserError:
        raise
    except Exception as error:  # each has types of its own
        words = " ".join(str(error).split())[:300]
        files = " or ".join(FILES[name])
        raise EngineError(f"{name} can't read {files} of {folder}: export it anew ({words})") from error


def require_precision(name: str, precision: Precision) -> None:
    """Raises an EngineError where an engine doesn't compute in such numbers."""
    if precision not in PRECISIONS:
        raise EngineError(f"there is no precision {precision!r}: choose among {', '.join(PRECISIONS)}")
    if precision not in COMPUTES_IN[name]:
        others = [other for other in ENGINES if precision in COMPUTES_IN[other]]
        numbers = " and ".join(COMPUTES_IN[name])
        raise EngineError(f"{name} computes in {numbers} alone: for {precision} choose {' or '.join(others)}")
