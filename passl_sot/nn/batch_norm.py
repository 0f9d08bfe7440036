"""BatchNorm as PyTorch computes it, over the images of one process or of all."""

from collections.abc import Callable

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer


class BatchNorm2D(nn.BatchNorm2D):
    """``nn.BatchNorm2D`` whose running variance is the unbiased one, n/(n-1) of the batch's, n = B·H·W.

    Paddle's keeps the biased one, which at small batches and late stages moves evaluated logits by percents,
    takes epsilon in float32 where the images are float64, and warns at every run.

    Attributes:
        reduce: Sums a tensor over all processes: mean and variance are then those of the images of all.
    """

    reduce: Callable[[paddle.Tensor], paddle.Tensor] | None = None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[B, C, ...]``; B may differ between processes. Returns: the same shape."""
        if x.dtype == paddle.float64 or (self.training and self.reduce):
            return self._by_hand(x)
        before = self._variance.clone() if self.training else None
        statistics = (self._mean, self._variance)
        settings = (self.training, self._momentum, self._epsilon, self._data_format)
        y = F.batch_norm(x, *statistics, self.weight, self.bias, *settings)
        count = x.size // x.shape[1]
        if before is not None and count > 1:
            with paddle.no_grad():
                moved = self._variance - self._momentum * before  # (1 - momentum) times the biased variance
                # Not in place: the backward pass wants the tensor at its version.
                self._variance.set_value(self._variance + moved / (count - 1))
        return y

    def _by_hand(self, x: paddle.Tensor) -> paddle.Tensor:
        beside = [1, -1, *[1] * (x.ndim - 2)]  # the shape in which values of channels stand beside x
        axes = [0, *range(2, x.ndim)]
        mean = self._mean
        variance = self._variance
        if self.training:
            # Two passes: the variance from squares of differences, as sums of squares would cancel.
            size = paddle.full([1], x.size / x.shape[1], x.dtype)
            sums = _Total.apply(paddle.concat([x.sum(axes), size]), self.reduce)
            count = sums[-1].clip(min=1.0)
            mean = sums[:-1] / count
            squares = _Total.apply((x - mean.reshape(beside)).square().sum(axes), self.reduce)
            variance = squares / count
            with paddle.no_grad():
                keep = self._momentum  # Paddle's: 1 minus PyTorch's
                unbiased = squares / (count - 1).clip(min=1.0)
                self._mean.set_value(self._mean * keep + mean * (1 - keep))
                self._variance.set_value(self._variance * keep + unbiased * (1 - keep))
        scale = (variance + self._epsilon).rsqrt().multiply(self.weight)
        return (x - mean.reshape(beside)) * scale.reshape(beside) + self.bias.reshape(beside)


class _Total(PyLayer):
    """The sum over all processes; each one's part is in the results of all, so gradients are summed too."""

    @staticmethod
    def forward(ctx, x, reduce):
        ctx.reduce = reduce
        return reduce(x.clone()) if reduce else x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.reduce(grad.clone()) if ctx.reduce else grad


def synchronize_batch_norm(model: nn.Layer, reduce: Callable[[paddle.Tensor], paddle.Tensor]) -> None:
    """Has every BatchNorm2D in a model take its statistics over all processes; see ``BatchNorm2D``."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, nn.BatchNorm2D):
            layer.__class__ = BatchNorm2D  # Paddle's own in a user's backbone, too: ours adds no state
            layer.reduce = reduce


def batch_norm(channels: int, epsilon: float = 1e-5, torch_momentum: float = 0.1) -> BatchNorm2D:
    """BatchNorm with the momentum given as PyTorch counts it (Paddle's is 1 minus that)."""
    return BatchNorm2D(channels, momentum=1.0 - torch_momentum, epsilon=epsilon)
