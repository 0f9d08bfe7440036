"""Repairs of PaddleDetection 2.6.0, which was written for Paddle 2.4, so that it runs on Paddle 3.3.

`repair` changes functions of its modules in place; call it after importing the suite and before using it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import paddle


class _OlderPaddle:
    """Stands for the name `paddle` in a module of the suite: some functions are as they were in Paddle 2.4.

    A single number was a tensor of shape [1] there, and has shape [] now.
    """

    def __init__(self, **older: Any) -> None:
        self.__dict__.update(older)

    def __getattr__(self, name: str) -> Any:
        return getattr(paddle, name)


def _concat(x: Sequence[paddle.Tensor], axis: int = 0, name: str | None = None) -> paddle.Tensor:
    """`paddle.concat` that takes single numbers too."""
    return paddle.concat([part.reshape([1]) if part.ndim == 0 else part for part in x], axis, name)


def _first_of_slice(*args: Any, **settings: Any) -> paddle.Tensor:
    """`paddle.slice` of a single number, which `range` takes as a tensor of shape [] only."""
    return paddle.slice(*args, **settings)[0]


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
    boxes, index, count = paddle._C_ops.multiclass_nms3(bboxes, scores, rois_num, *settings)
    return boxes, count, index if return_index else None


def repair() -> None:
    """Makes training, evaluation, prediction and export of R-CNN detectors with masks work; may be repeated."""
    from ppdet.modeling import ops, post_process
    from ppdet.modeling.heads import cascade_head
    from ppdet.modeling.proposal_generator import rpn_head, target

    # Counts of boxes, by image, are joined from single numbers.
    rpn_head.paddle = _OlderPaddle(concat=_concat, slice=_first_of_slice)
    for module in (target, cascade_head, post_process):
        module.paddle = _OlderPaddle(concat=_concat)
    ops.multiclass_nms = _multiclass_nms
    head = rpn_head.RPNHead
    head._gen_proposal = _count_in_a_list(head._gen_proposal)
