"""Types that NumPy lacks, in safetensors and in PyTorch's files: each of their values is exact in float32."""

import math

import numpy as np
import pytest

from passl_sot.weights.checkpoint import read_weights
from passl_sot.weights.find import find_state_dict, read_source


def value_of(code: int, exponents: int, fractions: int) -> float:
    """A number of so many bits, by the definition of IEEE 754, but for infinities and NaN."""
    bias = 2 ** (exponents - 1) - 1
    exponent = code >> fractions & 2**exponents - 1
    fraction = (code & 2**fractions - 1) / 2**fractions
    size = math.ldexp(1 + fraction, exponent - bias) if exponent else math.ldexp(fraction, 1 - bias)
    return -size if code >> exponents + fractions else size


def special(code: int, dtype: str) -> float | None:
    """Infinity or NaN, where the code is one."""
    if dtype == "F8_E4M3":  # no infinities, and a NaN for each sign
        return math.nan if code & 0x7F == 0x7F else None
    sign, size = (code >> 15, code & 0x7FFF) if dtype == "BF16" else (code >> 7, code & 0x7F)
    infinity = 0x7F80 if dtype == "BF16" else 0x7C
    if size == infinity:
        return -math.inf if sign else math.inf
    return math.nan if size > infinity else None


@pytest.mark.parametrize(
    ("dtype", "kind", "exponents", "fractions", "largest"),
    [
        ("BF16", "u2", 8, 7, 3.3895313892515355e38),
        ("F8_E4M3", "u1", 4, 3, 448),
        ("F8_E5M2", "u1", 5, 2, 57344),
    ],
)
def test_every_value_is_exact(writer, tmp_path, dtype, kind, exponents, fractions, largest):
    bits = np.arange(2 ** (8 * np.dtype(kind).itemsize), dtype=kind).reshape(16, -1)
    wanted = [
        value_of(code, exponents, fractions) if special(code, dtype) is None else special(code, dtype)
        for code in bits.ravel().tolist()
    ]
    path = writer.write_safetensors(tmp_path / "a.safetensors", {"w": bits}, dtype)
    for arrays in (read_weights(path)[0], find_state_dict(read_source(path)).arrays):
        got = arrays["w"]
        assert got.dtype == np.float32 and got.shape == bits.shape
        np.testing.assert_array_equal(got.ravel(), np.array(wanted, "f4"))
        assert np.nanmax(got[np.isfinite(got)]) == largest
