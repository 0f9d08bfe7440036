"""Global poolings of token features, of second order.

Legend: B batch, N tokens, C width, h heads, d width of one head's branch (``wr_dim``).
"""

import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn.batch_norm import batch_norm
from passl_sot.nn.initializers import linear
from passl_sot.nn.normalization import MatrixNorm
from passl_sot.nn.precision import at_least_float32, autocast_off


def remove_scalar_mean(x_bnc: paddle.Tensor) -> paddle.Tensor:
    """Subtract one number per sample: the mean over all tokens and all channels."""
    # As the official SoT code does. A true covariance would remove one mean per channel; So-ViT does.
    return x_bnc - x_bnc.mean(axis=[1, 2], keepdim=True)


def _length(x: paddle.Tensor, axis: int) -> int | paddle.Tensor:
    # A traced graph may not know the size yet: it is -1 or a variable there.
    size = x.shape[axis]
    if isinstance(size, int) and size >= 0:
        return size
    return paddle.shape(x)[axis].astype(x.dtype)


def covariance(x_bnc: paddle.Tensor) -> paddle.Tensor:
    """XᵀX / C of tokens ``[B, N, C]`` without their scalar mean: ``[B, C, C]``, float32 for 16-bit inputs."""
    with autocast_off():
        x_bnc = remove_scalar_mean(at_least_float32(x_bnc))
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

    def forward(self, x_bnc: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``. Returns: ``[B, out_features]``, h·d² for whole matrices."""
        wr = self.wr(x_bnc)
        with autocast_off():
            wr = at_least_float32(wr).reshape([0, 0, 2, self.num_heads, self.wr_dim])
            w, r = wr.transpose([2, 0, 3, 1, 4]).unbind(0)
            w = remove_scalar_mean(w.flatten(0, 1))
            r = remove_scalar_mean(r.flatten(0, 1))
            pooled = self.norm(paddle.matmul(w, r, transpose_x=True) / _length(x_bnc, 1))
        return pooled.reshape([-1, self.out_features]).astype(x_bnc.dtype)


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

    def _reduced(self, branch: nn.Sequential, x_bnc: paddle.Tensor) -> paddle.Tensor:
        reduce, norm = branch
        y = reduce(x_bnc)
        # As one axis of tokens: BatchNorm takes no [B, N, C].
        return F.relu(norm(y.flatten(0, 1))).reshape([-1, *y.shape[1:]])

    def forward(self, x_bnc: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``. Returns: ``[B, b, a]``, float32 for 16-bit inputs."""
        x, y = (self._reduced(branch, x_bnc) for branch in self.conv_dr_block)
        with autocast_off():
            x, y = (at_least_float32(t) for t in (x, y))
            # Of each channel: a covariance in the strict sense, where SoT removes one number per head.
            x = x - x.mean(axis=1, keepdim=True)
            y = y - y.mean(axis=1, keepdim=True)
            return paddle.matmul(y, x, transpose_x=True) / _length(x_bnc, 1)
