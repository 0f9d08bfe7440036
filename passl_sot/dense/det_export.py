"""Detectors as files for Paddle Inference, proven against the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.static import InputSpec

from passl_sot.dense.pyramid import size_obstacle
from passl_sot.engines.base import STEM
from passl_sot.export.card import ExportError
from passl_sot.utils.files import folder_filled
from passl_sot.utils.logger import get_logger
from passl_sot.utils.silence import silenced
from passl_sot.utils.tracing import short_stacks

# Of a coordinate in pixels, a score, and a class.
_LIMIT = 1e-3
_ALONE = 0.05
_MULTIPLE = 32  # the neck adds maps of half the size to others
log = get_logger()


def export_detector(trainer: Any, output: Path, size: tuple[int, int] | None) -> Path:
    """Writes `inference.json`, `inference.pdiparams` and the suite's `infer_cfg.yml`.

    The graph takes one image, as `image` [1, 3, H, W], `im_shape` [1, 2] and `scale_factor` [1, 2], and gives
    boxes [N + 1, 6] (class, score, corners), their number [1] and masks [N + 1, H, W]; the last box is
    the suite's filler of score 0, for images without objects.

    Args:
        trainer: The suite's, with weights, in its form for one image (`export_onnx`).
        output: Files of these names in it are replaced.
        size: H and W, of whole 32 pixels; None for graphs of any size.

    Raises:
        ExportError: The graph can't be written, or finds other objects; nothing is written.
    """
    backbone = trainer.model.backbone
    # A backbone of the suite's own has no such word, and may fail below.
    obstacle = size_obstacle(trainer.model)
    if size is None and obstacle:
        raise ExportError(f"a graph of this model takes one size of images, name it by --size: {obstacle}")
    if size and any(side % _MULTIPLE for side in size):
        nearest = [max(1, round(side / _MULTIPLE)) * _MULTIPLE for side in size]
        raise ExportError(
            f"a graph takes images of whole {_MULTIPLE} pixels, got {size[0]}x{size[1]}; "
            f"the nearest are {nearest[0]}x{nearest[1]}"
        )
    # Open sizes are proven at a second one too.
    examples = [_example(side) for side in ([size] if size else [(96, 128), (128, 96)])]
    # First of all, as backbones with windows lay them out for a new size, which they can't in a graph.
    with paddle.no_grad():
        wanted = [
            trainer.model({name: paddle.to_tensor(array) for name, array in example.items()})["bbox"].numpy()
            for example in examples
        ]
    with folder_filled(output) as new:
        with silenced():
            _, specs = trainer._get_infer_cfg_and_input_spec(str(new), prune_input=False)
        sides = size or (None, None)
        specs[0]["image"] = InputSpec([1, 3, *sides], "float32", "image")
        for name in ("im_shape", "scale_factor"):
            specs[0][name] = InputSpec([1, 2], "float32", name)
        with silenced(), short_stacks():
            # Only sizes that stay open need Paddle's translator there, which doesn't know all of Python.
            if size:
                backbone.forward = _untranslated(backbone.forward)
            # The suite's own way asks a graph of half the model, which has no program to save.
            graph = paddle.jit.to_static(trainer.model, input_spec=specs, full_graph=True)
            paddle.jit.save(graph, str(new / STEM), input_spec=specs)
        pairs = zip(wanted, examples, strict=True)
        worst = max(_difference(boxes, new, example) for boxes, example in pairs)
        if not worst <= _LIMIT:
            raise ExportError(f"the exported graph finds other objects ({worst:.1e}); nothing is written")
        count = sum(len(boxes) - 1 for boxes in wanted)
        log.info("%d boxes in random images differ from the model's by at most %.1e", count, worst)
        if not count:
            log.warning("without a box nothing is proven: compare predictions of your own images")
    return output


def _untranslated(method: Callable[..., Any]) -> Callable[..., Any]:
    # Not the method itself: the mark would stay on it for all graphs of the process.
    def run(inputs: Any) -> Any:
        return method(inputs)

    return paddle.jit.not_to_static(run)


def _example(size: tuple[int, int]) -> dict[str, np.ndarray]:
    return {
        "image": np.random.default_rng(0).standard_normal([1, 3, *size], np.float32),
        "im_shape": np.array([size], np.float32),
        "scale_factor": np.ones([1, 2], np.float32),
    }


def _difference(wanted: np.ndarray, folder: Path, inputs: dict[str, np.ndarray]) -> float:
    """The greatest difference between a box of one side and the nearest of the other.

    One box in twenty may have no partner: whether one hides another turns on the last digit.
    """
    with silenced():
        found = run_exported(folder, inputs)[0]
    # Boxes of the same score stand in any order.
    apart = np.abs(wanted[:, None] - found[None]).max(-1)
    nearest = np.concatenate([apart.min(0), apart.min(1)])
    return float(np.sort(nearest)[-1 - int(_ALONE * len(nearest))])


def run_exported(folder: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Boxes, their number and masks, as Paddle Inference finds them the second time."""
    from paddle import inference

    config = inference.Config(str(folder / f"{STEM}.json"), str(folder / f"{STEM}.pdiparams"))
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    # The first run lays memory out; faults of that show in later ones.
    for _ in range(2):
        for name in predictor.get_input_names():
            predictor.get_input_handle(name).copy_from_cpu(inputs[name])
        predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]
