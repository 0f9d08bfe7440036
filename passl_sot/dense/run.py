"""Runs of segmenters and detectors: which suite a file is for, what it says of itself, what it will cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import paddle
from paddle import nn

from passl_sot.config import suite_of
from passl_sot.dense.pyramid import PasslSotPyramid, plan_pyramids
from passl_sot.modeling.stats import ModelStats, count_parameters, macs_of_layer, model_stats

# Height and width at which the suites' users compare costs.
SIZES = {"PaddleSeg": (512, 512), "PaddleDetection": (800, 1280)}
# In float32: a parameter, its gradient, and the two moments of AdamW.
_BYTES_OF_PARAMETER = 4 * 4


class Run(Protocol):
    """What a cost is estimated of; `Segmentation` and `Detection` are such, and do alike beyond that."""

    suite: str

    def build(self) -> nn.Layer:
        """The model, without data."""

    def example(self, height: int, width: int) -> Any:
        """What the model takes for one image: a list of tensors, or a dict of them as its only argument."""


def open_run(config: Path, overrides: Sequence[str] = ()) -> Any:
    """The driver of a file, which is read and checked: a `Segmentation` or a `Detection`.

    Args:
        config: A YAML file of PaddleSeg or PaddleDetection.
        overrides: "a.b.0.c=value" with the value in YAML.

    Raises:
        UserError: The file is for neither suite, the suite isn't installed, or something is wrong with it.
    """
    if suite_of(config) == "PaddleDetection":
        from passl_sot.dense.detection import Detection

        return Detection(config, overrides)
    from passl_sot.dense.segmentation import Segmentation

    return Segmentation(config, overrides)


def _detector_stats(model: nn.Layer, inputs: dict[str, paddle.Tensor]) -> ModelStats:
    """The size of a detector, of which only the pyramid can be traced; the rest is run."""
    # What follows it branches on numbers of boxes, which a graph can't be traced through.
    pyramid = next(layer for layer in model.sublayers() if isinstance(layer, PasslSotPyramid))
    stats = model_stats(pyramid, [inputs["image"]])
    inside = {id(layer) for layer in pyramid.sublayers(include_self=True)}
    rest = [layer for layer in model.sublayers() if id(layer) not in inside and not layer.sublayers()]
    macs = values = 0

    def count(layer: nn.Layer, _: Any, output: Any) -> Any:
        nonlocal macs, values
        macs += macs_of_layer(layer, output)
        values += output.size

    # Layers without parameters multiply nothing.
    hooks = [layer.register_forward_post_hook(count) for layer in rest if layer.parameters()]
    model.eval()
    try:
        with paddle.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    macs += stats.macs
    values += stats.values
    return ModelStats(count_parameters(model), macs, macs, values)


def describe(run: Run, height: int, width: int) -> list[str]:
    """Lines on size, compute and memory at one image of a size; of a detector with all its proposals."""
    model = run.build()
    inputs = run.example(height, width)
    plan_pyramids(model, height, width)
    stats = _detector_stats(model, inputs) if isinstance(inputs, dict) else model_stats(model, inputs)
    beside = ""
    if isinstance(inputs, dict):
        beside = "; masks are computed for what is found, and come on top"
    fixed = _BYTES_OF_PARAMETER * stats.parameters / 1e9
    image = 4 * stats.values / 1e9
    return [
        f"image        {height}x{width} pixels",
        f"parameters   {stats.parameters / 1e6:.3f} M trainable",
        f"compute      {stats.macs / 1e9:.1f} GMACs forward, one image{beside}",
        f"memory       {fixed:.2f} GB + at most {image:.2f} GB an image, without recompute, in float32",
        "             counted: parameters, gradients, two moments of the optimizer; what each operation of",
        "             the forward pass puts out. Not counted: the loss, buffers of the libraries",
    ]
