"""OpenVINO."""

from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.engines.base import FILES, Engine, Precision


def make(folder: Path, precision: Precision, threads: int | None) -> Engine:
    """See `open_engine`."""
    import openvino

    # By default it computes in bfloat16 wherever the processor can.
    hint = {"f32": "f32", "bf16": "bf16", "int8": "f32"}[precision]
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    model = core.compile_model(core.read_model(folder / FILES["openvino"][0]), "CPU", settings)

    def run(*inputs: np.ndarray) -> np.ndarray:
        return model(list(inputs))[model.outputs[-1]]

    return run
