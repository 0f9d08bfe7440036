"""The size of a model: parameters and multiply-adds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

from passl_sot.utils.silence import silenced
from passl_sot.utils.tracing import short_stacks

# Operators whose output shares the memory of their input, or is a parameter or an input of the model.
_VIEWS = (
    *("reshape", "flatten", "squeeze", "unsqueeze", "transpose", "slice", "split", "unbind"),
    *("share_data", "builtin.parameter", "data"),
)


@dataclass(frozen=True)
class ModelStats:
    """Size of a model for one input: trainable parameters, and multiply-adds (MACs)."""

    parameters: int
    macs: int  # of all matrix products and convolutions
    layer_macs: int  # of Linear and convolution layers only, as thop counts and papers often give
    values: int  # that all operations put out, but those that only look at a tensor in another shape


def count_parameters(model: nn.Layer) -> int:
    """Number of trainable values; BatchNorm statistics and fixed tables are none."""
    # Paddle lists BatchNorm statistics among the parameters, frozen.
    return sum(math.prod(p.shape) for p in model.parameters() if not p.stop_gradient)


def model_stats(
    model: nn.Layer, example: Sequence[int] | Sequence[paddle.Tensor] | None = None
) -> ModelStats:
    """Size of a layer for one input, by default of the shape that its backbone takes.

    It is traced, not run. A NotImplementedError for a product that is not known here.

    Args:
        model: The layer.
        example: The shape ``[1, ...]`` of an input of the model's own numbers, or a tensor for each input.
    """
    dtype = model.parameters()[0].dtype
    if example is None:
        specs = getattr(model, "backbone", model).input_specs(1)
        for spec in specs:
            if spec.dtype == paddle.float32:
                spec.dtype = dtype  # of the model's own numbers
    elif isinstance(example[0], int):
        specs = [paddle.static.InputSpec(example, dtype)]
    else:
        specs = [paddle.static.InputSpec.from_tensor(value) for value in example]
    layer_macs = 0

    def count(layer: nn.Layer, inputs: Any, output: Any) -> None:
        nonlocal layer_macs
        layer_macs += macs_of_layer(layer, output)

    # On a traced graph, so that attention and covariance products are in, which counters that only look
    # at layers leave out. In a function of its own: handing the layer to to_static would replace its
    # forward for good. Not translated: no model branches on values, and translating every layer takes
    # most of the time.
    @paddle.jit.not_to_static
    def run(inputs: list[paddle.Tensor]) -> Any:
        return model(*inputs)

    layers = model.sublayers(include_self=True)
    hooks = [layer.register_forward_post_hook(count) for layer in layers]
    modes = [layer.training for layer in layers]
    model.eval()
    try:
        # Paddle warns of its own zeros_like and cumsum in a traced graph.
        with silenced(), short_stacks():
            traced = paddle.jit.to_static(run, input_spec=[specs], full_graph=True)
            program = traced.concrete_program.main_program
    finally:
        for hook in hooks:
            hook.remove()
        # Every layer as it was, frozen ones too.
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode
    block = program.global_block()
    return ModelStats(count_parameters(model), _macs_of_block(block), layer_macs, _values_of_block(block))


def _values_of_block(block: Any) -> int:
    here = sum(_values(op) for op in block.ops if op.name().removeprefix("pd_op.").rstrip("_") not in _VIEWS)
    return here + sum(_values_of_block(inner) for op in block.ops for inner in op.blocks())


def _values(op: Any) -> int:
    # Of lists of tensors, and of what an operator may leave out, the type has no shape.
    shapes = [result.shape for result in op.results() if result.is_dense_tensor_type()]
    return sum(math.prod(shape) for shape in shapes if all(side > 0 for side in shape))


def macs_of_layer(layer: nn.Layer, output: Any) -> int:
    """Multiply-adds of one call of a Linear or convolution layer that gave this; of other layers 0."""
    if not isinstance(layer, (nn.Linear, nn.Conv1D, nn.Conv2D, nn.Conv3D)):
        return 0
    # Per output value: a Linear's weight is [in, out], a convolution's [out, in, ...].
    weight = layer.weight.shape[:1] if isinstance(layer, nn.Linear) else layer.weight.shape[1:]
    return math.prod(output.shape) * math.prod(weight)


def _macs_of_block(block: Any) -> int:
    return sum(_macs(op) + sum(map(_macs_of_block, op.blocks())) for op in block.ops)


def _macs(op: Any) -> int:
    name = op.name().removeprefix("pd_op.").rstrip("_")

    def shape(i: int) -> list[int]:
        return op.operand_source(i).shape

    if name in ("conv2d_transpose", "conv3d_transpose", "depthwise_conv2d_transpose"):
        # Each INPUT value is multiplied by a kernel, not each output value as below.
        return math.prod(shape(0)) * math.prod(shape(1)[1:])
    if name in ("conv2d", "conv3d", "depthwise_conv2d"):
        summed = math.prod(shape(1)[1:])
    elif name in ("addmm", "baddbmm"):
        summed = shape(1)[-1]
    elif name == "matmul" and op.attrs()["transpose_x"] and len(shape(0)) > 1:
        summed = shape(0)[-2]
    elif name in ("matmul", "bmm", "mv", "dot"):
        summed = shape(0)[-1]
    elif any(word in name for word in ("einsum", "attn", "attention", "matmul", "gemm", "conv")):
        # Better no count than one that leaves a product of an unknown name out.
        raise NotImplementedError(f"cannot count the multiply-adds of the operator {op.name()}")
    else:
        return 0
    return math.prod(op.results()[0].shape) * summed
