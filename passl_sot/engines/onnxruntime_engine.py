"""onnxruntime."""

from pathlib import Path

import numpy as np

from passl_sot.engines.base import FILES, Engine, Precision


def make(folder: Path, precision: Precision, threads: int | None) -> Engine:
    """See `open_engine`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    file = str(folder / FILES["onnxruntime"][0])
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*inputs: np.ndarray) -> np.ndarray:
        return session.run(None, dict(zip(names, inputs, strict=True)))[-1]

    return run
