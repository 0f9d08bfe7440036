"""How large a model is: parameters and multiply-adds.

Multiply-adds are counted on a traced graph of one forward pass, so every matrix product and
convolution is in, however it was called: attention and covariance products too, which counters
that only look at layers leave out.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

__all__ = ["ModelStats", "count_layer_macs", "count_macs", "count_parameters", "model_stats"]


@dataclass(frozen=True)
class ModelStats:
    """Size of a model for one image.

    Attributes:
        parameters: Trainable parameters (BatchNorm statistics and fixed tables are none).
        macs: Multiply-adds of all matrix products and convolutions.
        layer_macs: Those of Linear and convolution layers only, as thop counts and papers often give.
    """

    parameters: int
    macs: int
    layer_macs: int


def count_parameters(model: nn.Layer) -> int:
    """Number of trainable values. (Paddle lists BatchNorm statistics among the parameters.)"""
    return sum(math.prod(p.shape) for p in model.parameters() if not p.stop_gradient)


def model_stats(model: nn.Layer, input_shape: Sequence[int] | None = None) -> ModelStats:
    """Parameters and multiply-adds of a classifier or backbone, for one image of its own size.

    Args:
        model: Anything with ``img_size`` and ``in_chans``, or with a ``backbone`` that has them.
        input_shape: Shape of one input with the batch, such as [1, 3, 224, 224], for other layers.
    """
    if input_shape is None:
        backbone = getattr(model, "backbone", model)
        input_shape = [1, backbone.in_chans, *backbone.img_size]
    return ModelStats(
        count_parameters(model), count_macs(model, input_shape), count_layer_macs(model, input_shape)
    )


@contextmanager
def _evaluating(model: nn.Layer) -> Iterator[None]:
    """Evaluation mode; afterwards every layer is as it was, frozen ones too."""
    layers = list(model.sublayers(include_self=True))
    modes = [layer.training for layer in layers]
    model.eval()
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode


def count_layer_macs(model: nn.Layer, input_shape: Sequence[int]) -> int:
    """Multiply-adds of the Linear and convolution layers for an input of that shape."""
    total = 0

    def count(layer: nn.Layer, inputs: Any, output: paddle.Tensor) -> None:
        nonlocal total
        weight = layer.weight.shape
        per_output = weight[0] if isinstance(layer, nn.Linear) else math.prod(weight[1:])
        total += math.prod(output.shape) * per_output

    kinds = (nn.Linear, nn.Conv1D, nn.Conv2D, nn.Conv3D)
    layers = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, kinds)]
    hooks = [layer.register_forward_post_hook(count) for layer in layers]
    try:
        with _evaluating(model), paddle.no_grad():
            model(paddle.zeros(list(input_shape), dtype=model.parameters()[0].dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def count_macs(model: nn.Layer, input_shape: Sequence[int]) -> int:
    """Multiply-adds of every matrix product and convolution for an input of that shape.

    Raises:
        NotImplementedError: The graph holds a product that is not known here.
    """
    dtype = str(model.parameters()[0].dtype).rpartition(".")[2]
    spec = paddle.static.InputSpec(list(input_shape), dtype)

    # A function of its own: handing the layer to to_static would replace its forward for good. Not
    # translated: no model branches on values, and translating every layer takes most of the time.
    @paddle.jit.not_to_static
    def run(x: paddle.Tensor) -> Any:
        return model(x)

    with _evaluating(model), warnings.catch_warnings():
        # Said by Paddle of its own zeros_like in a traced graph.
        warnings.filterwarnings("ignore", message="Tensor do not have 'place' interface")
        traced = paddle.jit.to_static(run, input_spec=[spec], full_graph=True)
        program = traced.concrete_program.main_program
    return sum(_macs(op) for op in _walk(program.global_block()))


def _walk(block: Any) -> Iterator[Any]:
    for op in block.ops:
        yield op
        for inner in op.blocks():
            yield from _walk(inner)


def _matmul(op: Any) -> int:
    left = op.operand_source(0).shape
    inner = left[-2] if op.attrs()["transpose_x"] and len(left) > 1 else left[-1]
    return math.prod(op.results()[0].shape) * inner


def _product(op: Any) -> int:
    return math.prod(op.results()[0].shape) * op.operand_source(0).shape[-1]


def _addmm(op: Any) -> int:
    return math.prod(op.results()[0].shape) * op.operand_source(1).shape[-1]


def _convolution(op: Any) -> int:
    return math.prod(op.results()[0].shape) * math.prod(op.operand_source(1).shape[1:])


def _transposed_convolution(op: Any) -> int:
    return math.prod(op.operand_source(0).shape) * math.prod(op.operand_source(1).shape[1:])


def _counter(name: str) -> Callable[[Any], int] | None:
    if name == "matmul":
        return _matmul
    if name in ("bmm", "mv", "dot"):
        return _product
    if name in ("addmm", "baddbmm"):
        return _addmm
    if name in ("conv2d", "conv3d", "depthwise_conv2d"):
        return _convolution
    if name in ("conv2d_transpose", "conv3d_transpose", "depthwise_conv2d_transpose"):
        return _transposed_convolution
    return None


def _macs(op: Any) -> int:
    name = op.name().removeprefix("pd_op.").rstrip("_")
    counter = _counter(name)
    if counter is not None:
        return counter(op)
    if any(word in name for word in ("einsum", "attn", "attention", "matmul", "gemm", "conv")):
        raise NotImplementedError(f"cannot count the multiply-adds of the operator {op.name()}")
    return 0
