"""BatchNorm over the joined batch of all processes.

On a GPU that is Paddle's `SyncBatchNorm`. It has no CPU kernel, so on a CPU it is written out here.
"""

from collections.abc import Callable

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from passl_sot.nn.initializers import BatchNorm2D

Reduce = Callable[[paddle.Tensor], paddle.Tensor]


def synchronize_batch_norm(model: nn.Layer, reduce: Reduce) -> int:
    """Replaces each BatchNorm2D inside an unwrapped model; parameters, statistics and names stay.

    Returns:
        The number of layers replaced.
    """
    count = 0
    for parent in model.sublayers(include_self=True):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.BatchNorm2D):
                setattr(parent, name, SyncBatchNorm2D(layer, reduce))
                count += 1
    return count


class SyncBatchNorm2D(BatchNorm2D):
    """BatchNorm whose mean and (biased) variance are those of the images of all processes.

    It takes over the tensors of `layer`; `reduce` sums a tensor over all processes.
    """

    def __init__(self, layer: nn.BatchNorm2D, reduce: Reduce):
        # A layer of the same kind, so that code which looks for BatchNorm finds it.
        super().__init__(
            layer.weight.shape[0],
            momentum=layer._momentum,
            epsilon=layer._epsilon,
            data_format=layer._data_format,
        )
        self.weight = layer.weight
        self.bias = layer.bias
        self._mean = layer._mean
        self._variance = layer._variance
        self.training = layer.training
        self._reduce = reduce

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Args: x: ``[B, C, H, W]``; B may differ between processes. Returns: the same shape."""
        if not self.training:
            return super().forward(x)
        with paddle.no_grad():
            # Two passes: the variance from squares of differences, as sums of squares would cancel.
            size = paddle.full([1], x.size / x.shape[1], x.dtype)
            sums = self._reduce(paddle.concat([x.sum([0, 2, 3]), size]))
            count = sums[-1]
            mean = sums[:-1] / count
            centered = x - mean.reshape([1, -1, 1, 1])
            variance = self._reduce(centered.square().sum([0, 2, 3])) / count
            keep = self._momentum  # Paddle's: 1 minus PyTorch's
            self._mean.set_value(self._mean * keep + mean * (1 - keep))
            self._variance.set_value(self._variance * keep + variance * (1 - keep))
            scale = (variance + self._epsilon).rsqrt()
        return _Normalize.apply(x, self.weight, self.bias, mean, scale, count, self._reduce)


class _Normalize(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, mean, scale, count, reduce):
        normal = (x - mean.reshape([1, -1, 1, 1])) * scale.reshape([1, -1, 1, 1])
        ctx.save_for_backward(normal, weight, scale, count)
        ctx.reduce = reduce
        return normal * weight.reshape([1, -1, 1, 1]) + bias.reshape([1, -1, 1, 1])

    @staticmethod
    def backward(ctx, grad):
        normal, weight, scale, count = ctx.saved_tensor()
        bias_grad = grad.sum([0, 2, 3])
        weight_grad = (grad * normal).sum([0, 2, 3])
        # Mean and variance depend on the images of every process, so the two sums go over all of them.
        means = ctx.reduce(paddle.concat([bias_grad, weight_grad])) / count
        first, second = (part.reshape([1, -1, 1, 1]) for part in means.split(2))
        x_grad = (grad - first - normal * second) * (weight * scale).reshape([1, -1, 1, 1])
        return x_grad, weight_grad, bias_grad, None, None, None
