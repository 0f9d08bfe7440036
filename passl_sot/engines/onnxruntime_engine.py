"""onnxruntime."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from passl_sot.engines.base import FILES, PACKAGES, Engine, Input, Precision, known
from passl_sot.utils.require import require_extra


def make(folder: Path, precision: Precision, threads: int, batch: int | None) -> Engine:
    """See `open_engine`."""
    onnxruntime = require_extra(PACKAGES["onnxruntime"], "export", "the engine onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    file = str(folder / FILES["onnxruntime"][0])
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    nodes = session.get_inputs()
    names = [node.name for node in nodes]

    def compute(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return session.run(None, dict(zip(names, inputs, strict=True)))

    known_inputs = [Input(node.name, known(node.shape), "int64" in node.type) for node in nodes]
    return Engine("onnxruntime", compute, known_inputs)
