"""Repairs of PaddleDetection 2.6.0, which was written for Paddle 2.4, so that it runs on Paddle 3.3.

`repair` changes functions of its modules in place; call it after importing the suite and before using it.
"""

from collections.abc import Sequence
from types import ModuleType
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


def repair() -> None:
    """Makes training, evaluation, prediction and export of R-CNN detectors with masks work; may be repeated."""
    from ppdet.modeling import post_process
    from ppdet.modeling.heads import cascade_head
    from ppdet.modeling.proposal_generator import rpn_head, target

    # Counts of boxes, by image, are joined from single numbers.
    rpn_head.paddle = _OlderPaddle(concat=_concat, slice=_first_of_slice)
    for module in (target, cascade_head, post_process):
        module.paddle = _OlderPaddle(concat=_concat)
