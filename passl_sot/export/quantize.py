"""The same graphs in fewer bits, and what that changes."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.engines.base import COMPUTES_IN, FILES, Precision, missing_files, open_engine
from passl_sot.export.card import ExportError
from passl_sot.tasks.base import Task
from passl_sot.utils.logger import get_logger, progress_bar
from passl_sot.utils.require import require_extra
from passl_sot.utils.silence import silenced

_CALIBRATED_ON = 300  # items, as NNCF recommends
_MEASURED_ON = 2000  # items; 0.5 points are 10 of them
_BATCH = 8


@dataclasses.dataclass(frozen=True)
class Change:
    """What an engine's fewer bits change on labelled images or texts.

    Attributes:
        items: How many, and of what.
        logits: The greatest difference of a logit from float32, over the standard deviation of the logits.
        top1: Share of right answers in float32 and in fewer bits; None where they have not one label each.
    """

    items: str
    logits: float
    top1: tuple[float, float] | None

    def __str__(self) -> str:
        text = f"logits differ from float32's by at most {self.logits:.2g} standard deviations"
        if self.top1 is not None:
            before, after = self.top1
            text += f", top-1 {before:.2%} becomes {after:.2%}"
        return f"{text} (of {self.items})"


def lower(folder: Path, precision: Precision, task: Task, calibration: Any) -> list[str]:
    """Changes the graphs of a folder to another arithmetic; called after the proof of those in float32.

    In int8 are products with weights alone: attention, and the second-order head's normalization, of which
    small differences grow, stay in float. Graphs in bf16 keep their float32 weights, for engines round them.

    Args:
        folder: Holds the graphs of the formats asked for.
        precision: "bf16" or "int8".
        task: The model's.
        calibration: A dataset with labels, prepared as the model's card says, or None where there is none.

    Returns:
        Lines that state the change of top-1 and of the logits.

    Raises:
        ExportError: There are no items; or no format of the folder is for an engine that computes so.
    """
    if calibration is None or not len(calibration):
        raise ExportError(
            f"--precision {precision} needs {task.words.items} to measure it on: name them by --calibrate"
        )
    engines = [name for name in FILES if precision in COMPUTES_IN[name]]
    there = [name for name in engines if not missing_files(name, folder)]
    if not there:
        raise ExportError(f"no engine computes the formats asked for in {precision}: choose another format")
    numbers = _spread(calibration, _MEASURED_ON)
    items = f"{len(numbers)} {task.words.items}"
    get_logger().info("%s: measuring the change on %s by %s", precision, items, ", ".join(there))
    measured = _Samples(task, calibration, numbers)
    before = {name: _logits(folder, name, "f32", measured) for name in there}
    if precision == "int8":
        for name in there:
            _QUANTIZE[name](folder, _Samples(task, calibration, _spread(calibration, _CALIBRATED_ON)))
    lines = []
    for name in there:
        after = _logits(folder, name, precision, measured)
        lines.append(f"{name} in {precision}: {change(before[name], after, measured.labels(), items)}")
    return lines


def change(before: np.ndarray, after: np.ndarray, labels: np.ndarray | None, items: str) -> Change:
    """Compares two of logits `[N, K]` of items with these labels; None where they have not one each."""
    difference = float(np.abs(after - before).max() / before.std())
    top1 = None
    if labels is not None:
        right = [float((logits.argmax(axis=1) == labels).mean()) for logits in (before, after)]
        top1 = (right[0], right[1])
    return Change(items, difference, top1)


def _spread(dataset: Any, most: int) -> list[int]:
    """Numbers of `most` items, evenly spread over a dataset, which may be in order of classes."""
    count = min(most, len(dataset))
    return [i * len(dataset) // count for i in range(count)]


class _Samples:
    """Items of a dataset one at a time, as a model's inputs, as often as they are asked for."""

    def __init__(self, task: Task, dataset: Any, numbers: Sequence[int]) -> None:
        self.task = task
        self.dataset = dataset
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Sequence[np.ndarray]]:
        with progress_bar(total=len(self), desc="int8") as bar:
            for i in range(len(self)):
                yield self.batch(i, 1)
                bar.update()

    def batch(self, first: int, size: int) -> Sequence[np.ndarray]:
        """The inputs of so many from the first on."""
        samples = [self.dataset.sample((0, i)) for i in self.numbers[first : first + size]]
        return self.task.inputs(self.task.collate(samples))

    def labels(self) -> np.ndarray | None:
        """The items' classes; None where they have not one each."""
        labels = self.dataset.labels[list(self.numbers)]
        if getattr(self.dataset, "multi_hot", None) is not None or labels.dtype != np.int64:
            return None
        return labels


def _logits(folder: Path, name: str, precision: Precision, samples: _Samples) -> np.ndarray:
    with silenced():
        engine = open_engine(name, folder, precision=precision)
    found = []
    with progress_bar(total=len(samples), desc=f"{name} {precision}") as bar:
        for start in range(0, len(samples), _BATCH):
            found.append(engine(*samples.batch(start, _BATCH)))
            bar.update(len(found[-1]))
    return np.concatenate(found)


def _quantize_openvino(folder: Path, samples: _Samples) -> None:
    openvino = require_extra("openvino", "export", "int8")
    graph, weights = FILES["openvino"]
    model = openvino.Core().read_model(folder / graph)
    model = _quantized(model, samples, _of_two_computed(model), list)
    # To another folder first: the model still reads its weights from the old file.
    new = folder / "int8"
    openvino.save_model(model, new / graph, compress_to_fp16=False)
    del model
    for file in (graph, weights):
        (new / file).replace(folder / file)
    shutil.rmtree(new)


def _of_two_computed(model: Any) -> list[str]:
    """Names of the matrix products of which no operand is a matrix that follows from weights alone."""
    computed = set()
    found = []
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        values = node.input_values()
        from_inputs = [value.get_node().get_friendly_name() in computed for value in values]
        if any(from_inputs) or node.get_type_name() == "Parameter":
            computed.add(name)
        if node.get_type_name() == "MatMul":
            weights = [value for value, other in zip(values, from_inputs, strict=True) if not other]
            # A vector is the start of a power iteration.
            if all(1 in value.get_shape() for value in weights):
                found.append(name)
    return found


def _quantize_onnx(folder: Path, samples: _Samples) -> None:
    onnx = require_extra("onnx", "export", "int8")
    path = folder / FILES["onnxruntime"][0]
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer if 1 not in tensor.dims}
    computed = [
        node.name for node in model.graph.node if node.op_type == "MatMul" and not weights & set(node.input)
    ]
    names = [node.name for node in model.graph.input]
    onnx.save(
        _quantized(model, samples, computed, lambda arrays: dict(zip(names, arrays, strict=True))), path
    )


def _quantized(model: Any, samples: _Samples, ignored: list[str], feed: Callable[[Any], Any]) -> Any:
    nncf = require_extra("nncf", "export", "int8")
    with silenced():
        return nncf.quantize(
            model,
            nncf.Dataset(samples, feed),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
        )


_QUANTIZE = {"openvino": _quantize_openvino, "onnxruntime": _quantize_onnx}
