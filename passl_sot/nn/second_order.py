"""Global poolings of token features, of first and second order.

Legend: B batch, N tokens, C width, h heads, d width of one head's branch (``wr_dim``).
"""

import paddle
from paddle import nn

from passl_sot.nn.initializers import linear
from passl_sot.nn.normalization import MatrixNorm
from passl_sot.nn.precision import at_least_float32, autocast_off

__all__ = ["GAP", "GCP", "MGCrP", "remove_scalar_mean"]


def remove_scalar_mean(x_bnc: paddle.Tensor) -> paddle.Tensor:
    """Subtract one number per sample: the mean over all tokens and all channels.

    This is what the official SoT code computes. (A true covariance would remove one mean per
    channel; So-ViT does.)
    """
    return x_bnc - x_bnc.mean(axis=[1, 2], keepdim=True)


def _length(x: paddle.Tensor, axis: int) -> int | paddle.Tensor:
    """Size along ``axis``, also where a traced graph does not know it yet."""
    size = x.shape[axis]
    return size if size >= 0 else paddle.shape(x)[axis].astype(x.dtype)


class GAP(nn.Layer):
    """Global average pooling over the tokens."""

    def forward(self, x_bnc: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``. Returns: ``[B, C]``."""
        return x_bnc.mean(axis=1)


class GCP(nn.Layer):
    """Global covariance pooling, before normalisation.

    XᵀX of the tokens after removing their scalar mean. Divided by the number of CHANNELS, not
    of tokens: the official code reads its sizes from the wrong axis, and as the square root
    that follows keeps the scale, matching it means dividing as it does.
    """

    def forward(self, x_bnc: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, c]``. Returns: ``[B, c, c]``, float32 for 16-bit inputs."""
        with autocast_off():
            x_bnc = remove_scalar_mean(at_least_float32(x_bnc))
            return paddle.matmul(x_bnc, x_bnc, transpose_x=True) / x_bnc.shape[-1]


class MGCrP(nn.Layer):
    """Multi-head global cross-covariance pooling (SoT, arXiv 2104.10935, section 3.2).

    One projection gives every head two sets of features W and R ``[N, d]``; each loses its
    scalar mean; WᵀR / N is normalised, flattened, and the heads are joined.

    Args:
        dim: Width C of the tokens.
        num_heads: Heads h.
        wr_dim: Width d of W and R.
        norm: Normalisation for matrices of side d.
        qkv_bias: Whether the projection has a bias.

    Attributes:
        out_features: Width of the result, h times the normalisation's.
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

    def cross_covariance(self, x_bnc: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``. Returns: ``[B·h, d, d]``, float32 for 16-bit inputs."""
        wr = self.wr(x_bnc)
        with autocast_off():
            wr = at_least_float32(wr).reshape([0, 0, 2, self.num_heads, self.wr_dim])
            w, r = wr.transpose([2, 0, 3, 1, 4]).unbind(0)
            w = remove_scalar_mean(w.flatten(0, 1))
            r = remove_scalar_mean(r.flatten(0, 1))
            return paddle.matmul(w, r, transpose_x=True) / _length(x_bnc, 1)

    def forward(self, x_bnc: paddle.Tensor) -> paddle.Tensor:
        """Args: x_bnc: ``[B, N, C]``. Returns: ``[B, h·d²]``."""
        pooled = self.norm(self.cross_covariance(x_bnc))
        return pooled.reshape([-1, self.out_features]).astype(x_bnc.dtype)
