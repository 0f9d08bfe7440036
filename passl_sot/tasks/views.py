"""Test-time augmentation: the mean of the probabilities of several views of the same images."""

from collections.abc import Callable, Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.config import UserError, did_you_mean, nearest
from passl_sot.nn.precision import at_least_float32
from passl_sot.tasks.base import Task
from passl_sot.tasks.classification import ClassificationTask


def _flip(x_bchw: paddle.Tensor) -> list[paddle.Tensor]:
    return [x_bchw, x_bchw.flip(3)]


def _crops(x_bchw: paddle.Tensor) -> list[paddle.Tensor]:
    size = tuple(x_bchw.shape[2:])
    height, width = (max(1, side * 7 // 8) for side in size)
    down = size[0] - height
    right = size[1] - width
    corners = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))
    parts = [x_bchw[:, :, top : top + height, left : left + width] for top, left in corners]
    return [x_bchw, *(F.interpolate(part, size=size, mode="bilinear") for part in parts)]


# flip: the images and mirrored ones. crops: the images, their corners and their middle, seven eighths of each
# side, enlarged bilinearly to the size of the images (after Krizhevsky et al., 2012, who had no whole image).
VIEWS: dict[str, Callable[[paddle.Tensor], list[paddle.Tensor]]] = {"flip": _flip, "crops": _crops}


class Views:
    """Logits whose probabilities are the means of those of all views of images.

    Args:
        names: Of `VIEWS`; of several each view of one is seen in all views of the others.
        task: What is done with the images, ready to evaluate or to predict.

    Raises:
        UserError: There is no such view, or the task is about something else than images.
    """

    def __init__(self, names: Sequence[str], task: Task):
        for name in names:
            if name not in VIEWS:
                near = did_you_mean(nearest(name, VIEWS))
                raise UserError(f"there is no view {name!r} of images: choose among {', '.join(VIEWS)}{near}")
        if not isinstance(task, ClassificationTask):
            raise UserError(f"views for test-time augmentation are of images, not of {task.words.items}")
        self.names = names
        # Each class has a probability of its own where images have several labels.
        self.several = task.several

    def __call__(
        self, compute: Callable[[paddle.Tensor], paddle.Tensor], images: paddle.Tensor
    ) -> paddle.Tensor:
        """Computes all views.

        Args:
            compute: A model, images to logits [B, K].
            images: [B, C, H, W], prepared for it.

        Returns:
            Logits [B, K]: logarithms of the mean probabilities, of images with several labels of the odds.
        """
        views = [images]
        for name in dict.fromkeys(self.names):
            views = [view for given in views for view in VIEWS[name](given)]
        # One after the other: all at once they would need so many times the memory.
        logits = paddle.stack([at_least_float32(compute(view)) for view in views])
        if self.several:
            return _log_mean(F.log_sigmoid(logits)) - _log_mean(F.log_sigmoid(-logits))
        # Not by F.log_softmax, which on a CPU gives no less than -64.
        return _log_mean(logits - paddle.logsumexp(logits, axis=-1, keepdim=True))


def _log_mean(logs: paddle.Tensor) -> paddle.Tensor:
    """The logarithm of the mean over the first axis of what logarithms are given of."""
    # Without exponents of their own: small probabilities would become 0.
    return paddle.logsumexp(logs, axis=0) - paddle.log(paddle.to_tensor(float(len(logs)), logs.dtype))


class ViewedModel(nn.Layer):
    """A model of images in evaluation mode, with the mean of views as its answer."""

    def __init__(self, model: nn.Layer, views: Views):
        super().__init__()
        self.model = model
        self.views = views

    @property
    def num_classes(self) -> int:
        """Number K of classes."""
        return self.model.num_classes

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, K]``."""
        return self.views(self.model, x_bchw)
