"""Segmenters as files for Paddle Inference, onnxruntime and PaddleSeg's own deployment, each proven."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from passl_sot.config.yaml_text import dump_yaml
from passl_sot.dense.pyramid import plan_pyramids, size_obstacle
from passl_sot.dense.resizing import for_engines
from passl_sot.engines.base import STEM, open_engine
from passl_sot.export.card import ExportError
from passl_sot.export.folder import check_packages, write_onnx
from passl_sot.utils.files import folder_filled
from passl_sot.utils.logger import get_logger
from passl_sot.utils.silence import silenced
from passl_sot.utils.tracing import short_stacks

# Of a logit, times their standard deviation where that is above 1.
_LIMIT = 1e-4
log = get_logger()


class _Graph(nn.Layer):
    """What deployment wants of a segmenter: classes `[B, H, W]`, or logits `[B, K, H, W]`."""

    def __init__(self, model: nn.Layer, logits: bool, open_size: bool) -> None:
        super().__init__()
        self.model = model
        self.logits = logits

        # Not a method: the mark would stay on it for all graphs of the process.
        def untranslated(x_bchw: paddle.Tensor) -> paddle.Tensor:
            return model(x_bchw)[0]

        # Only shapes that stay open need Paddle's translator, which doesn't know all of Python.
        self.untranslated = None if open_size else paddle.jit.not_to_static(untranslated)
        self.eval()

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Prepared images to what is wanted."""
        if self.untranslated is None:
            found = self.model(x_bchw)[0]
        else:
            found = self.untranslated(x_bchw)
        if self.logits:
            return found
        return paddle.argmax(found, axis=1, dtype="int32")


def export_segmenter(
    model: nn.Layer,
    transforms: Sequence[Mapping[str, Any]],
    output: Path,
    example: paddle.Tensor,
    *,
    open_size: bool,
    onnx: bool,
    logits: bool,
) -> Path:
    """Writes `inference.json`, `inference.pdiparams` and `deploy.yaml`, with `onnx` also `inference.onnx`.

    Args:
        model: In evaluation mode.
        transforms: What prepares an image, for `deploy.yaml`.
        output: Files of these names in it are replaced.
        example: Images `[1, C, H, W]` of the size to prove the graph at.
        open_size: Whether the graph takes other sizes too; it is then proven at a second one.
        onnx, logits: See above, and `_Graph`.

    Raises:
        ExportError: A graph can't be written, or computes something else; nothing is written.
    """
    if onnx:
        check_packages(["onnx"])
    obstacle = size_obstacle(model)
    if open_size and obstacle:
        raise ExportError(f"a graph of this model takes one size of images, name it by --size: {obstacle}")
    channels, height, width = example.shape[1:]
    sides: list[int | None] = [None, None] if open_size else [height, width]
    spec = InputSpec([None, channels, *sides], "float32", "image")
    sizes = [(height, width)]
    if open_size:
        sizes.append((height + 21, width - 5))
    graph = _Graph(model, logits, open_size)
    plan_pyramids(model, height, width)
    with folder_filled(output) as new:
        _write(graph, spec, str(new / STEM), onnx)
        deploy = {
            "model": f"{STEM}.json",
            "params": f"{STEM}.pdiparams",
            "transforms": [dict(transform) for transform in transforms],
            "input_shape": [-1, channels, *(side or -1 for side in sides)],
            "output_op": "none" if logits else "argmax",
            "output_dtype": "float32" if logits else "int32",
        }
        (new / "deploy.yaml").write_text(dump_yaml({"Deploy": deploy}), encoding="utf-8")
        pairs = [pair for size in sizes for pair in _pairs(graph, [channels, *size])]
        for engine in ["inference", *["onnxruntime"] * onnx]:
            worst = _difference(new, engine, pairs, logits)
            if not worst <= _LIMIT:
                raise ExportError(f"{engine} computes something else ({worst:.1e}); nothing is written")
            log.info("%s: differs from the model by at most %.1e", engine, worst)
    return output


def _write(graph: _Graph, spec: InputSpec, stem: str, onnx: bool) -> None:
    with silenced() as unseen:
        try:
            with short_stacks(), for_engines():
                paddle.jit.save(graph, stem, input_spec=[spec])
            if onnx:
                write_onnx(stem)
        except Exception as error:  # of whatever kind: Paddle's translator and the converters have many
            reason = str(error).strip() or unseen()
            advice = "" if graph.untranslated else "; a graph of one size may do, named by --size"
            raise ExportError(f"this model can't be written{advice}: {reason}") from error


def _pairs(graph: _Graph, shape: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random images, and what the model makes of them; the first come twice."""
    random = np.random.default_rng(0)
    pairs = []
    for batch in (1, 2):
        images = random.standard_normal([batch, *shape], np.float32)
        with paddle.no_grad():
            pairs.append((images, graph(paddle.to_tensor(images)).numpy()))
    return [*pairs, pairs[0]]


def _difference(
    folder: Path, engine: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]], logits: bool
) -> float:
    """Of logits the greatest, over their standard deviation if above 1; of classes the fraction of pixels."""
    compute = open_engine(engine, folder)
    worst = 0.0
    for images, wanted in pairs:
        with silenced():
            found = compute(images)
        if found.shape != wanted.shape:
            raise ExportError(f"{engine} gives {list(found.shape)}, and the model {list(wanted.shape)}")
        here = float((found != wanted).mean())
        if logits:
            here = float(abs(found - wanted).max()) / max(1.0, float(wanted.std()))
        # Of two numbers `max` may keep the one that isn't NaN.
        if here != here:
            return here
        worst = max(worst, here)
    return worst
