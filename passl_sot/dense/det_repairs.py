"""Repairs of PaddleDetection 2.6.0, which was written for Paddle 2.4, so that it runs on Paddle 3.3.

`repair` changes functions of its modules in place; call it after importing the suite and before using it.
"""

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import paddle
import paddle.nn.functional as F
from PIL import ImageDraw, ImageFile

from passl_sot.dense.faults import naming_the_file, raise_faults_of_readers

_LEAST_SIDE = 1e-3  # pixels; in float32 it still shows beside the coordinates of large images


class _With:
    """Stands for a module in a module of the suite that imports it: some of its functions are others."""

    def __init__(self, module: ModuleType, **functions: Any) -> None:
        self.__dict__.update(functions)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _concat(x: Sequence[paddle.Tensor], axis: int = 0, name: str | None = None) -> paddle.Tensor:
    """`paddle.concat` that takes single numbers too."""
    return paddle.concat([part.reshape([1]) if part.ndim == 0 else part for part in x], axis, name)


def _first_of_slice(*args: Any, **settings: Any) -> paddle.Tensor:
    """`paddle.slice` of a single number, which `range` takes as a tensor of shape [] only."""
    return paddle.slice(*args, **settings)[0]


def _double(x: paddle.Tensor, scale_factor: float, mode: str) -> paddle.Tensor:
    """`interpolate` as the suite's FPN calls it, always by 2 and "nearest": each place becomes 2×2 places.

    Paddle Inference with oneDNN, its default, refuses the original one's program, for its list of factors.
    """
    channels, height, width = x.shape[1:]
    places = x.reshape([-1, channels, height, 1, width, 1])
    return places.expand([-1, -1, -1, 2, -1, 2]).reshape([-1, channels, 2 * height, 2 * width])


def _roi_align(x: Any, boxes: paddle.Tensor, *args: Any, **settings: Any) -> paddle.Tensor:
    """`roi_align` that takes boxes without area, which proposals may be.

    Paddle 3.3.1 divides by their zero sampling points. A ReLU hides the NaN in the forward pass, and in the
    backward pass all weights become NaN.
    """
    # In exported graphs oneDNN refuses these operators. There is no backward pass there.
    if paddle.in_dynamic_mode():
        corner = boxes[:, :2]
        boxes = paddle.concat([corner, paddle.maximum(boxes[:, 2:], corner + _LEAST_SIDE)], axis=1)
    return paddle.vision.ops.roi_align(x, boxes, *args, **settings)


def _count_in_a_list(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that gives boxes and their number, changed to give it as [1], the form of a list by image."""

    def changed(*args: Any) -> Any:
        boxes, number = method(*args)
        return boxes, number.reshape([-1])

    return changed


@paddle.jit.not_to_static
def _multiclass_nms(
    bboxes: paddle.Tensor,
    scores: paddle.Tensor,
    score_threshold: float,
    nms_top_k: int,
    keep_top_k: int,
    nms_threshold: float = 0.3,
    normalized: bool = True,
    nms_eta: float = 1.0,
    background_label: int = -1,
    return_index: bool = True,
    return_rois_num: bool = True,
    rois_num: paddle.Tensor | None = None,
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor | None]:
    """The suite's function, whose form for static graphs is of the kind that Paddle 3 has given up."""
    settings = (score_threshold, nms_top_k, keep_top_k, nms_threshold, normalized, nms_eta, background_label)
    boxes, index, count = paddle._C_ops.multiclass_nms3(bboxes, scores, rois_num, *settings)  # type: ignore[arg-type]
    return boxes, count, index if return_index else None


def _file_of(dataset: Any, index: int) -> str:
    return str(dataset.roidbs[index % len(dataset.roidbs)].get("im_file"))


class _Draw(ImageDraw.ImageDraw):
    """A drawing with the method that Pillow 10 has taken away."""

    def textsize(self, text: str) -> tuple[int, int]:
        """Width and height of a text, in pixels."""
        _, _, right, bottom = self.textbbox((0, 0), text)
        return math.ceil(right), math.ceil(bottom)


def repair() -> None:
    """Makes training, evaluation, prediction and export of R-CNN detectors with masks work."""
    import ppdet.engine  # noqa: F401
    from ppdet.data.source import dataset
    from ppdet.modeling import ops, post_process
    from ppdet.modeling.heads import cascade_head, roi_extractor
    from ppdet.modeling.necks import fpn
    from ppdet.modeling.proposal_generator import rpn_head, target
    from ppdet.utils import visualizer

    if isinstance(rpn_head.paddle, _With):
        return
    # Counts of boxes, by image, are joined from single numbers.
    rpn_head.paddle = _With(paddle, concat=_concat, slice=_first_of_slice)
    for module in (target, cascade_head, post_process):
        module.paddle = _With(paddle, concat=_concat)
    visualizer.ImageDraw = _With(ImageDraw, Draw=_Draw)
    # The suite has Pillow, in the whole process, make up what is missing of damaged files.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    images = dataset.DetDataset
    images.__getitem__ = naming_the_file(images.__getitem__, _file_of)
    raise_faults_of_readers()
    vision = _With(paddle.vision, ops=_With(paddle.vision.ops, roi_align=_roi_align))
    roi_extractor.paddle = _With(paddle, vision=vision)
    fpn.F = _With(F, interpolate=_double)
    ops.multiclass_nms = _multiclass_nms
    head = rpn_head.RPNHead
    head._gen_proposal = _count_in_a_list(head._gen_proposal)
