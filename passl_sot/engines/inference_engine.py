"""Paddle Inference."""

from pathlib import Path

import numpy as np
from paddle import inference

from passl_sot.engines.base import FILES, Engine, Precision


def make(folder: Path, precision: Precision, threads: int | None) -> Engine:
    """See `open_engine`."""
    config = inference.Config(*(str(folder / name) for name in FILES["inference"]))
    config.disable_gpu()
    config.disable_glog_info()
    if threads:
        config.set_cpu_math_library_num_threads(threads)
    predictor = inference.create_predictor(config)
    handles = [predictor.get_input_handle(name) for name in predictor.get_input_names()]
    output = predictor.get_output_handle(predictor.get_output_names()[-1])

    def run(*inputs: np.ndarray) -> np.ndarray:
        for handle, array in zip(handles, inputs, strict=True):
            handle.copy_from_cpu(np.ascontiguousarray(array))
        predictor.run()
        return output.copy_to_cpu()

    return run
