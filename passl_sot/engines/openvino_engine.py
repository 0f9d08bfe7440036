"""OpenVINO."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.engines.base import FILES, PACKAGES, Engine, EngineError, Input, Precision
from passl_sot.utils.require import require_extra


def make(folder: Path, precision: Precision, threads: int, batch: int | None) -> Engine:
    """See `open_engine`."""
    openvino = require_extra(PACKAGES["openvino"], "export", "the engine openvino")
    core = openvino.Core()
    # By default it computes in bfloat16 wherever the processor can.
    hint = {"f32": "f32", "bf16": "bf16", "int8": "f32"}[precision]
    if precision == "int8" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        # What is left in float, attention above all: a fifth of a DeiT-S's time less.
        hint = "bf16"
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        # Several processes, such as the workers of a server, would all bind themselves to the first cores.
        "ENABLE_CPU_PINNING": False,
    }
    file = folder / FILES["openvino"][0]
    model = core.compile_model(core.read_model(file), "CPU", settings)
    computes_in = model.get_property("INFERENCE_PRECISION_HINT").to_string()
    if computes_in != hint:
        raise EngineError(f"openvino computes in {computes_in} on this processor, not in {precision}")

    @functools.cache
    def of_one_batch() -> Any:
        # Of fixed shapes OpenVINO computes up to a fifth less long than of open ones.
        graph = core.read_model(file)
        graph.reshape({node: [batch, *list(node.partial_shape)[1:]] for node in graph.inputs})
        return core.compile_model(graph, "CPU", settings)

    def compute(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        chosen = of_one_batch() if len(inputs[0]) == batch else model
        found = chosen(list(inputs), share_inputs=True)
        return [found[output] for output in chosen.outputs]

    found = []
    for node in model.inputs:
        shape = [None if size.is_dynamic else size.get_length() for size in node.partial_shape]
        found.append(Input(node.any_name, shape, node.element_type == openvino.Type.i64))
    return Engine("openvino", compute, found)
