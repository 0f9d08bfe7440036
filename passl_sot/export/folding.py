"""Layers that a trained model needs no more: merged into the products beside them before it is exported.

Engines merge a BatchNorm behind a convolution themselves. They don't merge one before it, nor factors behind
attention; and a scale of attention's products keeps some from computing it in one piece.
"""

import copy
from itertools import pairwise
from typing import Any

import paddle
from paddle import nn

from passl_sot.nn.block import Attention


@paddle.no_grad()
def fold(model: nn.Layer) -> nn.Layer:
    """A copy of a model in evaluation mode that gives the same up to rounding, in fewer steps.

    Merged are a BatchNorm behind or before a product, STViT's factors per channel, and the scale of
    attention's products. Where products and norms don't follow each other in a Sequential, a layer says by
    `norm_behind`, `norm_before` and `scale_after` which belong together.
    """
    model = copy.deepcopy(model)
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, nn.Sequential):
            _norms_behind(layer)
        if hasattr(layer, "norm_behind"):
            norm, product = layer.norm_behind
            _behind(_inner(layer, product), *_affine(getattr(layer, norm)))
            setattr(layer, norm, nn.Identity())
        if hasattr(layer, "norm_before"):
            norm, product = layer.norm_before
            _before(_inner(layer, product), getattr(layer, norm))
            setattr(layer, norm, nn.Identity())
        if getattr(layer, "layer_scale", None) is not None:
            for gamma, product in layer.scale_after:
                _behind(_inner(layer, product), getattr(layer, gamma).flatten())
            layer.layer_scale = None
        if getattr(layer, "reads_windows", None):
            for reader, pixels in layer.reads_windows.items():
                _pixels_outermost(_inner(layer, reader), pixels)
            layer.pixels_outermost = True
        if isinstance(layer, Attention):
            _scale_queries(layer)
    return model


def _inner(layer: nn.Layer, path: str) -> nn.Layer:
    for name in path.split("."):
        layer = getattr(layer, name)
    return layer


def _affine(norm: nn.BatchNorm2D) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Factor and summand per channel of a BatchNorm in evaluation mode, in float64 so as to round once."""
    tensors: list[Any] = [norm._mean, norm._variance, norm.weight, norm.bias]
    mean, variance, weight, bias = (tensor.astype("float64") for tensor in tensors)
    factor = weight / (variance + norm._epsilon).sqrt()
    return factor, bias - mean * factor


def _norms_behind(layers: nn.Sequential) -> None:
    names = list(layers._sub_layers)
    for first, second in pairwise(names):
        product = layers._sub_layers[first]
        norm = layers._sub_layers[second]
        if isinstance(norm, nn.BatchNorm2D) and isinstance(product, nn.Conv2D | nn.Linear):
            _behind(product, *_affine(norm))
            layers._sub_layers[second] = nn.Identity()


def _behind(product: nn.Layer, factor: paddle.Tensor, summand: paddle.Tensor | None = None) -> None:
    """Has a product give its outputs times `factor` plus `summand`, both per output channel."""
    weight = product.weight.astype("float64")
    factor = factor.astype("float64")
    beside = [1, -1] if weight.ndim == 2 else [-1, 1, 1, 1]
    bias = summand
    if product.bias is not None:
        bias = product.bias.astype("float64") * factor
        if summand is not None:
            bias = bias + summand
    _set(product, weight * factor.reshape(beside), bias)


def _before(product: nn.Layer, norm: nn.BatchNorm2D) -> None:
    """Has a product of pixels alone, without padding, take what a norm would be given."""
    factor, summand = _affine(norm)
    weight = product.weight.astype("float64")
    if weight.ndim == 2:
        bias = paddle.matmul(summand, weight)
        weight = weight * factor.unsqueeze(-1)
    else:
        bias = paddle.matmul(weight.flatten(1), summand)
        weight = weight * factor.reshape([1, -1, 1, 1])
    if product.bias is not None:
        bias = bias + product.bias.astype("float64")
    _set(product, weight, bias)


def _pixels_outermost(reader: nn.Layer, pixels: int) -> None:
    """Has a product or a norm take windows pixel by pixel that it took channel by channel."""
    parameters = [reader.weight]
    if reader.weight.ndim == 1:
        parameters.append(reader.bias)
    for parameter in parameters:
        numbers = parameter.reshape([-1, pixels, *parameter.shape[1:]])
        order = [1, 0, *range(2, numbers.ndim)]
        parameter.set_value(numbers.transpose(order).reshape(parameter.shape))


def _scale_queries(attention: Attention) -> None:
    """Multiplies the queries in place of their products with the keys."""
    # Columns of the joint projection stand as [3, h, d], or by head as [h, 3, d]; queries are the first of 3.
    factor = paddle.ones([3, attention.num_heads, attention.head_dim], "float64")
    factor[0] = attention.scale
    if attention.qkv_by_head:
        factor = factor.transpose([1, 0, 2])
    _behind(attention.qkv, factor.flatten())
    attention.scale = 1.0


def _set(product: nn.Layer, weight: paddle.Tensor, bias: paddle.Tensor | None) -> None:
    product.weight.set_value(weight.astype(product.weight.dtype))
    if bias is None:
        return
    if product.bias is None:
        product.bias = product.create_parameter([bias.shape[0]], dtype=product.weight.dtype, is_bias=True)
    product.bias.set_value(bias.astype(product.bias.dtype))
