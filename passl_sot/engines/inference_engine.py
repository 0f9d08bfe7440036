"""Paddle Inference."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from paddle import inference

from passl_sot.engines.base import FILES, Engine, Input, Precision, known
from passl_sot.engines.program import read_program
from passl_sot.utils.silence import silenced


def make(folder: Path, precision: Precision, threads: int, batch: int | None) -> Engine:
    """See `open_engine`."""
    inputs = _inputs(folder / FILES["inference"][0])
    config = inference.Config(*(str(folder / name) for name in FILES["inference"]))
    config.disable_gpu()
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(threads)
    if precision == "bf16":
        config.enable_mkldnn_bfloat16()
    predictor = inference.create_predictor(config)
    names = predictor.get_input_names()
    handles = [predictor.get_input_handle(name) for name in names]
    outputs = [predictor.get_output_handle(name) for name in predictor.get_output_names()]
    # At the first run Paddle prints names of its functions.
    runs: Iterator[Callable[[], AbstractContextManager]] = itertools.chain(
        [silenced], itertools.repeat(nullcontext)
    )

    def compute(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        for handle, array in zip(handles, arrays, strict=True):
            handle.copy_from_cpu(array)
        with next(runs)():
            predictor.run()
        return [output.copy_to_cpu() for output in outputs]

    return Engine("inference", compute, [inputs[name] for name in names])


def _inputs(program: Path) -> dict[str, Input]:
    """A program's inputs, whose shapes a predictor tells only of inputs that it has been given.

    One of other channels may well pass through its first reshape, as images of another number.
    """
    found = {}
    blocks = read_program(program)["program"]["regions"][0]["blocks"]
    for operation in blocks[0]["ops"]:
        if operation["#"].endswith(".data"):
            values = {attribute["N"]: attribute["AT"].get("D") for attribute in operation["A"]}
            whole = values["dtype"] == "int64"
            found[values["name"]] = Input(values["name"], known(values["shape"]), whole)
    return found
