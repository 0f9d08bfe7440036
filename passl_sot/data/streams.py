"""NumPy's generators for many images at once, as compiled loops: SeedSequence, PCG64 and two kinds of draws.

A stream is a row of six numbers, uint64: state (high, low), increment (high, low), whether half of a number
is left over, and that half. The numbers are NumPy's. Sources: O'Neill, "PCG: A Family of Simple Fast
Space-Efficient Statistically Good Algorithms for Random Number Generation", 2014 (XSL-RR 128/64), and
"Developing a seed_seq Alternative", 2015; Lemire, "Fast Random Integer Generation in an Interval", 2019.
"""

from __future__ import annotations

import numpy as np

from passl_sot.imageio.kernels.jit import compiled

__all__ = ["draw_doubles", "draw_integers", "expand", "seed"]

_WORD, _LONG = np.uint32, np.uint64
_INIT_A, _MULT_A, _INIT_B, _MULT_B = (
    _WORD(0x43B0D7E5),
    _WORD(0x931E8875),
    _WORD(0x8B51F9DD),
    _WORD(0x58F38DED),
)
_MIX_L, _MIX_R = _WORD(0xCA01F9DD), _WORD(0x4973F715)
_HALF_WORD, _HALF_LONG = _WORD(16), _LONG(32)
_LOW_HALF = _LONG(0xFFFFFFFF)
_MULT_HIGH, _MULT_LOW = _LONG(2549297995355413924), _LONG(4865540595714422341)
_DOUBLE = 1.0 / 9007199254740992.0  # 2 to the -53


@compiled
def _product_high(a, b):
    """The upper 64 bits of a product."""
    a0, a1 = a & _LOW_HALF, a >> _HALF_LONG
    b0, b1 = b & _LOW_HALF, b >> _HALF_LONG
    middle = a1 * b0 + ((a0 * b0) >> _HALF_LONG)
    other = a0 * b1 + (middle & _LOW_HALF)
    return a1 * b1 + (middle >> _HALF_LONG) + (other >> _HALF_LONG)


@compiled
def _step(stream):
    high, low = stream[0], stream[1]
    product = low * _MULT_LOW
    new_low = product + stream[3]
    carry = _LONG(new_low < product)
    stream[0] = _product_high(low, _MULT_LOW) + high * _MULT_LOW + low * _MULT_HIGH + stream[2] + carry
    stream[1] = new_low


@compiled
def _next(stream):
    _step(stream)
    value, turn = stream[0] ^ stream[1], stream[0] >> _LONG(58)
    return (value >> turn) | (value << ((_LONG(64) - turn) & _LONG(63)))


@compiled
def _next_half(stream):
    if stream[4]:
        stream[4] = _LONG(0)
        return stream[5]
    value = _next(stream)
    stream[4], stream[5] = _LONG(1), value >> _HALF_LONG
    return value & _LOW_HALF


@compiled
def _hash(value, constant, factor):
    """A hashed word, and the constant for the next one."""
    value = _WORD(value ^ constant)
    constant = _WORD(constant * factor)
    value = _WORD(value * constant)
    return _WORD(value ^ (value >> _HALF_WORD)), constant


@compiled
def _mix(a, b):
    value = _WORD(_WORD(_MIX_L * a) - _WORD(_MIX_R * b))
    return _WORD(value ^ (value >> _HALF_WORD))


@compiled
def expand(words, count, out):
    """`numpy.random.SeedSequence(words).generate_state(4, numpy.uint64)`.

    Args:
        words: uint32 [W] with W of at least 4; what lies beyond `count` is 0.
        count: How many there are.
        out: uint64 [4].
    """
    pool = np.empty(4, np.uint32)
    constant = _INIT_A
    for k in range(4):
        pool[k], constant = _hash(words[k], constant, _MULT_A)
    for source in range(max(4, count)):
        for k in range(4):
            if source != k:
                word = pool[source] if source < 4 else words[source]
                hashed, constant = _hash(word, constant, _MULT_A)
                pool[k] = _mix(pool[k], hashed)
    constant = _INIT_B
    for k in range(4):
        low, constant = _hash(pool[2 * k % 4], constant, _MULT_B)
        high, constant = _hash(pool[(2 * k + 1) % 4], constant, _MULT_B)
        out[k] = _LONG(low) | (_LONG(high) << _HALF_LONG)


@compiled
def seed(words, counts, streams):
    """Streams as of `numpy.random.PCG64(numpy.random.SeedSequence(words))`.

    Args:
        words: uint32 [B, W], each as of `expand`.
        counts: How many words each has, int64 [B].
        streams: Where they are written, uint64 [B, 6].
    """
    state = np.empty(4, np.uint64)
    for i in range(len(words)):
        expand(words[i], counts[i], state)
        stream, high, low = streams[i], state[2], state[3]
        stream[2], stream[3] = (high << _LONG(1)) | (low >> _LONG(63)), (low << _LONG(1)) | _LONG(1)
        stream[0] = stream[1] = stream[4] = stream[5] = _LONG(0)
        _step(stream)
        total = stream[1] + state[1]
        stream[0] += state[0] + _LONG(total < state[1])
        stream[1] = total
        _step(stream)


@compiled
def draw_doubles(streams, out):
    """One number of [0, 1) from each, as of `Generator.random()`: float64 [B]."""
    for i in range(len(streams)):
        out[i] = (_next(streams[i]) >> _LONG(11)) * _DOUBLE


@compiled
def draw_integers(streams, high, out):
    """One of 0 to high - 1 from each, as of `Generator.integers(high)`: int64 [B]; high is 1 to 2^32 - 1."""
    if high == 1:
        out[:] = 0
        return
    ends = _LONG(high)
    least = (_LONG(4294967296) - ends) % ends
    for i in range(len(streams)):
        product = _next_half(streams[i]) * ends
        while (product & _LOW_HALF) < least:
            product = _next_half(streams[i]) * ends
        out[i] = product >> _HALF_LONG
