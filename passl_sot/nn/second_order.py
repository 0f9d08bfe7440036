"""Global poolings of token features, of second order.

Legend: B batch, N tokens, C width, h heads, d width of one head's branch (``wr_dim``).

Where a mask ``[B, N]`` is given, tokens for which it is false, such as padding, count for nothing.
"""

import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn.batch_norm import batch_norm
from passl_sot.nn.initializers import linear
from passl_sot.nn.normalization import MatrixNorm
from passl_sot.nn.precision import at_least_float32, autocast_off


def remove_scalar_mean(x_bnc: paddle.Tensor, weights_bn1: paddle.Tensor | None = None) -> paddle.Tensor:
    """Subtract one number per sample: the mean over all tokens and all channels.

    Args:
        x_bnc: Tokens ``[B, ..., N, C]``.
        weights_bn1: 1 for tokens that count and 0 for others, which become zeros: ``[B, ..., N, 1]``.
    """
    # As the official SoT code does. A true covariance would remove one mean per channel; So-ViT does.
    return _centered(x_bnc, [-2, -1], weights_bn1)


def masked_mean(x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
    """Mean over the tokens ``[B, N, C]``: ``[B, C]``; zeros where no token counts."""
    if mask_bn is None:
        return x_bnc.mean(axis=1)
    weights = _weights(mask_bn, x_bnc)
    return (x_bnc * weights).sum(axis=1) / _count(weights).squeeze(-1)


def _centered(x: paddle.Tensor, axes: list[int], weights: paddle.Tensor | None) -> paddle.Tensor:
    if weights is None:
        return x - x.mean(axis=axes, keepdim=True)
    width = x.shape[-1] if -1 in axes else 1
    mean = (x * weights).sum(axis=axes, keepdim=True) / (_count(weights) * width)
    return (x - mean) * weights


def _weights(mask_bn: paddle.Tensor, like: paddle.Tensor) -> paddle.Tensor:
    return mask_bn.astype(like.dtype).unsqueeze(-1)


def _count(weights: paddle.Tensor) -> paddle.Tensor:
    """How many tokens count, ``[B, ..., 1, 1]``; at least 1, for a text without words."""
    return weights.sum(axis=-2, keepdim=True).clip(min=1.0)


def _length(x: paddle.Tensor, axis: int) -> int | paddle.Tensor:
    # A traced graph may not know the size yet: it is -1 or a variable there.
    size = x.shape[axis]
    if isinstance(size, int) and size >= 0:
        return size
    return paddle.shape(x)[axis].astype(x.dtype)


def covariance(x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
    """XᵀX / C of tokens ``[B, N, C]`` without their scalar mean: ``[B, C, C]``, float32 for 16-bit inputs."""
    with autocast_off():
        x_bnc = at_least_float32(x_bnc)
        weights = None if mask_bn is None else _weights(mask_bn, x_bnc)
        x_bnc = remove_scalar_mean(x_bnc, weights)
        # By the number of CHANNELS, not of tokens: the official code reads its sizes from the wrong axis, and
        # the square root that follows keeps the scale.
        return paddle.matmul(x_bnc, x_bnc, transpose_x=True) / x_bnc.shape[-1]


class MGCrP(nn.Layer):
    """Multi-head global cross-covariance pooling (SoT, arXiv 2104.10935, section 3.2).

    One projection gives every head two sets of features W and R ``[N, d]``; each loses its
    scalar mean; WᵀR / N is normalized by ``norm``, flattened, and the heads are joined.
    """

    def __init__(
        self, dim: int, num_heads: int, wr_dim: int, norm: MatrixNorm, qkv_bias: bool = False
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.wr_dim = wr_dim
        self.wr = linear(dim, 2 * num_heads * wr_dim, bias=qkv_bias)
        self.norm = norm
        self.out_features = num_heads * norm.out_features

    def forward(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``. Returns: ``[B, out_features]``, h·d² for whole matrices."""
        product = self.matrices(x_bnc, mask_bn)
        with autocast_off():
            pooled = self.norm(product.flatten(0, 1))
        return pooled.reshape([-1, self.out_features]).astype(x_bnc.dtype)

    def matrices(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """WᵀR / N of every head, not normalized.

        Args:
            x_bnc: ``[B, N, C]``.
            mask_bn: Which tokens count.

        Returns:
            ``[B, h, d, d]``, float32 for 16-bit inputs.
        """
        wr = self.wr(x_bnc)
        with autocast_off():
            wr = at_least_float32(wr).reshape([0, 0, 2, self.num_heads, self.wr_dim])
            w, r = wr.transpose([2, 0, 3, 1, 4]).unbind(0)
            if mask_bn is None:
                weights = None
                count = _length(x_bnc, 1)
            else:
                weights = _weights(mask_bn, w).unsqueeze(1)
                count = _count(weights)
            w = remove_scalar_mean(w, weights)
            r = remove_scalar_mean(r, weights)
            return paddle.matmul(w, r, transpose_x=True) / count


class CrossCovariance(nn.Layer):
    """Cross-covariance between two reductions of the words (So-ViT, arXiv 2104.10935v1).

    X = ReLU(BN(x Wₐ)) of width a = ``first`` and Y = ReLU(BN(x W_b)) of width b = ``second`` lose their
    means per channel; the result is (X Yᵀ / N)ᵀ, the matrix that the official code normalizes.
    """

    def __init__(self, dim: int, first: int, second: int) -> None:
        super().__init__()
        branches = []
        for width in (first, second):
            # Kaiming-normal by the number of outputs, as the official code starts them.
            reduce = linear(dim, width, bias=False, std=math.sqrt(2.0 / width))
            branches.append(nn.Sequential(reduce, batch_norm(width)))
        self.conv_dr_block = nn.Sequential(*branches)

    def _reduced(
        self, branch: nn.Sequential, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None
    ) -> paddle.Tensor:
        reduce, norm = branch
        y = reduce(x_bnc)
        # As one axis of tokens: BatchNorm takes no [B, N, C].
        flat = y.flatten(0, 1)
        if mask_bn is None or not self.training:
            return F.relu(norm(flat)).reshape([-1, *y.shape[1:]])
        # The statistics of a batch are those of the tokens that count.
        places = paddle.nonzero(mask_bn.flatten()).flatten()
        if len(places) == 0 and norm.reduce is None:
            return y * 0.0  # no statistics of nothing
        counted = F.relu(norm(paddle.index_select(flat, places)))
        return paddle.scatter(paddle.zeros_like(flat), places, counted).reshape(y.shape)

    def forward(self, x_bnc: paddle.Tensor, mask_bn: paddle.Tensor | None = None) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``. Returns: ``[B, b, a]``, float32 for 16-bit inputs."""
        x, y = (self._reduced(branch, x_bnc, mask_bn) for branch in self.conv_dr_block)
        with autocast_off():
            x, y = (at_least_float32(t) for t in (x, y))
            if mask_bn is None:
                weights = None
                count = _length(x_bnc, 1)
            else:
                weights = _weights(mask_bn, x)
                count = _count(weights)
            # Of each channel: a covariance in the strict sense, where SoT removes one number per head.
            x = _centered(x, [-2], weights)
            y = _centered(y, [-2], weights)
            return paddle.matmul(y, x, transpose_x=True) / count
