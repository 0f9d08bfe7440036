"""PaddleSeg 2.8.0 on Paddle 3.3.1 and NumPy 2: what broke, and the smallest mend of each.

`repair()` puts corrected functions into the suite's modules. Nothing of its code is copied, and what works is
left alone.
"""

import importlib
import random
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.distributed import fleet

from passl_sot.dense.faults import check_loss, naming_the_file, raise_faults_of_readers


def repair() -> None:
    """Mends the suite; a second call changes nothing."""
    importlib.import_module("paddleseg.models")
    # `paddleseg.core.train` is the function of that name, which hides its module.
    training = sys.modules["paddleseg.core.train"]
    if hasattr(training, "sum"):
        return
    _mend_training(training)
    # `paddle.concat` refused the numbers of the classes, as sums have no dimension since Paddle 2.5.
    sys.modules["paddleseg.utils.metrics"].calculate_area = class_areas  # type: ignore[attr-defined]
    loss = importlib.import_module("paddleseg.models.losses").CrossEntropyLoss
    # Labels in int64 met a mask in float32, which Paddle 3 no longer multiplies.
    loss._post_process_loss = _mean_loss
    dataset = importlib.import_module("paddleseg.datasets").Dataset
    dataset.__getitem__ = naming_the_file(_wide_labels(dataset.__getitem__), _files_of)
    raise_faults_of_readers()
    # With `category_max_ratio` the labels came out as the image.
    importlib.import_module("paddleseg.transforms").RandomPaddingCrop.__call__ = _crop


class _OneGroup:
    """Stands for fleet on CPUs: the processes keep the one group that they have.

    Fleet makes two more, whose members look for each other under the keys of the first, and a process that is
    ahead finds ports that are closed: gloo's "Connection refused", now and then.
    """

    Fleet = fleet.Fleet

    def init(self, is_collective: bool) -> None:
        """Nothing: the processes have met."""

    def distributed_optimizer(self, optimizer: Any) -> Any:
        """The optimizer; gradients are averaged by the model."""
        return optimizer

    def distributed_model(self, model: nn.Layer) -> nn.Layer:
        """The model, whose processes average its gradients."""
        return paddle.DataParallel(model)


class _Distributed:
    """Stands for `paddle.distributed` in the suite's trainer."""

    def __getattr__(self, name: str) -> Any:
        if name == "fleet" and paddle.get_device() == "cpu":
            return _OneGroup()
        return getattr(dist, name)


class _Paddle:
    """Stands for Paddle in the suite's trainer, which ends by `paddle.flops`: NumPy 2.4 makes that raise."""

    distributed = _Distributed()

    def __getattr__(self, name: str) -> Any:
        return getattr(paddle, name)

    def flops(self, *_: Any, **__: Any) -> None:
        """Nothing; `--dry-run` counts."""


def _mend_training(training: ModuleType) -> None:
    losses_of = training.loss_computation

    def with_dimension(*args: Any, **options: Any) -> list[paddle.Tensor]:
        return [loss.reshape([1]) for loss in losses_of(*args, **options)]

    def total(losses: Sequence[paddle.Tensor]) -> paddle.Tensor:
        loss = paddle.add_n(list(losses)).reshape([])
        check_loss(float(loss), "lr_scheduler.learning_rate")
        return loss

    training.paddle = _Paddle()  # type: ignore[attr-defined]
    training.worker_init_fn = _seed_worker  # type: ignore[attr-defined]
    training.evaluate = _evaluate_alike(training.evaluate)  # type: ignore[attr-defined]
    # The log reads `loss.numpy()[0]` of each loss, which has no dimension since Paddle 2.5, and
    # `float(sum of them)`, which NumPy 2.4 refuses where there is one.
    training.loss_computation = with_dimension  # type: ignore[attr-defined]
    training.sum = total  # type: ignore[attr-defined]


def _evaluate_alike(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """Evaluates the model that is saved, the first process's.

    Each process evaluated its images by BatchNorm statistics of its own.
    """

    def evaluate_alike(model: nn.Layer, *args: Any, **options: Any) -> Any:
        if dist.get_world_size() > 1:
            for tensor in model.state_dict().values():
                if tensor.stop_gradient:
                    dist.broadcast(tensor, src=0)
        return evaluate(model, *args, **options)

    return evaluate_alike


def class_areas(
    pred: paddle.Tensor, label: paddle.Tensor, num_classes: int, ignore_index: int = 255
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Pixels of each class where prediction and label agree, in the prediction, and in the label.

    Args:
        pred, label: Class numbers `[N, 1, H, W]` or `[N, H, W]` of the same size.
        num_classes: Numbers from this on are counted for no class.
        ignore_index: Pixels with this label are left out of all three.

    Returns:
        Three of `[num_classes]`, int64.
    """
    predicted = pred.numpy().ravel()
    true = label.numpy().ravel()
    kept = true != ignore_index
    predicted = predicted[kept]
    true = true[kept]

    def count(values: np.ndarray) -> paddle.Tensor:
        inside = values[(values >= 0) & (values < num_classes)]
        return paddle.to_tensor(np.bincount(inside, minlength=num_classes).astype(np.int64))

    return count(true[predicted == true]), count(predicted), count(true)


def _mean_loss(
    self: nn.Layer, logit: paddle.Tensor, label: paddle.Tensor, semantic_weights: Any, loss: paddle.Tensor
) -> paddle.Tensor:
    """The mean over the pixels that count, or over the hardest of them, as the suite defines it."""
    kept = paddle.ones(label.shape, loss.dtype)
    if self.avg_non_ignore:
        kept = (label != self.ignore_index).astype(loss.dtype)
    weights = kept
    if self.weight is not None:
        weights = kept * self.weight[paddle.where(kept > 0, label, paddle.zeros_like(label))]
    losses = loss.reshape(label.shape) * kept
    if semantic_weights is not None:
        losses = losses * semantic_weights
    if self.top_k_percent_pixels != 1.0:
        count = int(self.top_k_percent_pixels * losses.size)
        losses, chosen = paddle.topk(losses.flatten(), count)
        weights = weights.flatten()[chosen]
    return losses.mean() / (weights.mean() + self.EPS)


def _files_of(dataset: Any, index: int) -> str:
    """The image with its label."""
    return " with ".join(str(path) for path in dataset.file_list[index])


def _wide_labels(read: Callable[[Any, int], dict[str, Any]]) -> Callable[[Any, int], dict[str, Any]]:
    """Label files of 16 bits as 32: Paddle takes NumPy's uint16 for bfloat16, and other classes come out."""

    def read_wide(self: Any, index: int) -> dict[str, Any]:
        data = read(self, index)
        if data["label"].dtype == np.uint16:
            data["label"] = data["label"].astype(np.int32)
        return data

    return read_wide


def _crop(self: Any, data: dict[str, Any]) -> dict[str, Any]:
    """A random crop; of `loop_times` the first in which no class takes more than `category_max_ratio`."""
    data = self._padding(data)
    size = data["img"].shape[:2]
    for _ in range(self.loop_times):
        left, top, right, bottom = self._get_crop_coordinates(size)
        if self.category_max_ratio >= 1:
            break
        labels, counts = np.unique(data["label"][top:bottom, left:right], return_counts=True)
        counts = counts[labels != self.ignore_index]
        if len(counts) > 1 and counts.max() < self.category_max_ratio * counts.sum():
            break
    for key in ("img", *data.get("gt_fields", [])):
        data[key] = data[key][top:bottom, left:right]
    return data


def _seed_worker(number: int) -> None:
    """Seeds a process that reads images; the suite gave all of them the same random numbers."""
    seed = random.randint(0, 2**31) + number
    random.seed(seed)
    np.random.seed(seed % 2**32)


def drop_unused(model: nn.Layer) -> None:
    """Drops `conv_last`, which heads of the suite build and never call.

    A parameter without a gradient makes training in several processes fail.
    """
    for layer in model.sublayers():
        if type(layer).__name__ in ("UPerNetHead", "PFPNHead") and hasattr(layer, "conv_last"):
            del layer.conv_last
