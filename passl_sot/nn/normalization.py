"""Normalizations of second-order (covariance) matrices, chosen by name in the configuration.

Every class takes matrices ``[B, r, c]`` and gives vectors ``[B, out_features]``, row by row
(``vec="full"``) or the upper triangle with the diagonal (``vec="triu"``, for symmetric matrices).
All are islands of float32: 16-bit inputs are cast up and the result is cast back.

Legend: P the matrix, u and v its left and right singular vectors, s the singular value, d its side.
"""

import logging
import math
from typing import Any, Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.config import Count, Positive, Registry, Share
from passl_sot.nn.precision import at_least_float32, autocast_off

Vec = Literal["full", "triu"]
NORMALIZATIONS = Registry("normalization", "passl_sot.nn")

_LOG = logging.getLogger(__name__)
_UNIT_EPS = 1e-12  # torch.nn.functional.normalize's; shorter vectors have no direction here


def safe_unit(x: paddle.Tensor, axis: int = 1) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Vectors along an axis divided by their length, with finite gradients at and near zero; and the lengths.

    Vectors shorter than 1e-12 become exactly zero and get zero gradient.
    """
    # Divided by 1e-12, as PyTorch does, short ones would get gradients of 1e12 per step, which overflow.
    square = (x * x).sum(axis=axis, keepdim=True)
    long_enough = (square > _UNIT_EPS**2).astype(x.dtype)
    # Too short ones are given the length 1 before the root, whose slope at 0 is infinite.
    length = paddle.sqrt(square * long_enough + (1.0 - long_enough))
    return x * (long_enough / length), length * long_enough


def _power(s: paddle.Tensor, exponent: float) -> paddle.Tensor:
    # For s >= 0, with zero (not infinite) gradient where s is 0.
    positive = (s > 0).astype(s.dtype)
    base = s + (1.0 - positive)
    if exponent == 0.5:
        return paddle.sqrt(base) * positive
    # As a tensor: Paddle rounds a plain exponent to float32 even for float64 bases.
    return paddle.pow(base, paddle.full([], exponent, base.dtype)) * positive


class MatrixNorm(nn.Layer):
    """Base of the normalizations, and by itself the identity (``normalization: null``).

    Args:
        input_dim: The side d, which the head that owns the layer passes and a configuration leaves out.
        vec: "full" matrices row by row, or the upper triangle with the diagonal ("triu").
    """

    def __init__(self, *, input_dim: int | None = None, vec: Vec = "full") -> None:
        super().__init__()
        if input_dim is None or input_dim < 1:
            raise ValueError(f"{type(self).__name__}: input_dim must be at least 1, got {input_dim}")
        self.input_dim = input_dim
        self.vec = vec
        self.out_features = input_dim**2
        if vec == "triu":
            self.out_features = input_dim * (input_dim + 1) // 2

    def _normalize(self, p_brc: paddle.Tensor) -> paddle.Tensor:
        return p_brc

    def matrix(self, p_brc: paddle.Tensor) -> paddle.Tensor:
        """The normalized matrices, without dropout; float32 for 16-bit inputs.

        Unlike ``forward`` this takes rectangular ``[B, r, d]`` too, where the normalization has a meaning.
        """
        with autocast_off():
            return self._normalize(at_least_float32(p_brc))

    def forward(self, p_brc: paddle.Tensor) -> paddle.Tensor:
        """Matrices to vectors ``[B, out_features]``, of the input's type.

        Args:
            p_brc: ``[B, d, d]``.
        """
        with autocast_off():
            vector = self.matrix(p_brc).flatten(1)
            if self.vec == "triu":
                # Not kept as a buffer: Layer.to(dtype) would make its integers floats.
                # By NumPy, as ONNX has no such operator.
                row, column = np.triu_indices(self.input_dim)
                index = paddle.to_tensor(row * self.input_dim + column)
                vector = paddle.index_select(vector, index, axis=1)
        return vector.astype(p_brc.dtype)


@NORMALIZATIONS.register()
class SvPN(MatrixNorm):
    """Singular-value power normalization by power iteration (SoT, arXiv 2104.10935).

    The K leading singular triples come from ``num_iters`` steps u = Pv/|Pv|, v = Pᵀu/|Pᵀu|
    from a start vector v₀, with deflation P ← P - s u vᵀ between them; every round starts from
    the same v₀. The result is Σ sₖ^α uₖ vₖᵀ + E / (s_K^(1-α) + 1e-5), E being the remainder of P.

    Differences from the official code: values and gradients stay finite for zero and
    rank-deficient matrices, and 16-bit inputs are computed in float32.

    Other arguments are those of ``MatrixNorm``.

    Args:
        alpha: The power α, in (0, 1].
        num_iters: Steps for each triple.
        num_sv: Number K of triples; None takes all d and leaves no remainder.
        init_weight: "learn" makes v₀ a parameter (normal, mean 0, std 1), "one" all ones.
        dropout: Dropout on the resulting vector.
    """

    def __init__(
        self,
        *,
        input_dim: int | None = None,
        alpha: float = 0.5,
        num_iters: Count = 1,
        num_sv: Count | None = 1,
        init_weight: Literal["learn", "one"] = "learn",
        vec: Vec = "full",
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(input_dim=input_dim, vec=vec)
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"SvPN: alpha must lie in (0, 1], got {alpha}")
        if num_sv is not None and not 1 <= num_sv <= self.input_dim:
            raise ValueError(f"SvPN: num_sv must lie in 1..{self.input_dim} or be null, got {num_sv}")
        # With one iteration and more than one triple the deflated matrix sends v₀ to exactly zero.
        if num_iters == 1 and num_sv != 1:
            _LOG.warning(
                "SvPN: with num_iters 1 every direction after the first is rounding noise; use num_iters >= 2"
            )
        self.alpha = alpha
        self.num_iters = num_iters
        self.num_sv = num_sv
        self.drop = nn.Dropout(dropout)
        if init_weight == "learn":
            normal = nn.initializer.Normal(0.0, 1.0)
            self.weight = self.create_parameter([self.input_dim], default_initializer=normal)
        else:
            ones = paddle.ones([self.input_dim], dtype=paddle.get_default_dtype())
            self.register_buffer("weight", ones, persistable=False)

    def _normalize(self, p_brc: paddle.Tensor) -> paddle.Tensor:
        eps = 1e-5
        count = self.num_sv or self.input_dim
        total = None
        rest = p_brc
        for k in range(count):
            v = self.weight.astype(p_brc.dtype).unsqueeze(-1)
            for _ in range(self.num_iters):
                u, _length = safe_unit(paddle.matmul(rest, v))
                # |Pᵀu| is uᵀPv of the v it gives: the singular value comes for free.
                v, s = safe_unit(paddle.matmul(rest, u, transpose_x=True))
            # Not a matrix product: with an inner axis of 1 that of oneDNN, the default of exported programs,
            # reads memory that nobody wrote.
            outer = u * v.transpose([0, 2, 1])
            if k == count - 1 and self.num_sv is not None:
                # ε s^α u vᵀ / (s^(1-α) + ε) is s^α u vᵀ less its part of the remainder's term, without
                # subtracting two nearly equal numbers.
                divisor = _power(s, 1.0 - self.alpha) + eps
                term = (rest + outer * (_power(s, self.alpha) * eps)) / divisor
            else:
                term = outer * _power(s, self.alpha)
                rest = rest - outer * s
            total = term if total is None else total + term
        return total

    def forward(self, p_brc: paddle.Tensor) -> paddle.Tensor:
        """Args: p_brc: ``[B, d, d]``. Returns: ``[B, out_features]``, of the input's type."""
        return self.drop(super().forward(p_brc))


@NORMALIZATIONS.register()
class ISQRTCOV(MatrixNorm):
    """Matrix square root of a covariance by Newton-Schulz steps (iSQRT-COV, arXiv 1712.01034).

    Only for symmetric positive semi-definite matrices, that is for GCP: Σ is divided by its
    trace, ``num_iters`` coupled steps approach the root, which is multiplied by √trace.
    A matrix whose trace is at most 1e-12 gives zeros.
    """

    # 3 steps as in the official head; of a symmetric result the upper triangle says it all.
    def __init__(self, *, input_dim: int | None = None, num_iters: Count = 3, vec: Vec = "triu") -> None:
        super().__init__(input_dim=input_dim, vec=vec)
        self.num_iters = num_iters

    def _normalize(self, p_brc: paddle.Tensor) -> paddle.Tensor:
        eye = paddle.eye(self.input_dim, dtype=p_brc.dtype)
        # Without a trace there is nothing to divide by: such a matrix gives zeros.
        trace = (p_brc * eye).sum(axis=[1, 2], keepdim=True)
        usable = (trace > _UNIT_EPS).astype(p_brc.dtype)
        safe = trace * usable + (1.0 - usable)
        y = p_brc * (usable / safe)
        # Z starts as the identity, so that the first step has no product by it.
        z = 0.5 * (3.0 * eye - y)
        y = paddle.matmul(y, z)
        for step in range(1, self.num_iters):
            half = 0.5 * (3.0 * eye - paddle.matmul(z, y))
            y = paddle.matmul(y, half)
            if step < self.num_iters - 1:  # the last Z is never used
                z = paddle.matmul(half, z)
        return y * paddle.sqrt(safe)


@NORMALIZATIONS.register()
class EPN(MatrixNorm):
    """Element-wise power normalization: sign(x)·√(|x| + ``eps``), then unit columns (along axis 1)."""

    def __init__(self, *, input_dim: int | None = None, eps: Positive = 1e-8, vec: Vec = "full") -> None:
        super().__init__(input_dim=input_dim, vec=vec)
        self.eps = eps

    def _normalize(self, p_brc: paddle.Tensor) -> paddle.Tensor:
        root = paddle.sign(p_brc) * paddle.sqrt(paddle.abs(p_brc) + self.eps)
        return safe_unit(root, axis=1)[0]


@NORMALIZATIONS.register()
class SqrtD(MatrixNorm):
    """Multiplication by 1/√d."""

    def _normalize(self, p_brc: paddle.Tensor) -> paddle.Tensor:
        return p_brc * self.input_dim**-0.5


@NORMALIZATIONS.register()
class SqrtT(MatrixNorm):
    """Multiplication by a learned scalar (``factor``) that starts at 1/√d."""

    def __init__(self, *, input_dim: int | None = None, vec: Vec = "full") -> None:
        super().__init__(input_dim=input_dim, vec=vec)
        start = nn.initializer.Constant(1.0 / math.sqrt(self.input_dim))
        self.factor = self.create_parameter([], default_initializer=start)

    def _normalize(self, p_brc: paddle.Tensor) -> paddle.Tensor:
        return p_brc * self.factor.astype(p_brc.dtype)


@NORMALIZATIONS.register()
class LN(MatrixNorm):
    """LayerNorm over each row of the matrix (its last axis), with learned scale and shift; ``eps`` is its."""

    def __init__(self, *, input_dim: int | None = None, eps: Positive = 1e-5, vec: Vec = "full") -> None:
        super().__init__(input_dim=input_dim, vec=vec)
        self.eps = eps
        one = nn.initializer.Constant(1.0)
        self.weight = self.create_parameter([self.input_dim], default_initializer=one)
        self.bias = self.create_parameter([self.input_dim], is_bias=True)

    def _normalize(self, p_brc: paddle.Tensor) -> paddle.Tensor:
        weight = self.weight.astype(p_brc.dtype)
        bias = self.bias.astype(p_brc.dtype)
        return F.layer_norm(p_brc, [self.input_dim], weight, bias, self.eps)


def build_normalization(cfg: dict[str, Any] | None, input_dim: int) -> MatrixNorm:
    """Build the normalization that a node ``{name: ...}`` describes; None gives the identity."""
    if cfg is None:
        return MatrixNorm(input_dim=input_dim)
    return NORMALIZATIONS.build(cfg, input_dim=input_dim)
